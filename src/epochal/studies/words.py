"""The words of a study: no more than its numbers say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from epochal.families import family_names, get_family
from epochal.report.text.plan import critical_text, verdict_text
from epochal.scaling.optimum import LadderChoice
from epochal.scaling.options import OVERFIT_SHARE
from epochal.scaling.planner import PlanReport
from epochal.scaling.points import Points
from epochal.scaling.result import FitReport
from epochal.studies.regularise import CLEAR, Tried, best_setting
from epochal.sweeps.record import RunState
from epochal.units import format_count, format_epochs


def held_out_words(
    family: str, seen: float, predicted: float, interval: tuple[float, float], *, early: bool
) -> str:
    """What a held-out run says of the prediction."""
    low, high = interval
    off = 100 * (predicted / seen - 1)
    inside = "inside" if low <= seen <= high else "outside"
    said = "too early to foretell" if early else f"predicted {predicted:.3f}"
    end = "" if early else f" ({off:+.1f} %)"
    missed = "" if inside == "inside" else ": do not trust this law beyond its runs"
    return (
        f"{get_family(family).short}: {said} ({low:.3f} to {high:.3f}), seen {seen:.3f}, "
        f"{inside} the interval{end}{missed}"
    )


def choice_words(family: str, choice: LadderChoice, unique: int) -> str:
    """Family, size, epochs and length, in one phrase."""
    if choice.tokens < unique:
        length = f"once over {format_count(choice.tokens)} of the {format_count(unique)}"
    else:
        length = f"{format_epochs(choice.epochs)} of {format_count(unique)}"
    return (
        f"{get_family(family).short}, {choice.name} ({format_count(choice.params)} parameters), "
        f"{length} unique tokens"
    )


def reach_words(planned: PlanReport, report: FitReport, early: Mapping[str, float]) -> str:
    """Whether the lead changes within the compute up to which the laws are trusted."""
    if early:
        who = " and ".join(get_family(family).short for family in early)
        return (
            f"The probes of {who} had hardly begun to learn from context, so nothing is said of a "
            "crossing; give more time."
        )
    if not planned.pairs:
        return "There is no law of another family, so no crossing can be given."
    texts = [critical_text(pair, planned.flops) for pair in planned.pairs]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in texts)


def measured_words(seen: Mapping[str, float], difference: tuple[float, float], flops: float) -> str:
    """Which family was better in the held-out runs, no full stop."""
    nats, error = difference
    figures = f"AR {seen['ar']:.3f}, diffusion {seen['mdm']:.3f} nats per token"
    at = f"measured at {format_count(flops)} FLOPs"
    winner = measured_winner(difference)
    if winner is None:
        return f"Too close to call, {at} ({figures}; difference {nats:+.3f} ± {error:.3f})"
    lead = get_family(winner).short
    return f"{lead[0].upper()}{lead[1:]} by {abs(nats):.3f} nats per token, {at} ({figures})"


def measured_winner(difference: tuple[float, float]) -> str | None:
    """The better family of the held-out runs; None if it is not clear."""
    nats, error = difference
    if abs(nats) <= max(CLEAR, 2 * error):
        return None
    return "mdm" if nats < 0 else "ar"


def overfitting_words(points: Points) -> tuple[bool, list[str]]:
    """(whether both families overfit the whole text, what each did on which tokens)."""
    runs: dict[tuple[str, float, float], list[tuple[float, float]]] = defaultdict(list)
    for i, family in enumerate(points.family):
        unique = float(points.unique_tokens[i])
        key = family, unique, float(points.params[i])
        runs[key].append((float(points.tokens[i]), float(points.loss[i])))
    turned: dict[tuple[str, float], list[float]] = defaultdict(list)
    for (family, unique, _), ladder in runs.items():
        tokens, lowest = min(ladder, key=lambda pair: pair[1])
        if any(d > tokens and loss > lowest * (1 + OVERFIT_SHARE) for d, loss in ladder):
            turned[family, unique].append(tokens / unique)
    words = [
        f"{get_family(family).short} overfits {format_count(unique)} unique tokens: of the lengths "
        f"tried {min(epochs):.3g} epochs were best"
        + (f" to {max(epochs):.3g}, by size" if max(epochs) > 1.01 * min(epochs) else "")
        for (family, unique), epochs in sorted(turned.items())
    ]
    whole = float(points.unique_tokens.max())
    return all((family, whole) in turned for family in family_names()), words


def without_law(states: Sequence[RunState], tried: Sequence[Tried]) -> tuple[str, str]:
    """(verdict, recommendation) where the runs determine no law."""
    seen = [(state.nll, state.name) for state in states if state.nll is not None]
    seen += [(one.nll, one.run) for one in tried if one.nll is not None]
    if not seen:
        return "No run was finished, so nothing can be said.", "Give a larger --budget."
    nll, name = min(seen)
    return (
        "The runs do not determine a law, so nothing is predicted.",
        f"The best run seen is {name} with {nll:.3f} nats per token.",
    )


def with_laws(
    planned: PlanReport,
    report: FitReport,
    sizes: Mapping[str, str],
    tried: Sequence[Tried],
    held_out: Sequence[Mapping[str, Any]],
    difference: tuple[float, float] | None,
    early: Mapping[str, float],
    *,
    both_overfit: bool = False,
) -> tuple[str, str]:
    """(verdict, recommendation).

    Where the held-out runs were trained at the planned compute (`difference` is then theirs),
    they decide, not the laws.
    """
    taken = {
        one.family: best_setting(tried, one.family, one.size.epochs)
        for one in planned.families
        if one.size is not None
    }

    def ratio(family: str) -> float:
        found = taken.get(family)
        return 1.0 if found is None else found.ratio

    winner, turned = planned.winner, False
    by_loss = sorted(planned.families, key=lambda p: p.loss * ratio(p.family))
    seen = {str(result["family"]): float(result["seen"]) for result in held_out}
    if difference is not None:
        winner = measured_winner(difference)
        by_loss = sorted(planned.families, key=lambda p: seen[p.family])
        first = measured_words(seen, difference, planned.flops)
    elif early:
        winner = None
        figures = ", ".join(
            f"{get_family(p.family).short} {p.loss:.3f}"
            for p in planned.families
            if p.family not in early
        )
        first = f"Too early to call (foretold: {figures or 'nothing'})"
    else:
        # What regularisation brought is no part of the laws; it may turn the order round.
        turned = winner is not None and by_loss[0].family != winner
        first = verdict_text(planned, short=True)
    order = by_loss if turned else sorted(by_loss, key=lambda p: p.family != winner)
    verdict = f"{first}. {reach_words(planned, report, early)}"
    if both_overfit:
        verdict += " Both overfit the whole text, so training longer helps neither."
    best, choice = order[0], order[0].size
    if choice is None:
        return verdict, "No size that was measured is near the optimum."
    named = replace(choice, name=sizes.get(choice.name, choice.name))
    phrase = choice_words(best.family, named, int(planned.unique_tokens))
    lead = "Train" if winner else "Neither is clearly better; the lower loss is that of"
    if turned:
        lead = "With what regularisation brought, the order turns round, so it is close; train"
    setting = taken.get(best.family)
    with_it = f", with {setting.setting}" if setting else ""
    text = f"{lead} {phrase}{with_it}: predicted {choice.loss * ratio(best.family):.3f}"
    measured = difference is not None
    text += f", seen {seen[best.family]:.3f} nats per token." if measured else " nats per token."
    if any(r["family"] == best.family and not r["inside"] for r in held_out):
        text += " Its check missed the prediction, so take this as a guess, and give more time."
    return verdict, text

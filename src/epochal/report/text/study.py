"""English about a study: the verdict, the recommendation, its checks, its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from epochal.families import get_family
from epochal.report.study import (
    Basis,
    HeldOutResult,
    Recommendation,
    RegularisationTrial,
    StageNote,
    StudyNote,
    StudyResult,
)
from epochal.report.text import Text, comparison, describe, plan
from epochal.report.text.data import effective_tokens
from epochal.report.text.format import flops, listed, sentence
from epochal.report.text.tune import certificate, neighbour_text
from epochal.results import Note, NoteCode, to_json
from epochal.scaling.optimum import LadderChoice
from epochal.units import format_count, format_epochs


def verdict(result: StudyResult) -> str:
    """Which family is better, and whether that changes with more compute."""
    chosen, planned = result.recommendation, result.plan
    if chosen.basis == Basis.NO_LAW or planned is None:
        if chosen.best_run is None:
            return "No run was finished, so there is no result."
        return "The runs do not determine a law, so nothing is predicted."
    if chosen.basis == Basis.MEASURED:
        first = _measured(result)
    elif chosen.basis == Basis.TOO_EARLY:
        below = result.below_unigram_baseline
        losses = {one.family: one.loss for one in planned.families if one.family not in below}
        known = [f"{_short(family)} {loss:.3f}" for family, loss in losses.items()]
        first = f"Too early to call (predicted: {', '.join(known) or 'nothing'})"
    else:
        first = plan.verdict_text(planned, short=True)
    text = f"{first}. {_crossing(result)}"
    if len(result.overfit) == len(planned.families):
        who = "Both" if len(result.overfit) == 2 else "All families"
        text += f" {who} overfit the whole text, so training longer does not help."
    return text


def _measured(result: StudyResult) -> str:
    """Which family was better in the held-out runs, without a full stop."""
    held_out = result.held_out
    assert held_out is not None
    seen = held_out.seen
    figures = ", ".join(f"{_short(family)} {nll:.3f}" for family, nll in seen.items())
    figures += " nats per token"
    at = f"measured at {flops(held_out.flops)} FLOPs"
    winner = result.recommendation.winner
    other, (nats, error) = min(held_out.differences.items(), key=lambda item: abs(item[1][0]))
    if winner is None:
        return f"Too close to call, {at} ({figures}; difference {nats:.3f} ± {error:.3f})"
    over = "" if len(seen) == 2 else f" over {_short(other)}"
    return f"{_short(winner)} by {abs(nats):.3f} nats per token{over}, {at} ({figures})"


def _crossing(result: StudyResult) -> str:
    """Whether the lead changes within the compute up to which the laws are trusted."""
    if result.below_unigram_baseline:
        who = listed([_short(family) for family in result.below_unigram_baseline])
        return (
            f"The probes of {who} do not beat the unigram baseline yet, so a crossing cannot be "
            "predicted; give more time."
        )
    if result.plan is None or not result.plan.pairs:
        return "There is a law of one family only, so a crossing cannot be predicted."
    flops = result.plan.flops
    texts = [plan.critical_text(pair, flops) for pair in result.plan.pairs]
    return " ".join(f"{sentence(text)}." for text in texts)


def recommendation(result: StudyResult) -> str:
    """What to train."""
    chosen = result.recommendation
    if chosen.basis == Basis.NO_LAW:
        if chosen.best_run is None:
            return "Give a larger budget."
        return f"The best run is {chosen.best_run} with {chosen.best_nll:.3f} nats per token."
    if chosen.choice is None or chosen.family is None or result.plan is None:
        return "No size that was measured is near the optimum."
    unique = int(result.plan.unique_tokens)
    text = f"{_lead(chosen)} {_choice_text(chosen.family, chosen.choice, unique)}"
    if chosen.setting:
        text += f", with {chosen.setting}"
    text += f": predicted {chosen.predicted:.3f}"
    if chosen.seen is not None:
        text += f", measured {chosen.seen:.3f}"
    text += " nats per token."
    if chosen.check_missed:
        text += " Its check missed the prediction: take this as a guess, and give more time."
    return text


def _lead(chosen: Recommendation) -> str:
    if chosen.reversed_by_regularisation:
        return "Regularisation reverses the ranking, so the families are close. Train"
    return "Train" if chosen.winner else "No family is clearly better; the lowest loss has"


def _choice_text(family: str, choice: LadderChoice, unique: int) -> str:
    """Family, size, epochs and length, in one phrase."""
    if choice.tokens < unique:
        length = f"once over {format_count(choice.tokens)} of the {format_count(unique)}"
    else:
        length = f"{format_epochs(choice.epochs)} of {format_count(unique)}"
    size = f"{choice.name} ({format_count(choice.params)} parameters)"
    return f"{_short(family)}, {size}, {length} unique tokens"


def _held_out_text(result: HeldOutResult) -> str:
    """How a held-out run compares with its prediction."""
    low, high = result.interval
    inside = "inside" if result.inside else "outside"
    measured = f"measured {result.seen:.3f}, {inside} the interval"
    if result.below_unigram_baseline:
        text = f"not predictable yet ({low:.3f} to {high:.3f}), {measured}"
    else:
        off = 100 * (result.predicted / result.seen - 1)
        text = f"predicted {result.predicted:.3f} ({low:.3f} to {high:.3f}), {measured}"
        text += f" ({off:+.1f} %)"
    if not result.inside:
        text += ": do not extrapolate this law"
    if result.setting:
        text += f", with {result.setting} (the law alone: {result.law_prediction:.3f})"
    return f"{_short(result.family)}: {text}"


def check_texts(result: StudyResult) -> list[tuple[bool | None, str]]:
    """(whether the prediction held; False if it was not checked, None for no prediction, text)."""
    held_out = result.held_out
    if held_out is None:
        return []
    checks: list[tuple[bool | None, str]] = [
        (one.inside, _held_out_text(one)) for one in held_out.results
    ]
    for run, reason in held_out.not_checked.items():
        why = "not finished" if reason is None else describe(reason)
        checks.append((False, f"{run} was not checked: {why}"))
    if held_out.comparison is not None:
        checks.append((None, f"Side by side: {comparison.verdict(held_out.comparison)}"))
    return checks


def _trial_text(trial: RegularisationTrial) -> str:
    """What a setting brought at a family's best probe."""
    title = f"{_short(trial.family)}, {trial.setting}"
    if trial.nll is None or trial.difference is None or trial.error is None:
        return f"{title}: not tried ({describe(trial.reason) if trial.reason else 'not finished'})"
    length = f"{trial.epochs:.3g} epochs of {format_count(trial.unique_tokens)} tokens"
    if trial.epochs < 1:
        length = f"once over {format_count(round(trial.epochs * trial.unique_tokens))} tokens"
    outcome = "better" if trial.improved else "not clearly better"
    return (
        f"{title}: {trial.nll:.3f} instead of {trial.baseline_nll:.3f} ({trial.difference:+.3f} ± "
        f"{trial.error:.3f}; {trial.size}, {length}), {outcome}"
    )


def note_texts(result: StudyResult) -> list[str]:
    """The notes of the study, its trials and its plan."""
    texts = [*map(describe, result.notes), *_tuned_texts(result)]
    texts += map(_trial_text, result.regularisation)
    if result.plan is not None:
        if result.plan.effective is not None:
            texts.append(f"U is U_effective: {effective_tokens(result.plan.effective)}")
        texts += map(describe, result.plan.notes)
        for one in result.plan.families:
            warnings = map(plan.extrapolation_text, one.extrapolation_warnings)
            texts += [f"{_short(one.family)}: {warning}" for warning in warnings]
    return texts


def _tuned_texts(result: StudyResult) -> Iterator[str]:
    """What the searches of the learning rate found, certified, and cost."""
    for one in result.tuned:
        cost = f"{one.effort.runs} runs, {one.effort.seconds / 60:.1f} minutes of one slot"
        yield f"{certificate(one)} ({cost})"
        yield from (f"{_short(one.family)}, {neighbour_text(near)}" for near in one.neighbours)


def page_content(result: StudyResult) -> dict[str, Any]:
    """study.json: the values of a study that a report shows, and their texts."""
    held_out = result.held_out
    content: dict[str, Any] = {
        "budget": f"{result.budget / 60:g} min",
        "machine": f"{result.jobs} runs at a time",
        "recommendation": f"{verdict(result)} {recommendation(result)}",
        "stages": [
            {"name": one.name, "status": "done", "seconds": one.seconds, "note": describe(one.note)}
            for one in result.stages
        ],
        "held_out": [
            to_json(one) | {"note": _held_out_text(one)}
            for one in (held_out.results if held_out is not None else [])
        ],
        "regularisation": [
            to_json(one) | {"keys": to_json(one.keys), "note": _trial_text(one)}
            for one in result.regularisation
        ],
        "tuned": to_json(result.tuned),
        "not_tried": sentence(describe(Note(StudyNote.NOT_TRIED))) + ".",
        "recipes": result.recipes,
        "notes": note_texts(result),
    }
    if result.fit is not None and result.plan is not None:
        content |= {"law": result.fit.law, "flops": result.plan.flops, "level": result.unigram_nll}
    return content


def _short(family: str) -> str:
    return get_family(family).short


def _overfits(values: Mapping[str, Any]) -> str:
    first, last = values["first"], values["last"]
    text = (
        f"{_short(values['family'])} overfits {format_count(values['unique_tokens'])} unique "
        f"tokens: the best lengths tried were {first:.3g} epochs"
    )
    return text + (f" to {last:.3g}, by size" if last > 1.01 * first else "")


TEXTS: Mapping[NoteCode, Text] = {
    StageNote.PREPARED: "{unique_tokens:,} unique tokens",
    StageNote.MEASURED: "up to {tokens_per_second:,.0f} tokens/s per slot",
    StageNote.TUNED: "{runs} runs, {certified} of {searches} learning rates certified",
    StageNote.PROBED: "{finished} of {runs} runs finished",
    StageNote.REGULARISED: "{finished} of {runs} runs finished, {improved} better",
    StageNote.FITTED: lambda values: f"law {values['law']}" if values["law"] else "no law",
    StageNote.CHECKED: lambda values: (
        f"{values['runs']} held-out runs at {flops(values['flops'])} FLOPs"
    ),
    StageNote.PLANNED: lambda values: f"for {flops(values['flops'])} FLOPs",
    StudyNote.PROBES_LEFT_OUT: "{runs} probe runs were left out for lack of time",
    StudyNote.PROBES_FAILED: lambda values: f"failed and left out: {', '.join(values['runs'])}",
    StudyNote.LAW_REFUSED: "no {law} law: {problem}",
    StudyNote.TOO_FEW_RUNS: lambda values: (
        f"no {values['law']} law: {values['runs']} runs of {_short(values['family'])} are too few; "
        f"fitted to fewer than {values['least']} it would go through all of them and predict "
        "nothing"
    ),
    StudyNote.BELOW_UNIGRAM_BASELINE: lambda values: (
        f"{_short(values['family'])} does not yet beat the unigram baseline ({values['nll']:.3f} "
        f"against {values['unigram_nll']:.3f} nats per token): its law must not be extrapolated"
    ),
    StudyNote.OVERFITS: _overfits,
    StudyNote.SETTING_UNUSED: lambda values: (
        f"{_short(values['family'])}: {values['setting']} was better over "
        f"{values['trial_epochs']:.3g} epochs; it is not used for {values['epochs']:.3g}, which "
        "repeat the tokens much less"
    ),
    StudyNote.NOT_COMPARABLE: "{problem}",
    StudyNote.NOT_LEARNED: lambda values: (
        f"{_short(values['family'])}: the search of the learning rate shows nothing, since its "
        f"best run ({values['nll']:.3f}) does not clearly beat the unigram baseline "
        f"({values['unigram_nll']:.3f}); {values['lr']:.3g} is used"
    ),
    StudyNote.LADDER: lambda values: (
        f"{_short(values['family'])}: each doubling of the tokens brings {values['ratio']:.2f} of "
        f"the drop of the doubling before ({100 * values['weight_of_data']:.0f} % of it from the "
        "runs, the rest from the prior); intervals are widened by "
        f"{values['inflation']:.2f} for the errors at runs that were left out"
    ),
    StudyNote.NOT_IDENTIFIED: lambda values: (
        f"{_short(values['family'])}: {values['constant']} is not identified; a run of "
        f"{format_count(values['params'])} parameters over {values['epochs']:g} epochs of "
        f"{format_count(values['unique_tokens'])} tokens would show it"
    ),
    StudyNote.NOT_TRIED: (
        "not tried: settings beside learning rate, weight decay and dropout, and the search at "
        "other sizes and lengths"
    ),
}

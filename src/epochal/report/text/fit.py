"""English about fits: why runs were left out, what constants are worth, which law was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from epochal.families import get_family
from epochal.report.text.format import listed, power_of_ten, sentence
from epochal.results import NoteCode
from epochal.scaling.checks import Parabola, VertexFlag
from epochal.scaling.choose import ChoiceReason
from epochal.scaling.estimate import ConstantStatus
from epochal.scaling.fit import FamilyFit, FitNote
from epochal.scaling.floor import SharedFloor
from epochal.scaling.limits import Limit, Variable
from epochal.scaling.points import Dropped, DropReason, PointsNote
from epochal.scaling.repetition import PenaltyFit, PenaltyNote, RepetitionCost
from epochal.units import format_count


def _dominated(values: Mapping[str, Any]) -> str:
    def part(prefix: str) -> str:
        setting = values[f"{prefix}setting"].items()
        names = ", ".join(f"{k}={'unset' if v is None else v}" for k, v in setting)
        runs = values[f"{prefix}runs"]
        mean = f" in the mean of {runs} runs" if runs > 1 else ""
        return f"{names} {{}}{values[f'{prefix}loss']:.4f} nats{mean}"

    own, best = part("").format("gave "), part("best_").format("")
    return f"not the best setting of its size, tokens and unique tokens: {own}, {best}"


def _better(values: Mapping[str, Any]) -> str:
    return (
        f"its held-out error is lower than that of {values['than']} by "
        f"{100 * values['error_lower']:.2f} ± {100 * values['standard_error']:.2f} % and its AICc "
        f"by {values['aicc_lower']:.1f}"
    )


def _unigram_level(values: Mapping[str, Any]) -> str:
    name = get_family(values["family"]).short
    return (
        f"{values['count']} of {values['total']} {name} runs do not beat the unigram baseline "
        f"({values['unigram_nll']:.3f} nats per token): they cannot show the fall that follows, so "
        "leave them out, or train longer"
    )


TEXTS: dict[NoteCode, Any] = {
    DropReason.DIVERGED: "diverged: its loss or gradient was not finite",
    DropReason.NOT_FINISHED: "not finished ({status}), so its learning rate has not decayed",
    DropReason.BRANCHED_FROM: "its learning rate has not decayed: {branch} starts from it and "
    "decays",
    DropReason.NO_FINITE_LOSS: "no evaluation with a finite loss",
    DropReason.LOSS_NOT_POSITIVE: "its loss {loss:g} is not a positive number",
    DropReason.DOMINATED_SETTING: _dominated,
    DropReason.TOO_MANY_EPOCHS: "more than {limit:g} epochs ({epochs:.3g})",
    DropReason.OVERFITTED: lambda v: (
        f"overfitted: {100 * v['above']:.1f} % above a shorter run of the same size on the same "
        f"tokens (rule: {100 * v['threshold']:g} %)"
    ),
    DropReason.ONLY_REPEATED: "a single multi-epoch run cannot identify a half-life",
    DropReason.UNIGRAM_LEVEL: "does not beat the unigram baseline ({unigram_nll:.3f} nats per "
    "token)",
    PointsNote.SINGLE_EPOCH_ASSUMED: "{file} has no column unique_tokens: every row is taken as "
    "one epoch",
    PointsNote.FAMILY_ASSUMED: lambda v: (
        f"{v['file']} has no column family: all rows are taken as {get_family(v['family']).short}"
    ),
    PointsNote.BEST_EVALUATIONS: "points are the best evaluations within runs; under a decaying "
    "learning rate they are not comparable with ends of shorter runs",
    PointsNote.TRAINING_EVALUATIONS: "{count} of {total} losses come from the evaluation during "
    "training, which is coarser than `epochal eval`",
    PointsNote.RUNS_AT_UNIGRAM_LEVEL: _unigram_level,
    ConstantStatus.FIXED: "fixed",
    ConstantStatus.FIXED_FROM_STAGE_1: "fixed from stage 1",
    ConstantStatus.LOG_VOCABULARY: "fixed at ln V",
    ConstantStatus.NO_REPETITION: "not identified: fewer than two runs repeat their tokens",
    ConstantStatus.NO_LARGE_MODELS: "not identified: no two runs have N above 1.1·N_opt(U)",
    ConstantStatus.ANY_VALUE: "not identified: any value fits as well",
    ConstantStatus.AT_LEAST: "at least {low:.3g}",
    ConstantStatus.AT_MOST: "at most {high:.3g}",
    FitNote.NO_FLOOR: "E is nearly 0: the runs do not reach far enough to show a floor",
    FitNote.TRADE_OFF: "the constants trade off (condition {condition:.2g}): compare predictions "
    "and exponents, not A and B",
    FitNote.FIXED_CONSTANTS_OFF: lambda v: (
        f"at one epoch the fixed constants are off by {100 * v['offset']:+.1f} %: they come from "
        "other runs, and the half-lives absorb the difference"
    ),
    FitNote.HALF_LIFE_BEYOND_RUNS: "R_D = {half_life_constant:.3g} lies beyond the longest run "
    "({longest:.3g} epochs)",
    FitNote.ONE_UNIQUE_BUDGET: "all runs have one number of unique tokens: another U is "
    "extrapolation",
    PenaltyNote.FIRST_REPEAT_PUNISHED: "delta = {delta:.2g} is below 1: the penalty rises "
    "steepest at the first repetition, so do not take from this law that one epoch is better than "
    "two",
    ChoiceReason.NOTHING_REPEATS: "fewer than two runs repeat their tokens, so nothing separates "
    "the laws",
    ChoiceReason.ONLY_ONE: "it was the only one that could be fitted",
    ChoiceReason.BETTER: _better,
    ChoiceReason.FEWEST_CONSTANTS: "it has the fewest constants, and no other predicts held-out "
    "runs better",
    ChoiceReason.GAIN_UNCLEAR: lambda v: (
        f"it has the fewest constants, and the gain of {listed(v['ahead'])} is not clear"
    ),
    VertexFlag.FEW_SIZES: "only {sizes} sizes",
    VertexFlag.NO_MINIMUM: "opens downwards: no minimum",
    VertexFlag.OUTSIDE_SIZES: "minimum outside of the sizes that were run",
}


def _describe(value: Any) -> str:
    from epochal.report.text import describe

    return describe(value)


def dropped_line(dropped: Dropped) -> str:
    """A run that was left out, and why."""
    return f"{dropped.run}: {_describe(dropped.reason)}"


def parabola_flops(parabola: Parabola) -> str:
    """FLOPs of a parabola, two digits: it is the mean of runs that differ by some percent."""
    return power_of_ten(float(f"{parabola.flops:.2g}"))


def describe_parabola(parabola: Parabola) -> str:
    """ "10¹⁵ FLOPs: best size 2.1M"."""
    best = parabola.optimal_params
    size = "none" if best is None else format_count(best)
    if best is not None and not parabola.params[0] <= best <= parabola.params[-1]:
        size = "outside the sizes that were run"
    return f"{parabola_flops(parabola)} FLOPs: best size {size}"


def isoflop_notes(laws: Mapping[str, FamilyFit]) -> list[str]:
    """What the parabolas show about the best size, and why they may be unreliable."""
    notes = []
    for family, fit in laws.items():
        if fit.isoflop is None:
            continue
        title = sentence(get_family(family).title)
        if fit.isoflop.params_exponent is not None:
            notes.append(
                f"{title}: best size ∝ C^{fit.isoflop.params_exponent:.2f}, tokens ∝ "
                f"C^{fit.isoflop.tokens_exponent:.2f}."
            )
        notes += [
            f"{title} at {parabola_flops(one)} FLOPs: {'; '.join(map(_describe, one.flags))}."
            for one in fit.isoflop.parabolas
            if one.flags
        ]
    return notes


def half_life(fit: FamilyFit) -> str:
    """ "half-life 11 repetitions (95 %: 8 to 17)", or what is known of it."""
    if fit.half_life is None:
        return "the half-life of data is not determined by these runs"
    low, high = (
        None if end is None else np.log(2) * end for end in fit.intervals.get("R_D", (None, None))
    )
    longest = float(fit.points.epochs.max())
    if high is None and fit.half_life > longest:
        least = "" if low is None else f"at least {low:.3g} repetitions (95 %); "
        return f"half-life {least}too long to be seen in runs of up to {longest:.3g} epochs"
    interval = ""
    if low is not None:
        ends = f"at least {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"
        interval = f" (95 %: {ends})"
    return f"half-life {fit.half_life:.3g} repetitions{interval}"


def recipe_name(cost: RepetitionCost) -> str:
    """ "AR", or "AR weight_decay=1.6"."""
    return f"{get_family(cost.family).short} {cost.recipe}".rstrip()


def repetition_cost(cost: RepetitionCost) -> str:
    """ "AR: P = 0.0041 (95 %: 0.003 to 0.006)"."""
    name = recipe_name(cost)
    low, high = cost.interval or (None, None)
    if cost.penalty is None:
        most = "" if high is None else f"; P is at most {high:.2g} (95 %)"
        return f"{name}: repeating costs nothing in runs of up to {cost.longest:.3g} epochs{most}"
    interval = (
        "" if high is None else f" (95 %: {'0' if low is None else f'{low:.2g}'} to {high:.2g})"
    )
    return f"{name}: P = {cost.penalty:.2g}{interval}"


def cost_ratios(found: PenaltyFit) -> str | None:
    """ "repeating costs AR 15 × (95 %: 9 to 26) what it costs MDM"; None without two costs."""
    seen = [cost for cost in found.costs if cost.ratio is not None]
    if len(seen) < 2:
        return None
    lowest = min(seen, key=lambda cost: cost.ratio or 0.0)
    others = [_ratio(cost) for cost in seen if cost is not lowest]
    return f"repeating costs {listed(others)} what it costs {recipe_name(lowest)}"


def _ratio(cost: RepetitionCost) -> str:
    low, high = cost.ratio_interval or (None, None)
    ends = {
        (False, False): "",
        (True, False): f" (95 %: at least {low or 0:.2g})",
        (False, True): f" (95 %: at most {high or 0:.2g})",
        (True, True): f" (95 %: {low or 0:.2g} to {high or 0:.2g})",
    }[low is not None, high is not None]
    return f"{recipe_name(cost)} {cost.ratio:.2g} ×{ends}"


def penalty_exponents(found: PenaltyFit) -> str:
    """ "delta = 0.72 (95 %: 0.6 to 0.9) and kappa = 1"."""
    parts = []
    for name, value in found.exponents.items():
        low, high = found.exponent_intervals.get(name, (None, None))
        interval = "" if low is None else f" (95 %: {low:.2g} to {high:.2g})"
        parts.append(f"{name} = {value:.2g}{interval}")
    return listed(parts)


def limit_row(one: Limit) -> list[str]:
    """[family, unique tokens, loss in, points, limit, interval, A, alpha] of a curve."""
    names = {
        Variable.PARAMS: "N, of ensembles' limits" if one.of_limits else "N",
        Variable.MEMBERS: f"K, {format_count(one.params or 0)} each",
        Variable.UNIQUE_TOKENS: "U, of the limits",
    }
    low, high = one.intervals.get("E", (None, None))
    ends = " – ".join("open" if end is None else f"{end:.3f}" for end in (low, high))
    return [
        get_family(one.family).short,
        "–" if one.unique_tokens is None else format_count(one.unique_tokens),
        names[one.variable],
        str(len(one.x)),
        f"{one.limit:.3f}",
        ends if one.intervals else "–",
        f"{one.constants['A']:.3g}",
        f"{one.constants['alpha']:.3g}",
    ]


def shared_floor(floor: SharedFloor) -> str:
    """One sentence on the E of all families, and whether the runs support it."""
    low, high = ("open" if end is None else f"{end:.3f}" for end in floor.interval)
    alone = listed(
        [f"{get_family(name).short} {value:.3f}" for name, value in floor.separate.items()]
    )
    verdict = "support" if floor.supported else "contradict"
    return (
        f"One floor for all families: E = {floor.value:.4f} (95 %: {low} to {high}); alone: "
        f"{alone}. The runs {verdict} one floor (statistic {floor.statistic:.2f}, limit "
        f"{floor.limit:.2f})."
    )

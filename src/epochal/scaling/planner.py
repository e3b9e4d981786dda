"""What to train on U unique tokens with a budget, per family, and which family to take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from epochal.data.duplicates import EffectiveUniqueTokens
from epochal.errors import UserError
from epochal.families import family_names, get_family
from epochal.results import Note, NoteCode, note
from epochal.scaling.crossing import (
    Crossings,
    critical_compute,
    critical_data,
    paired_samples,
    paper_critical_compute,
    trusted_flops,
    trusted_unique_tokens,
)
from epochal.scaling.law import TAIL, Extrapolation, ScalingLaw, interval_of
from epochal.scaling.optimum import (
    LARGEST,
    SMALLEST,
    Alternative,
    LadderChoice,
    Optima,
    best_of_sizes,
    floor_loss,
    iso_loss,
    optima,
    size_choices,
)
from epochal.units import format_count

_SURE = 0.975
_MOST_SAMPLES = 500
_MOST_TOKENS, _MOST_FLOPS = 1e18, 1e36
"""A thousand times all text there is, and more than the largest model of the search takes for a
thousand epochs of that. A larger number is a typing error."""
_SMALL = 10e6  # unique tokens below which rows are short, to have enough of them
_AT_THE_END = 1e-3  # of log N: the optimum is at an end of the search


class PlanNote(NoteCode):
    """What to know about a plan."""

    BUDGET_OF_GPUS = "budget_of_gpus"
    """count, gpu, hours, mfu, peak (FLOP/s of one), flops (of all)."""
    OTHER_VOCABULARY = "other_vocabulary"
    """family; law, plan: vocabularies."""
    SMALLEST_SIZE = "smallest_size"
    """family, params: the plan stops at the smallest model of the search."""
    LARGEST_SIZE = "largest_size"
    """family, params: the plan stops at the largest model of the search."""
    ROW_LENGTH_UNKNOWN = "row_length_unknown"
    """family; rows: tokens per row of a recipe."""
    ROW_LENGTH_SHORTER = "row_length_shorter"
    """family; fitted, rows: tokens per row; unique_tokens."""
    NO_REPETITION = "law_without_repetition"
    """family; identified: False where R_D is not identified, True where runs are of one epoch."""
    NO_LARGE_MODELS = "law_without_large_models"
    """family: R_N is not identified."""
    REPEATED_AS_FRESH = "repeated_as_fresh"
    """family: the law counts a repeated token as a fresh one."""
    NO_OVERFITTING = "law_without_overfitting"
    """family: the law cannot express overfitting."""
    FLOORS_EXTRAPOLATED = "floors_extrapolated"
    """exact, bounds: families by kind of NLL; a crossing rests on extrapolated floors."""
    NEEDS_SHARDING = "needs_sharding"
    """family, gpu, gpus, memory; whole, sharded: bytes per GPU."""
    DOES_NOT_FIT = "does_not_fit"
    """family, gpu, gpus, memory; sharded: bytes per GPU."""
    MUENNIGHOFF_CONSTANTS = "muennighoff_constants"
    GRID_CONSTANTS = "grid_constants"
    GRID_ONE_BUDGET = "grid_one_budget"
    PAPER_CONSTANTS = "paper_constants"
    PAPER_FIT = "paper_fit"
    PAPER_BEST_RUNS = "paper_best_runs"
    QUOKKA_CONSTANTS = "quokka_constants"
    QUOKKA_OPTIMA = "quokka_optima"


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyPlan:
    """The best of one family for the budget."""

    family: str
    law: str
    loss: float
    """Predicted validation loss at the continuous optimum, nats per token."""
    interval: tuple[float, float] | None
    """95 % interval of the law's best loss; None without resamples."""
    params: float
    tokens: float
    epochs: float
    flops: float
    """Less than the budget where more would hurt, or where the law does not cover repetition."""
    sequence_length: int | None
    """Tokens per row of the runs that the law was fitted to; None if not known."""
    size: LadderChoice | None
    """The best of the sizes that can be trained; None if the optimum lies beyond them."""
    floor: float
    """What no budget can beat on these tokens, by the law."""
    saturation_flops: float
    """Least compute within 0.001 nats of the floor."""
    saturated: bool
    alternatives: list[Alternative]
    """Less for nearly the same loss."""
    extrapolation_warnings: list[Extrapolation]
    """What lies outside of the fitted rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two families at the budget, each at its best, in the order of the list of families."""

    first: str
    second: str
    difference: float
    """Loss of the second minus loss of the first, nats per token."""
    interval: tuple[float, float] | None
    """95 %; None without resamples."""
    p_second_better: float | None
    """Share of resamples in which the second's best is lower; None without resamples."""
    winner: str | None
    """None if it is too close to call."""
    critical: Crossings
    """Along compute, on these unique tokens."""
    critical_flops: float | None
    """Where the second's lead begins; None: nowhere, or everywhere."""
    trusted_flops: float | None
    """FLOPs up to which both laws are trusted; None if their runs are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """Plans of all families, and which one to take."""

    unique_tokens: float
    flops: float
    """The budget, 6·N·D."""
    vocabulary: int
    """Parameters of sizes are counted with it."""
    families: list[FamilyPlan]
    pairs: list[Pair]
    """Every two families; empty for one."""
    winner: str | None
    """The family that beats every other; None if there is none."""
    paper_critical_flops: float
    """The published line of arXiv 2507.15857 for MDM over AR, as a citation."""
    notes: list[Note]
    """What to know about the laws and the plan."""
    effective: EffectiveUniqueTokens | None = None
    """Of the corpus, if the plan is for its U_effective."""

    @property
    def stored_tokens(self) -> float:
        """Tokens of the store to train on, repeated ones included."""
        return self.effective.unique_tokens if self.effective else self.unique_tokens

    @property
    def ranked(self) -> list[FamilyPlan]:
        """The plans, the winner's first, then by predicted loss."""
        return sorted(self.families, key=lambda plan: (plan.family != self.winner, plan.loss))


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalData:
    """At which unique tokens the lead of two families changes when a budget is spent."""

    first: str
    second: str
    crossings: Crossings
    trusted_unique_tokens: tuple[float, float]
    trusted_flops: float | None
    """None if the laws' runs are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalDataReport:
    """At which unique tokens each family leads when a budget is spent."""

    flops: float
    pairs: list[CriticalData]
    notes: list[Note]


def make_plan(
    laws: Mapping[str, ScalingLaw],
    unique_tokens: float,
    flops: float,
    *,
    vocabulary: int,
    sizes: Sequence[str] | Mapping[str, float] | None = None,
    notes: Sequence[Note] = (),
) -> PlanReport:
    """The plan for `flops` on `unique_tokens`.

    `sizes` limits what can be trained: names of the ladder, numbers of parameters, or names of
    one's own → parameters. Raises UserError for numbers that are not positive.
    """
    _check_amount("unique tokens", unique_tokens, _MOST_TOKENS)
    _check_amount("FLOPs", flops, _MOST_FLOPS)
    if unique_tokens < 1:
        raise UserError(f"{unique_tokens:g} unique tokens are less than one; give one or more")
    choices = size_choices(sizes, vocabulary)
    own = {family: laws[family] for family in family_names() if family in laws}
    plans = [_family(law, unique_tokens, flops, choices, bool(sizes)) for law in own.values()]
    pairs = [_compare(own, a, b, unique_tokens, flops) for a, b in combinations(plans, 2)]
    led = {name: [p.winner == name for p in pairs if name in (p.first, p.second)] for name in own}
    return PlanReport(
        unique_tokens=unique_tokens,
        flops=flops,
        vocabulary=vocabulary,
        families=plans,
        pairs=pairs,
        winner=next((name for name in own if pairs and all(led[name])), None),
        paper_critical_flops=paper_critical_compute(unique_tokens),
        notes=[*notes, *_limits(plans), *_row_notes(plans, unique_tokens), *_law_notes(own)],
    )


def make_critical_data(
    laws: Mapping[str, ScalingLaw], flops: float, notes: Sequence[Note]
) -> CriticalDataReport:
    """At which U each of two families leads when `flops` are spent, for every pair.

    Raises UserError for laws of fewer than two families.
    """
    _check_amount("FLOPs", flops, _MOST_FLOPS)
    own = {family: laws[family] for family in family_names() if family in laws}
    if len(own) < 2:
        raise UserError(
            "critical unique tokens need laws of at least two families; these laws are of "
            f"{' and '.join(own) or 'none'} only. Give unique_tokens for a plan, or other laws"
        )
    pairs = [
        CriticalData(
            first=first,
            second=second,
            crossings=critical_data(own[first], own[second], flops),
            trusted_unique_tokens=trusted_unique_tokens((own[first], own[second])),
            trusted_flops=trusted_flops((own[first], own[second])),
        )
        for first, second in combinations(own, 2)
    ]
    return CriticalDataReport(flops=flops, pairs=pairs, notes=[*notes, *_law_notes(own)])


def _check_amount(name: str, value: float, most: float) -> None:
    """Raise UserError for a value that is not positive, or beyond any plan."""
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"the number of {name} is {value!r}; it must be positive")
    if value > most:
        raise UserError(f"{value:g} {name} are beyond any plan; give at most {most:g}")


def _limits(plans: Sequence[FamilyPlan]) -> list[Note]:
    """Plans that end where the search for a size does."""
    ends = ((SMALLEST, PlanNote.SMALLEST_SIZE), (LARGEST, PlanNote.LARGEST_SIZE))
    return [
        note(code, family=plan.family, params=end)
        for plan in plans
        for end, code in ends
        if abs(np.log(plan.params / end)) < _AT_THE_END
    ]


def recipe_length(plan: FamilyPlan, unique_tokens: float) -> int:
    """Tokens per row of a plan's recipe: as in the runs that the law was fitted to.

    If that is not known, 2048, or 512 for less than 10M unique tokens; at least 16 rows are left.
    """
    length = plan.sequence_length or (2048 if unique_tokens >= _SMALL else 512)
    return max(16, min(length, int(unique_tokens) // 16))


def _row_notes(plans: Sequence[FamilyPlan], unique: float) -> Iterator[Note]:
    """Recipes whose rows are not as long as those of the fitted runs."""
    for plan in plans:
        family, rows = plan.family, recipe_length(plan, unique)
        if (fitted := plan.sequence_length) is None:
            yield note(PlanNote.ROW_LENGTH_UNKNOWN, family=family, rows=rows)
        elif rows != fitted:
            code = PlanNote.ROW_LENGTH_SHORTER
            yield note(code, family=family, fitted=fitted, rows=rows, unique_tokens=unique)


def _family(
    law: ScalingLaw, unique: float, flops: float, choices: Mapping[str, float], only: bool
) -> FamilyPlan:
    best = optima(law, flops, unique)
    loss, params, tokens = float(best.loss[0]), float(best.params[0]), float(best.tokens[0])
    if tokens < 1:
        raise UserError(
            f"a budget of {flops:.3g} FLOPs is less than one token of the smallest model of the "
            f"search ({format_count(SMALLEST)} parameters need {6 * SMALLEST:.0e} FLOPs per "
            "token); give more"
        )
    floor, saturation = floor_loss(law, unique)
    epochs = tokens / min(tokens, unique)
    spent = 6 * params * tokens
    return FamilyPlan(
        family=law.family,
        law=law.form.name,
        loss=loss,
        interval=_interval(law, unique, flops, best),
        params=params,
        tokens=tokens,
        epochs=epochs,
        flops=spent,
        sequence_length=law.sequence_length,
        size=best_of_sizes(law, unique, flops, choices, params, only),
        floor=min(floor, loss),
        saturation_flops=saturation,
        saturated=flops >= saturation,
        alternatives=iso_loss(law, unique, flops, loss, params),
        extrapolation_warnings=law.extrapolations(
            params=params, tokens=tokens, unique_tokens=unique, flops=spent, epochs=epochs
        ),
    )


def _interval(
    law: ScalingLaw, unique: float, flops: float, best: Optima
) -> tuple[float, float] | None:
    """95 % interval of the best loss, each resample at its own best."""
    if not law.samples:
        return None
    draws = [optima(law, flops, unique, s[:_MOST_SAMPLES]).loss for s in law.samples]
    low, high = interval_of(draws, law.whole_range)
    loss, error = float(best.loss[0]), _error(law, best.params[0], best.tokens[0], unique)
    return min(float(low), loss) - error, max(float(high), loss) + error


def _error(law: ScalingLaw, params: float, tokens: float, unique: float) -> float:
    """Nats by which a prediction may be wrong, besides the spread of the samples."""
    return law.reading_error + float(law.extrapolation_margin(params, tokens, unique))


def _compare(
    laws: Mapping[str, ScalingLaw], a: FamilyPlan, b: FamilyPlan, unique: float, flops: float
) -> Pair:
    """Both families at their best for the budget, and where the lead changes."""
    first, second = laws[a.family], laws[b.family]
    difference = b.loss - a.loss
    error = sum(
        _error(law, plan.params, plan.tokens, unique) for law, plan in ((first, a), (second, b))
    )
    draws = [
        optima(second, flops, unique, y[:_MOST_SAMPLES]).loss
        - optima(first, flops, unique, x[:_MOST_SAMPLES]).loss
        for x, y in paired_samples(first, second)
    ]
    interval, share, winner = None, None, None
    if draws:
        low, high = interval_of(draws, first.whole_range or second.whole_range, TAIL)
        interval = min(float(low), difference) - error, max(float(high), difference) + error
        shares = [float((d < 0).mean()) for d in draws]
        share = min(shares, key=lambda s: abs(s - 0.5))
        if interval[0] > 0 and share <= 1 - _SURE:
            winner = a.family
        elif interval[1] < 0 and share >= _SURE:
            winner = b.family
    critical = critical_compute(first, second, unique)
    return Pair(
        first=a.family,
        second=b.family,
        difference=difference,
        interval=interval,
        p_second_better=share,
        winner=winner,
        critical=critical,
        critical_flops=critical.first_into(b.family),
        trusted_flops=trusted_flops((first, second)),
    )


def _law_notes(laws: Mapping[str, ScalingLaw]) -> list[Note]:
    """What the laws do not cover."""
    notes = []
    for family, law in laws.items():
        if not law.repeats:
            identified = "R_D" not in law.unknown
            notes.append(note(PlanNote.NO_REPETITION, family=family, identified=identified))
        elif "R_N" in law.unknown:
            notes.append(note(PlanNote.NO_LARGE_MODELS, family=family))
        elif not law.form.repetition:
            notes.append(note(PlanNote.REPEATED_AS_FRESH, family=family))
        if law.form.monotone and law.form.repetition:
            notes.append(note(PlanNote.NO_OVERFITTING, family=family))
    if len(laws) > 1:
        exact = [family for family in laws if get_family(family).exact]
        bounds = [family for family in laws if family not in exact]
        notes.append(note(PlanNote.FLOORS_EXTRAPOLATED, exact=exact, bounds=bounds))
    return notes

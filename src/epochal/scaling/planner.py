"""What to train on U unique tokens with a budget, per family, and which family to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from epochal.errors import UserError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.scaling.crossing import (
    Crossings,
    closed_form,
    critical_compute,
    critical_data,
    pairs,
)
from epochal.scaling.law import ScalingLaw
from epochal.scaling.optimum import (
    LARGEST,
    SMALLEST,
    Alternative,
    LadderChoice,
    Optima,
    best_of_sizes,
    floor_loss,
    iso_loss,
    ladder_sizes,
    optima,
)
from epochal.scaling.verdict import (
    TITLES,
    TRUSTED_FACTOR,
    critical_words,
    first_crossing,
    reverse_words,
    trusted_flops,
    verdict_words,
)
from epochal.units import format_count

_SURE = 0.975
_MOST_SAMPLES = 500
_MOST_TOKENS, _MOST_FLOPS = 1e18, 1e36
"""A thousand times all text there is, and more than the largest model looked at takes for a
thousand epochs of that. Above, a number is a slip."""
_SMALL = 10e6  # unique tokens below which rows are short, to have enough of them
_AT_THE_END = 1e-3  # of log N: the optimum is at an end of the search


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyPlan:
    """The best of one family for the budget."""

    family: str
    law: str
    loss: float
    """Predicted validation loss at the continuous optimum, nats per token."""
    interval: tuple[float, float] | None
    """95 % interval of the law's best loss; None if nothing is known of its error."""
    params: float
    tokens: float
    epochs: float
    flops: float
    """Less than the budget where more would hurt or nothing is known of more."""
    sequence_length: int | None
    """Tokens per row of the runs that the law was fitted to; None if it is not known."""
    size: LadderChoice | None
    """The best of the sizes that can be trained; None if the optimum lies beyond them."""
    floor: float
    """What no budget can beat on these tokens, by the law."""
    saturation_flops: float
    """Least compute within 0.001 nats of the floor."""
    saturated: bool
    alternatives: list[Alternative]
    """Less for nearly the same loss."""
    extrapolation_warnings: list[str]
    """What lies outside of the rows that the law was fitted to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """Plans of all families, and the verdict."""

    unique_tokens: float
    flops: float
    vocabulary: int
    """That the parameters of sizes are counted with."""
    families: list[FamilyPlan]
    winner: str | None
    """ar or mdm; None where it is too close to call or there is one family only."""
    verdict: str
    difference: float | None
    """Loss of diffusion minus loss of AR."""
    difference_interval: tuple[float, float] | None
    p_mdm_better: float | None
    """Share of resamples in which diffusion's best is lower."""
    critical_flops: float | None
    """Where diffusion's lead begins on these tokens; None: nowhere, or everywhere."""
    critical: Crossings | None
    closed_form_flops: float
    """The paper's published line, as a citation."""
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalDataReport:
    """At which number of unique tokens diffusion leads when a budget is spent."""

    flops: float
    crossings: Crossings
    verdict: str
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def make_plan(
    laws: Mapping[str, ScalingLaw],
    unique_tokens: float,
    flops: float,
    *,
    vocabulary: int,
    sizes: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> PlanReport:
    """The plan for `flops` on `unique_tokens`.

    `sizes` limits what can be trained: names of the ladder or numbers of parameters. Raises
    UserError for numbers that are not positive.
    """
    _check_amount("unique tokens", unique_tokens, _MOST_TOKENS)
    _check_amount("FLOPs", flops, _MOST_FLOPS)
    if unique_tokens < 1:
        raise UserError(f"{unique_tokens:g} unique tokens are less than one; give one or more")
    choices = ladder_sizes(sizes, vocabulary)
    known: dict[str, ScalingLaw] = {
        family: laws[family] for family in family_names() if family in laws
    }
    plans = [_family(law, unique_tokens, flops, choices, bool(sizes)) for law in known.values()]
    critical = None
    if len(known) == 2:
        critical = critical_compute(laws["ar"], laws["mdm"], unique_tokens)
    winner, difference, interval, share = _compare(known, plans, unique_tokens, flops)
    text = verdict_words(plans, winner, difference, interval, share)
    if critical is not None:
        text += f"; {critical_words(critical, flops, trusted_flops(known))}"
    return PlanReport(
        unique_tokens=unique_tokens,
        flops=flops,
        vocabulary=vocabulary,
        families=plans,
        winner=winner,
        verdict=f"{text}.",
        difference=difference,
        difference_interval=interval,
        p_mdm_better=share,
        critical_flops=first_crossing(critical),
        critical=critical,
        closed_form_flops=closed_form(unique_tokens),
        notes=[*notes, *_limits(plans), *row_notes(plans, unique_tokens), *_notes(known)],
    )


def _check_amount(name: str, value: float, most: float) -> None:
    """Raises UserError for what is no amount, or no one's."""
    if not (np.isfinite(value) and value > 0):
        raise UserError(f"the number of {name} is {value!r}; it must be positive")
    if value > most:
        raise UserError(f"{value:g} {name} are beyond any plan; give at most {most:g}")


def _limits(plans: Sequence[FamilyPlan]) -> list[str]:
    """What is to be said of plans that end where the search for a size does."""
    notes = []
    for plan in plans:
        for end, name in ((SMALLEST, "smallest"), (LARGEST, "largest")):
            if abs(np.log(plan.params / end)) < _AT_THE_END:
                notes.append(
                    f"the {TITLES[plan.family]} plan stops at {format_count(end)} parameters, the "
                    f"{name} model looked at; its optimum lies beyond"
                )
    return notes


def recipe_length(plan: FamilyPlan, unique_tokens: float) -> int:
    """Tokens per row of a plan's recipe: of the runs that the law was fitted to.

    If that is not known, 2048, or 512 for less than 10M unique tokens; at least 16 rows are left.
    """
    length = plan.sequence_length or (2048 if unique_tokens >= _SMALL else 512)
    return max(16, min(length, int(unique_tokens) // 16))


def row_notes(plans: Sequence[FamilyPlan], unique: float) -> list[str]:
    """What is to be said of rows in recipes that are not those of the fitted runs."""
    notes = []
    for plan in plans:
        rows = recipe_length(plan, unique)
        if plan.sequence_length is None:
            notes.append(
                f"the {TITLES[plan.family]} law does not say the sequence length of its runs: a "
                f"recipe has rows of {rows:,} tokens; set data.sequence_length to theirs, since "
                "the prediction is of their context"
            )
        elif rows != plan.sequence_length:
            notes.append(
                f"the {TITLES[plan.family]} law is of rows of {plan.sequence_length:,} tokens, too "
                f"long for {format_count(unique)} unique tokens: a recipe has {rows:,}, and its "
                "loss will be higher than predicted"
            )
    return notes


def _family(
    law: ScalingLaw,
    unique: float,
    flops: float,
    choices: Mapping[str, float],
    only: bool,
) -> FamilyPlan:
    best = optima(law, flops, unique)
    loss, params, tokens = float(best.loss[0]), float(best.params[0]), float(best.tokens[0])
    if tokens < 1:
        raise UserError(
            f"a budget of {flops:.3g} FLOPs is less than one token of the smallest model looked at "
            f"({format_count(SMALLEST)} parameters need {6 * SMALLEST:.0e} FLOPs a token); give "
            "more"
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
        extrapolation_warnings=_outside(law, params, tokens, unique, spent, epochs),
    )


def _interval(
    law: ScalingLaw, unique: float, flops: float, best: Optima
) -> tuple[float, float] | None:
    """95 % interval of the best loss, each resample at its own best."""
    if not law.samples:
        return None
    draws = [optima(law, flops, unique, s[:_MOST_SAMPLES]).loss for s in law.samples]
    low, high = law.interval(draws)
    loss, error = float(best.loss[0]), _error(law, best.params[0], best.tokens[0], unique)
    return min(float(low), loss) - error, max(float(high), loss) + error


def _error(law: ScalingLaw, params: float, tokens: float, unique: float) -> float:
    """Nats by which a prediction may be wrong beside the spread of the samples."""
    return law.reading_error + float(law.extrapolation_margin(params, tokens, unique))


def _outside(
    law: ScalingLaw, params: float, tokens: float, unique: float, flops: float, epochs: float
) -> list[str]:
    """Sentences on what lies outside of the fitted rows by more than a tenth."""
    found = []
    titles = {
        "params": ("N", params),
        "tokens": ("tokens", tokens),
        "unique_tokens": ("U", unique),
        "flops": ("FLOPs", flops),
        "epochs": ("epochs", epochs),
    }
    for name, (title, value) in titles.items():
        if name not in law.fitted_range:
            continue
        low, high = law.fitted_range[name]
        if not low / 1.1 <= value <= high * 1.1:
            side, end = ("above", high) if value > high else ("below", low)
            found.append(f"{title} {format_count(value)} is {side} the fitted {format_count(end)}")
    return found


def _compare(
    laws: Mapping[str, ScalingLaw], plans: Sequence[FamilyPlan], unique: float, flops: float
) -> tuple[str | None, float | None, tuple[float, float] | None, float | None]:
    """(winner, difference, its interval, share of resamples for diffusion)."""
    if len(plans) < 2:
        return None, None, None, None
    ar, mdm = laws["ar"], laws["mdm"]
    difference = plans[1].loss - plans[0].loss
    error = sum(
        _error(law, plan.params, plan.tokens, unique)
        for law, plan in zip((ar, mdm), plans, strict=True)
    )
    draws = [
        optima(mdm, flops, unique, b[:_MOST_SAMPLES]).loss
        - optima(ar, flops, unique, a[:_MOST_SAMPLES]).loss
        for a, b in pairs(ar, mdm)
    ]
    if not draws:
        return None, difference, None, None
    low, high = _quantiles(draws, ar.whole_range or mdm.whole_range)
    interval = min(low, difference) - error, max(high, difference) + error
    shares = [float((d < 0).mean()) for d in draws]
    share = min(shares, key=lambda s: abs(s - 0.5))
    winner = None
    if interval[0] > 0 and share <= 1 - _SURE:
        winner = "ar"
    elif interval[1] < 0 and share >= _SURE:
        winner = "mdm"
    return winner, difference, interval, share


def _quantiles(draws: Sequence[Floats], whole: bool) -> tuple[float, float]:
    edge = 0.0 if whole else 0.025
    ends = [np.quantile(draw, (edge, 1 - edge)) for draw in draws]
    return float(min(e[0] for e in ends)), float(max(e[1] for e in ends))


def _notes(laws: Mapping[str, ScalingLaw]) -> list[str]:
    notes = []
    for family, law in laws.items():
        if not law.repeats:
            why = "R_D not identified" if "R_D" in law.unknown else "its runs are of one epoch"
            notes.append(
                f"the {TITLES[family]} law knows nothing of repetition ({why}), so no token is "
                "repeated in its plan"
            )
        elif "R_N" in law.unknown:
            notes.append(
                f"the {TITLES[family]} law knows nothing of models above N_opt(U) (R_N not "
                "identified), so their additional parameters count for nothing"
            )
        elif law.form.name == "chinchilla":
            notes.append(
                f"the {TITLES[family]} law counts a repeated token as a fresh one: do not trust it "
                "beyond a few epochs"
            )
        if law.form.monotone and "R_D" in law.form.constants:
            notes.append(
                f"the {TITLES[family]} law cannot express overfitting: watch the validation loss "
                "and keep the best checkpoint"
            )
    if len(laws) == 2:
        notes.append(
            "AR's loss is exact and diffusion's a bound, with different floors E, both "
            "extrapolated: a crossing is an empirical question for each corpus"
        )
    return notes


def critical_unique_tokens(
    laws: Mapping[str, ScalingLaw], flops: float, notes: Sequence[str] = ()
) -> CriticalDataReport:
    """At which U diffusion wins when `flops` are spent. Raises UserError without both families."""
    _check_amount("FLOPs", flops, _MOST_FLOPS)
    if set(laws) != set(family_names()):
        raise UserError(
            "the question at which U diffusion wins needs laws of both families; these laws are "
            f"of {' and '.join(laws)} only. Give --unique-tokens, or --laws paper"
        )
    found = critical_data(laws["ar"], laws["mdm"], flops)
    return CriticalDataReport(
        flops=flops,
        crossings=found,
        verdict=reverse_words(found, flops, trusted_unique_tokens(laws), trusted_flops(laws)),
        notes=[*notes, *_notes(laws)],
    )


def trusted_unique_tokens(laws: Mapping[str, ScalingLaw]) -> tuple[float, float]:
    """Range of U that all of the laws are believed in."""
    ends = [
        law.fitted_range["unique_tokens"]
        for law in laws.values()
        if "unique_tokens" in law.fitted_range
    ]
    if not ends:
        return 0.0, float("inf")
    return max(low for low, _ in ends) / TRUSTED_FACTOR, min(
        high for _, high in ends
    ) * TRUSTED_FACTOR

"""Fit a law to points: global search, intervals, checks, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError
from epochal.recipe import FAMILIES
from epochal.scaling.checks import condition_of, fit_notes, held_out_check, r_squared
from epochal.scaling.forms import Form, Where, inner, not_identified, outer
from epochal.scaling.intervals import (
    FEW_BUDGETS,
    bootstrap,
    groups_of,
    percentiles,
    profile,
)
from epochal.scaling.isoflop import isoflop
from epochal.scaling.known import SINGLE_EPOCH, KnownLaw, find_form
from epochal.scaling.points import Dropped, Points
from epochal.scaling.problem import HUBER_DELTA, Problem
from epochal.scaling.result import FamilyFit, FitReport, Interval, range_of
from epochal.scaling.rows import RISE, check_determined, select_rows
from epochal.scaling.solver import polish
from epochal.scaling.starts import distinct, global_search
from epochal.tally import Floats

WITHIN = 0.01
"""Minima whose objective is within this share of the lowest are all told."""
STAGE_1_EPOCHS = 2.5
"""Rows of up to so many epochs go to stage 1 of a two-stage fit (Muennighoff's notebook)."""
_POLISH_WITHIN = 0.03
_MOST_POLISHED = 12
_LARGE = 1.1  # N above N_opt(u) by this factor says something of R_N


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to fit."""

    law: str = "data-constrained"
    tie: bool = False
    """β = α."""
    delta: float = HUBER_DELTA
    """Huber's δ; infinite for least squares."""
    residual: Literal["log", "loss"] = "log"
    bootstraps: int = 500
    seed: int = 0
    rise: float = RISE
    keep_overfitted: bool = False
    max_epochs: float | None = None
    two_stage: bool = False
    """Fit A, B, E, α, β to rows of up to 2.5 epochs, hold them, fit the rest to all rows."""


Hold = Mapping[str, Mapping[str, float]]
"""family → constants (A, B, …) that stay as they are; the key "" is for all families."""


def fit_points(points: Points, settings: FitSettings, hold: Hold | None = None) -> FitReport:
    """Fit every family of `points`; one that cannot be fitted is refused with the reason.

    Raises DataError where no family's points can determine the law, UserError for an unknown
    law.
    """
    form = find_form(settings.law)
    families = [name for name in FAMILIES if name in points.family]
    if not families:
        raise DataError("there are no points to fit")
    fits: dict[str, FamilyFit] = {}
    refused: dict[str, str] = {}
    for family in families:
        held = {**(hold or {}).get("", {}), **(hold or {}).get(family, {})}
        before = [d for d in points.dropped if d.family == family]
        try:
            part = points.of_family(family)
            fits[family] = fit_family(part, family, form, settings, held, before)
        except DataError as error:
            refused[family] = str(error)
    if not fits:
        raise DataError("; ".join(refused.values()))
    # Files and JSON have no infinity: None is "no limit".
    values = {k: None if v == np.inf else v for k, v in dataclasses.asdict(settings).items()}
    return FitReport(
        law=settings.law,
        families=fits,
        refused=refused,
        settings=values,
        notes=list(points.notes),
    )


def fit_family(
    points: Points,
    family: str,
    form: Form,
    settings: FitSettings,
    hold: Mapping[str, float] | None = None,
    dropped: list[Dropped] | None = None,
) -> FamilyFit:
    """Fit one family's points. Raises DataError where they cannot determine the law."""
    rows, left_out = select_rows(
        points, form, settings.rise, settings.keep_overfitted, settings.max_epochs
    )
    held = _held(form, hold or {})
    statements: dict[str, str] = dict.fromkeys(held, "held")
    if settings.two_stage:
        held |= _stage_1(rows, family, form, settings, held)
        statements |= {name: "held from stage 1" for name in held if name not in statements}
    unknown = _unknown_from_rows(rows, form, held, statements)
    if "R_D" in unknown:
        rows, more = _single_epoch(rows)
        left_out += more
    problem = _problem(rows, form, settings, held, unknown)
    check_determined(problem, rows, family)
    constants, objectives = _search(problem)
    if "R_N" in problem.free and not _large_models(rows, form, constants[0]):
        unknown.append("R_N")
        statements["R_N"] = "not identified: no two runs have N above 1.1·N_opt(U)"
        problem = _problem(rows, form, settings, held, unknown)
        constants, objectives = _search(problem)
    spread = _spread(problem, constants, objectives, rows, settings, family)
    if lost := [name for name in spread.profiles if spread.intervals[name] == (None, None)]:
        # Any value fits, so the rule for what is not known does, and all is fitted with it.
        unknown += lost
        statements |= dict.fromkeys(lost, "not identified: any value fits as well")
        problem = _problem(rows, form, settings, held, unknown)
        constants, objectives = _search(problem)
        curves = {name: spread.profiles[name] for name in lost}
        spread = _spread(problem, constants, objectives, rows, settings, family)
        spread.profiles |= curves
    statements |= _open_ends(spread, unknown)
    intervals = spread.intervals
    for name in (*held, *unknown):
        value = None if name in unknown else float(outer(form, constants[0])[form.index(name)])
        intervals[name] = (value, value)
    residuals = problem.residuals(constants[:1])[0]
    predicted = (
        np.exp(problem.log_loss + residuals)
        if settings.residual == "log"
        else (rows.loss + residuals)
    )
    close = _close(objectives)
    return FamilyFit(
        family=family,
        form=form,
        inner=constants[0],
        samples=spread.samples,
        unknown=frozenset(unknown),
        fitted=range_of(rows),
        sequence_length=rows.sequence_length,
        source="fit",
        objective=float(objectives[0]),
        intervals={name: intervals.get(name, (None, None)) for name in form.constants},
        statements=statements,
        minima=_told(form, constants[close], objectives[close], unknown),
        profiles=spread.profiles,
        points=rows,
        predicted=predicted,
        residuals=np.log(predicted) - np.log(rows.loss),
        dropped=[*(dropped or []), *left_out],
        r2=r_squared(rows.loss, predicted),
        condition=condition_of(problem, constants[0]),
        held_out=held_out_check(problem, constants[0], rows),
        tied=settings.tie,
        held=list(held),
        isoflop=isoflop(points),
        notes=fit_notes(problem, constants[0], rows, residuals, form),
    )


def _single_epoch(rows: Points) -> tuple[Points, list[Dropped]]:
    """The rows of one epoch, and the rest as left out: alone it cannot tell a half-life."""
    repeated = rows.epochs > SINGLE_EPOCH
    reason = "the only run that repeats its tokens, from which no half-life can be told"
    return rows.take(~repeated), [
        rows.drop(index, reason) for index in np.flatnonzero(repeated).tolist()
    ]


def _large_models(rows: Points, form: Form, constants: Floats) -> bool:
    """Whether two rows or more have N well above N_opt(u), which alone tell R_N."""
    law = KnownLaw(family="", form=form, inner=constants)
    best = law.optimal_params(np.minimum(rows.tokens, rows.unique_tokens))
    return int((rows.params > _LARGE * best).sum()) >= 2


def _close(objectives: Floats) -> NDArray[np.bool_]:
    """Which minima are within 1 % of the lowest."""
    close: NDArray[np.bool_] = objectives <= objectives[0] * (1 + WITHIN) + 1e-24
    return close


@dataclass(slots=True)
class _Spread:
    """How far the constants can be trusted."""

    samples: list[Floats]
    intervals: dict[str, Interval]
    profiles: dict[str, list[tuple[float, float]]]


def _spread(
    problem: Problem,
    constants: Floats,
    objectives: Floats,
    rows: Points,
    settings: FitSettings,
    family: str,
) -> _Spread:
    """Resamples, and profiles of the half-lives, which widen and open their intervals."""
    starts = _with_floors(problem, constants[_close(objectives)])
    samples = _samples(problem, starts, rows, settings, family)
    intervals: dict[str, Interval] = dict(percentiles(problem, samples)) if samples else {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in ("R_D", "R_N"):
        if name not in problem.free:
            continue
        low, high, curves[name] = profile(problem, starts, objectives[0], name)
        before = intervals.get(name, (low, high))
        low = None if low is None or before[0] is None else min(low, before[0])
        high = None if high is None or before[1] is None else max(high, before[1])
        intervals[name] = (low, high)
    return _Spread(samples, intervals, curves)


def _open_ends(spread: _Spread, unknown: list[str]) -> dict[str, str]:
    """What is to be said of half-lives with one open end."""
    said = {}
    for name in spread.profiles:
        if name in unknown:
            continue
        low, high = spread.intervals[name]
        if high is None and low is not None:
            said[name] = f"at least {low:.3g}"
        elif low is None and high is not None:
            said[name] = f"at most {high:.3g}"
    return said


def _held(form: Form, hold: Mapping[str, float]) -> dict[str, float]:
    """Inner values of constants to hold. Raises DataError for one that the law has not."""
    strange = [name for name in hold if name not in form.constants]
    if strange:
        raise DataError(
            f"the law {form.name} has no constant {strange[0]!r} to hold; it has "
            f"{', '.join(form.constants)}"
        )
    bad = [name for name, value in hold.items() if not np.isfinite(value) or value <= 0]
    if bad:
        raise DataError(f"cannot hold {bad[0]} = {hold[bad[0]]!r}: it is not a positive number")
    full = np.array([hold.get(name, 1.0) for name in form.constants])
    values = inner(form, full)
    return {name: float(values[form.index(name)]) for name in form.constants if name in hold}


def _problem(
    rows: Points, form: Form, settings: FitSettings, held: Mapping[str, float], unknown: list[str]
) -> Problem:
    everything = {**held, **not_identified(unknown)}
    return Problem(
        form,
        Where.at(rows.params, rows.tokens, rows.unique_tokens),
        np.log(rows.loss),
        settings.delta,
        settings.residual,
        settings.tie and "alpha" not in everything and "beta" not in everything,
        everything,
    )


def _unknown_from_rows(
    rows: Points, form: Form, held: Mapping[str, float], statements: dict[str, str]
) -> list[str]:
    """Constants that rows of one epoch say nothing of.

    Raises DataError for a law of overfitting.
    """
    if (rows.epochs > SINGLE_EPOCH).sum() >= 2:
        return []
    if "K" in form.constants and "K" not in held:
        raise DataError(
            f"fewer than two runs repeat their tokens, so the penalty on repetition of the law "
            f"{form.name} cannot be found; use --law chinchilla, or add runs of several epochs"
        )
    half_lives: tuple[str, ...] = ("R_D", "R_N")
    unknown = [name for name in half_lives if name in form.constants and name not in held]
    for name in unknown:
        statements[name] = "not identified: fewer than two runs repeat their tokens"
    return unknown


def _search(problem: Problem) -> tuple[Floats, Floats]:
    constants, objectives = global_search(problem)
    near = objectives <= objectives[0] * (1 + _POLISH_WITHIN) + 1e-24
    ends = [polish(problem, c) for c in constants[near][:_MOST_POLISHED]]
    for index, (found, value) in enumerate(ends):
        if value < objectives[index]:
            constants[index], objectives[index] = found, value
    return distinct(problem, constants, objectives)


def _stage_1(
    rows: Points, family: str, form: Form, settings: FitSettings, held: Mapping[str, float]
) -> dict[str, float]:
    """A, B, E, α, β from rows of up to 2.5 epochs, by the Chinchilla law."""
    part = rows.take(rows.epochs <= STAGE_1_EPOCHS)
    five = find_form("chinchilla")
    kept = {name: value for name, value in held.items() if name in five.constants}
    problem = _problem(part, five, settings, kept, [])
    check_determined(problem, part, f"{family}, stage 1 (up to {STAGE_1_EPOCHS:g} epochs)")
    best = _search(problem)[0][0]
    return {name: float(best[five.index(name)]) for name in five.constants} | dict(held)


def _with_floors(problem: Problem, minima: Floats) -> Floats:
    """The minima, and for one whose E is nearly nothing a start with a real floor.

    From E = 0 the logarithm of E hardly moves, so resamples would never leave it.
    """
    if "E" not in problem.free:
        return minima
    at = problem.form.index("E")
    floor = problem.log_loss.min() + np.log(0.4)
    lifted = minima[minima[:, at] < floor - 1.5][:1].copy()
    lifted[:, at] = floor
    return np.concatenate([minima, lifted])


def _samples(
    problem: Problem, minima: Floats, rows: Points, settings: FitSettings, family: str
) -> list[Floats]:
    """Resamples of runs, and of budgets where they are few."""
    if settings.bootstraps < 1:
        return []
    groups = groups_of(rows.run)
    found = [bootstrap(problem, minima, groups, settings.bootstraps, settings.seed, family)]
    budgets = groups_of(np.round(np.log(rows.unique_tokens), 2).tolist())
    number = int(budgets.max()) + 1
    repeated = bool((rows.epochs > SINGLE_EPOCH).any())
    if repeated and FEW_BUDGETS[0] <= number <= FEW_BUDGETS[1]:
        count = max(50, settings.bootstraps // 3)
        found.append(bootstrap(problem, minima, budgets, count, settings.seed + 1, family))
    return found


def _told(
    form: Form, minima: Floats, objectives: Floats, unknown: list[str]
) -> list[dict[str, float]]:
    return [
        {
            **{
                name: float(value)
                for name, value in zip(form.constants, outer(form, constants), strict=True)
                if name not in unknown
            },
            "objective": float(objective),
        }
        for constants, objective in zip(minima, objectives, strict=True)
    ]

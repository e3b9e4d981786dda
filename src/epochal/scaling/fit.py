"""Fit a law to points: global search, intervals, checks, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError, UserError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.scaling.choose import AUTO, check_law, choose_law
from epochal.scaling.extrapolation import plateau_notes, with_extrapolation_error
from epochal.scaling.forms import Form, constrain
from epochal.scaling.intervals import (
    FEW_BUDGETS,
    bootstrap,
    groups_of,
    percentiles,
    profile,
)
from epochal.scaling.isoflop import isoflop
from epochal.scaling.law import SINGLE_EPOCH, find_form
from epochal.scaling.law_files import read_hold
from epochal.scaling.point_fit import FitSettings, make_problem, point_fit, search
from epochal.scaling.points import Dropped, Points, read_csv
from epochal.scaling.read import At, read_points
from epochal.scaling.result import (
    FamilyFit,
    FitReport,
    Interval,
    condition_of,
    fit_notes,
    held_out_check,
    r_squared,
    range_of,
)
from epochal.scaling.solver import FitProblem

WITHIN = 0.01
"""Minima whose objective is within this share of the lowest are all told."""

Hold = Mapping[str, Mapping[str, float]]
"""family → constants (A, B, …) that stay as they are; the key "" is for all families."""


def fit_points(points: Points, settings: FitSettings, hold: Hold | None = None) -> FitReport:
    """Fit every family of `points`; one that cannot be fitted is refused with the reason.

    With the law "auto" each family gets the one that `choose_law` chooses for it. Raises
    DataError where no family's points can determine the law, UserError for an unknown law.
    """
    form = None if check_law(settings.law) == AUTO else find_form(settings.law)
    families = [name for name in family_names() if name in points.family]
    if not families:
        raise DataError("there are no points to fit")
    fits: dict[str, FamilyFit] = {}
    refused: dict[str, str] = {}
    for family in families:
        held = {**(hold or {}).get("", {}), **(hold or {}).get(family, {})}
        before = [d for d in points.dropped if d.family == family]
        try:
            part = points.of_family(family)
            if form is not None:
                fits[family] = fit_family(part, family, form, settings, held, before)
                continue
            choice = choose_law(part, family, settings, held)
            found = fit_family(part, family, find_form(choice.law), settings, held, before)
            fits[family] = dataclasses.replace(found, choice=choice)
        except DataError as error:
            refused[family] = str(error)
    if not fits:
        raise DataError("; ".join(dict.fromkeys(refused.values())))
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
    first = point_fit(points, family, form, settings, hold)
    rows, held, unknown, constant_status = (
        first.rows,
        first.held,
        first.unknown,
        first.constant_status,
    )
    problem, constants, objectives = first.problem, first.constants, first.objectives
    spread = _spread(problem, constants, objectives, rows, settings, family)
    if lost := [name for name in spread.profiles if spread.intervals[name] == (None, None)]:
        # Any value fits, so the rule for what is not known does, and all is fitted with it.
        unknown += lost
        constant_status |= dict.fromkeys(lost, "not identified: any value fits as well")
        problem = make_problem(rows, form, settings, held, unknown)
        constants, objectives = search(problem)
        curves = {name: spread.profiles[name] for name in lost}
        spread = _spread(problem, constants, objectives, rows, settings, family)
        spread.profiles |= curves
    constant_status |= _open_ends(spread, unknown)
    intervals = spread.intervals
    for name in (*held, *unknown):
        value = None if name in unknown else float(constrain(form, constants[0])[form.index(name)])
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
        theta=constants[0],
        samples=spread.samples,
        unknown=frozenset(unknown),
        fitted_range=range_of(rows),
        sequence_length=rows.sequence_length,
        vocabulary=rows.vocabulary,
        recipe=rows.recipes.get(rows.run[int(np.argmin(rows.loss))]),
        source="fit",
        objective=float(objectives[0]),
        intervals={name: intervals.get(name, (None, None)) for name in form.constants},
        constant_status=constant_status,
        minima=_told(form, constants[close], objectives[close], unknown),
        profiles=spread.profiles,
        points=rows,
        predicted=predicted,
        residuals=np.log(predicted) - np.log(rows.loss),
        dropped=[*(dropped or []), *first.left_out],
        r2=r_squared(rows.loss, predicted),
        condition=condition_of(problem, constants[0]),
        held_out=held_out_check(problem, constants[0], rows),
        tied=settings.tie,
        held=list(held),
        isoflop=isoflop(points),
        notes=fit_notes(problem, constants[0], rows, residuals, form),
    )


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
    problem: FitProblem,
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


def _with_floors(problem: FitProblem, minima: Floats) -> Floats:
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
    problem: FitProblem, minima: Floats, rows: Points, settings: FitSettings, family: str
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
                for name, value in zip(form.constants, constrain(form, constants), strict=True)
                if name not in unknown
            },
            "objective": float(objective),
        }
        for constants, objective in zip(minima, objectives, strict=True)
    ]


Source = Points | str | Path | Sequence[str | Path]


def fit(
    source: Source,
    *,
    law: str = "data-constrained",
    hold: str | Path | Mapping[str, Any] | None = None,
    two_stage: bool = False,
    tie: bool = False,
    huber: float = 1e-3,
    residual: Literal["log", "loss"] = "log",
    bootstraps: int = 500,
    seed: int = 0,
    keep_overfitted: bool = False,
    rise: float | None = None,
    max_epochs: float | None = None,
    at: At = "final",
    force: bool = False,
    all_settings: bool = False,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
) -> FitReport:
    """Fit a law to each family of runs; all is said of what was left out and what is not known.

    `source` is a CSV of points, run folders or folders that hold runs, or Points. `law` is one
    of chinchilla, data-constrained, overfitting, penalty and coupled, or "auto": chosen for each
    family by its error on runs held out (`scaling/choosing.py`). `hold` are constants that
    stay as they are: a file, {"E": 1.9} or {"ar": {"E": 1.9}}. `at` is "final" (each run's last
    evaluation) or "best". Of runs with equal size, length and unique tokens the best setting
    (dropout, weight decay, …) stays, unless `all_settings`. See docs/fit.md for the other settings.
    Raises DataError, RunError or UserError for points that are damaged, not comparable or cannot
    determine the law.
    """
    for name, value in (("--rise", rise), ("--max-epochs", max_epochs), ("--huber", huber)):
        if value is not None and not value > 0:
            raise UserError(f"{name} {value:g}: give a positive number")
    points = read_source(
        source, at=at, force=force, all_settings=all_settings, columns=columns, where=where
    )
    settings = FitSettings(
        law=law,
        tie=tie,
        delta=huber,
        residual=residual,
        bootstraps=bootstraps,
        seed=seed,
        keep_overfitted=keep_overfitted,
        max_epochs=max_epochs,
        two_stage=two_stage,
    )
    if rise is not None:
        settings = replace(settings, rise=rise)
    report = with_extrapolation_error(fit_points(points, settings, _hold(hold)))
    return replace(report, notes=[*report.notes, *plateau_notes(points)])


def read_source(
    source: Source,
    *,
    at: At = "final",
    force: bool = False,
    all_settings: bool = False,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
) -> Points:
    """The points of a CSV file, of run folders, or Points as they are."""
    if isinstance(source, Points):
        return source
    places = [source] if isinstance(source, str | Path) else list(source)
    tables = [place for place in places if Path(place).suffix.lower() == ".csv"]
    if not tables:
        return read_points(places, at, force, all_settings)
    if len(places) > 1:
        raise UserError("give one CSV file, or run folders, not both and not several files")
    return read_csv(tables[0], columns, where, all_settings)


def _hold(hold: str | Path | Mapping[str, Any] | None) -> Hold | None:
    if hold is None:
        return None
    if isinstance(hold, str | Path):
        return read_hold(hold)
    per_family = {k: dict(v) for k, v in hold.items() if isinstance(v, Mapping)}
    return per_family | {"": {k: float(v) for k, v in hold.items() if not isinstance(v, Mapping)}}

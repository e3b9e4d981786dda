"""Fit scaling laws to runs or to a table of points: global search, intervals, checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.results import Note, note
from epochal.scaling.choose import AUTO, choose_law
from epochal.scaling.extrapolation import (
    extrapolation_error,
    held_out_check,
    unigram_level_notes,
)
from epochal.scaling.forms import Form, constrain, not_identified
from epochal.scaling.intervals import Spread, spread
from epochal.scaling.isoflop import isoflop
from epochal.scaling.law import SINGLE_EPOCH, find_form
from epochal.scaling.law_files import read_fixed
from epochal.scaling.notes import ConstantStatus, FitNote
from epochal.scaling.options import FitOptions
from epochal.scaling.point_fit import PointFit, make_problem, point_fit, search
from epochal.scaling.points import Dropped, Points
from epochal.scaling.read import Source, read_source
from epochal.scaling.result import FamilyFit, FitReport
from epochal.scaling.solver import FitProblem

WITHIN = 0.01
"""Minima whose objective is within this share of the lowest are all reported."""
_TRADE_OFF = 1e3

Fixed = Mapping[str, Mapping[str, float]]
"""family → constants (A, B, …) that are not fitted; the key "" is for all families."""


def fit(source: Source, options: FitOptions | None = None) -> FitReport:
    """Fit a law to each family of runs; reports what was left out and what is not identified.

    `source` is a CSV of points, run folders or folders that hold runs, or Points. Raises DataError,
    RunError or UserError for points that are damaged, not comparable or cannot determine the law,
    OptionError for an option that the kind of source does not take.
    """
    options = options or FitOptions()
    points = read_source(source, options)
    report = fit_points(points, options)
    return dataclasses.replace(report, notes=[*report.notes, *unigram_level_notes(points)])


def fit_points(points: Points, options: FitOptions) -> FitReport:
    """Fit every family of `points`; a family that cannot be fitted is refused with the reason.

    With the law "auto" each family gets the one that `choose_law` chooses for it. Raises
    DataError if no family's points can determine the law, OptionError for an unknown law.
    """
    form = None if options.law == AUTO else find_form(options.law)
    fix = _fixed(options.fix)
    families = [name for name in family_names() if name in points.family]
    if not families:
        raise DataError("there are no points to fit")
    fits: dict[str, FamilyFit] = {}
    refused: dict[str, str] = {}
    for family in families:
        fixed = {**fix.get("", {}), **fix.get(family, {})}
        before = [d for d in points.dropped if d.family == family]
        try:
            part = points.of_family(family)
            if form is not None:
                fits[family] = _fit_family(part, family, form, options, fixed, before)
                continue
            choice = choose_law(part, family, options, fixed)
            chosen = _fit_family(part, family, find_form(choice.law), options, fixed, before)
            fits[family] = dataclasses.replace(chosen, choice=choice)
        except DataError as error:
            refused[family] = str(error)
    if not fits:
        raise DataError("; ".join(dict.fromkeys(refused.values())))
    return FitReport(
        law=options.law,
        families=fits,
        refused=refused,
        options=options,
        notes=list(points.notes),
    )


def _fit_family(
    points: Points,
    family: str,
    form: Form,
    options: FitOptions,
    fix: Mapping[str, float] | None = None,
    dropped: list[Dropped] | None = None,
) -> FamilyFit:
    """Fit one family's points. Raises DataError if they cannot determine the law."""
    estimate = point_fit(points, family, form, options, fix)
    rows, fixed, unknown = estimate.rows, estimate.fixed, estimate.unknown
    problem, constants, objectives, errors = _with_intervals(estimate, options, family)
    theta = constants[0]
    intervals = errors.intervals
    for name in (*fixed, *unknown):
        value = None if name in unknown else float(constrain(form, theta)[form.index(name)])
        intervals[name] = (value, value)
    residuals = problem.residuals(constants[:1])[0]
    predicted = (
        np.exp(problem.log_loss + residuals) if options.residual == "log" else rows.loss + residuals
    )
    close = _close(objectives)
    held = fixed | not_identified(unknown)
    error = extrapolation_error(
        rows, form, theta, held, frozenset(unknown), tie_exponents=options.tie_exponents
    )
    return FamilyFit(
        family=family,
        form=form,
        theta=theta,
        samples=errors.samples,
        unknown=frozenset(unknown),
        fitted_range=rows.ranges,
        sequence_length=rows.sequence_length,
        vocabulary=rows.vocabulary,
        recipe=rows.recipes.get(rows.run[int(np.argmin(rows.loss))]),
        source="fit",
        extrapolation_error=error,
        objective=float(objectives[0]),
        intervals={name: intervals.get(name, (None, None)) for name in form.constants},
        constant_status=estimate.constant_status,
        minima=_minima(form, constants[close], objectives[close], unknown),
        profiles=errors.profiles,
        points=rows,
        predicted=predicted,
        residuals=np.log(predicted) - np.log(rows.loss),
        dropped=[*(dropped or []), *estimate.left_out],
        r2=_r_squared(rows.loss, predicted),
        condition=_condition_of(problem, theta),
        held_out=held_out_check(problem, theta, rows),
        tied_exponents=options.tie_exponents,
        fixed=list(fixed),
        isoflop=isoflop(points),
        notes=_fit_notes(problem, theta, rows, residuals, form),
    )


def _fixed(fix: str | Path | Mapping[str, Any] | None) -> Fixed:
    """Constants to fix per family, from a file, {"E": 1.9} or {family: {"E": 1.9}}."""
    if fix is None:
        return {}
    if isinstance(fix, str | Path):
        return read_fixed(fix)
    per_family = {k: dict(v) for k, v in fix.items() if isinstance(v, Mapping)}
    return per_family | {"": {k: float(v) for k, v in fix.items() if not isinstance(v, Mapping)}}


def _with_intervals(
    estimate: PointFit, options: FitOptions, family: str
) -> tuple[FitProblem, Floats, Floats, Spread]:
    """(problem, minima, objectives, intervals); adds to the estimate's status of constants.

    A half-life that any value fits as well is not identified: all is fitted again without it.
    """
    rows, unknown = estimate.rows, estimate.unknown
    problem, constants, objectives = estimate.problem, estimate.constants, estimate.objectives
    errors = spread(problem, constants[_close(objectives)], objectives[0], rows, options, family)
    if lost := [name for name in errors.profiles if errors.intervals[name] == (None, None)]:
        unknown += lost
        estimate.constant_status |= dict.fromkeys(lost, note(ConstantStatus.ANY_VALUE))
        problem = make_problem(rows, problem.form, options, estimate.fixed, unknown)
        constants, objectives = search(problem)
        curves = {name: errors.profiles[name] for name in lost}
        errors = spread(
            problem, constants[_close(objectives)], objectives[0], rows, options, family
        )
        errors.profiles |= curves
    for name in errors.profiles:
        low, high = errors.intervals.get(name, (None, None))
        if name in unknown:
            continue
        if high is None and low is not None:
            estimate.constant_status[name] = note(ConstantStatus.AT_LEAST, low=low)
        elif low is None and high is not None:
            estimate.constant_status[name] = note(ConstantStatus.AT_MOST, high=high)
    return problem, constants, objectives, errors


def _close(objectives: Floats) -> NDArray[np.bool_]:
    """Which minima are within 1 % of the lowest."""
    close: NDArray[np.bool_] = objectives <= objectives[0] * (1 + WITHIN) + 1e-24
    return close


def _minima(
    form: Form, minima: Floats, objectives: Floats, unknown: list[str]
) -> list[dict[str, float]]:
    """Constants and objective of each minimum, without those that are not identified."""
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


def _r_squared(seen: Floats, predicted: Floats) -> float:
    """R² of the loss; NaN if all losses are the same."""
    total = ((seen - seen.mean()) ** 2).sum()
    return float(1 - ((predicted - seen) ** 2).sum() / total) if total > 0 else float("nan")


def _condition_of(problem: FitProblem, constants: Floats) -> float:
    """Largest over smallest singular value of the gradient, its columns scaled to length 1."""
    _, matrix = problem.map()
    gradient = (matrix.T @ problem.residuals_with_gradient(constants[None])[1][0]).T
    lengths = np.linalg.norm(gradient, axis=0)
    if (lengths == 0).any():
        return float("inf")
    values = np.linalg.svd(gradient / lengths, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")


def _fit_notes(
    problem: FitProblem, constants: Floats, rows: Points, residuals: Floats, form: Form
) -> list[Note]:
    """Warnings that belong to the numbers."""
    notes = []
    values = dict(zip(form.constants, constrain(form, constants).tolist(), strict=True))
    if "E" in problem.free and values["E"] < 0.01:
        notes.append(note(FitNote.NO_FLOOR))
    condition = _condition_of(problem, constants)
    if condition > _TRADE_OFF:
        notes.append(note(FitNote.TRADE_OFF, condition=condition))
    single = rows.epochs <= SINGLE_EPOCH
    if "R_D" in form.constants and "A" not in problem.free and single.sum() >= 3:
        offset = float(np.median(residuals[single]))
        if abs(offset) > 0.005:
            notes.append(note(FitNote.FIXED_CONSTANTS_OFF, offset=offset))
    longest = float(rows.epochs.max())
    if "R_D" in problem.free and longest < values["R_D"]:
        half_life = values["R_D"]
        notes.append(
            note(FitNote.HALF_LIFE_BEYOND_RUNS, half_life_constant=half_life, longest=longest)
        )
    budgets = np.unique(np.round(np.log(rows.unique_tokens), 2))
    if "R_D" in problem.free and len(budgets) == 1:
        notes.append(note(FitNote.ONE_UNIQUE_BUDGET))
    return notes

"""Fit scaling laws to runs or to a table of points: global search, intervals, checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from epochal.errors import DataError, UserError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.results import Note, NoteCode, note
from epochal.scaling.checks import (
    HeldOutCheck,
    Interval,
    IsoFlop,
    Spread,
    extrapolation_error,
    held_out_check,
    isoflop,
    spread,
)
from epochal.scaling.choose import Choice, choose_law
from epochal.scaling.estimate import (
    ConstantStatus,
    PointFit,
    close_to_best,
    make_problem,
    point_fit,
)
from epochal.scaling.fixed import fixed_for, read_fixed
from epochal.scaling.floor import SharedFloor, shared_floor
from epochal.scaling.forms import FORMS
from epochal.scaling.forms.form import FitProblem, Form, not_identified
from epochal.scaling.identified import condition_of
from epochal.scaling.law import (
    SINGLE_EPOCH,
    ScalingLaw,
    write_laws,
)
from epochal.scaling.limits import Limits, fit_limits
from epochal.scaling.options import LIMIT_LAWS, FitOptions, check_law
from epochal.scaling.points import Dropped, Points, unigram_level_notes
from epochal.scaling.read import Source, read_all
from epochal.scaling.repetition import RepetitionCosts, penalty_notes, repetition_costs
from epochal.scaling.search import search

_TRADE_OFF = 1e3


class FitNote(NoteCode):
    """Warnings about one family's fit."""

    NO_FLOOR = "no_floor"
    """E is nearly 0: the runs do not reach far enough to show a floor."""
    TRADE_OFF = "trade_off"
    """condition: the constants trade off."""
    FIXED_CONSTANTS_OFF = "fixed_constants_off"
    """offset: share by which the fixed constants are off at one epoch."""
    HALF_LIFE_BEYOND_RUNS = "half_life_beyond_runs"
    """half_life_constant: R_D; longest: epochs of the longest run."""
    ONE_UNIQUE_BUDGET = "one_unique_budget"
    """All runs have one number of unique tokens."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FamilyFit(ScalingLaw):
    """A law fitted to one family's points."""

    objective: float
    """Σ of Huber terms."""
    intervals: dict[str, Interval]
    """95 %; an upper end of None is open, and both None: not identified."""
    constant_status: dict[str, Note]
    """Constants that are fixed, open on one side or not identified."""
    minima: list[dict[str, float]]
    """Every minimum within 1 % of the lowest objective: its constants and `objective`."""
    profiles: dict[str, list[tuple[float, float]]] = field(metadata={"json": False})
    """(value, objective) of half-lives fixed there, all others fitted again."""
    points: Points
    """The points of the fit."""
    predicted: Floats
    """[points], nats per token."""
    residuals: Floats
    """[points], log predicted − log seen."""
    dropped: list[Dropped]
    """Runs that were left out, and why."""
    r2: float
    """R² of the loss; NaN if all losses are the same."""
    condition: float
    """Of the scaled gradient in centred variables: 1 is best, above 1e3 constants trade off."""
    held_out: HeldOutCheck | None
    """None if too few runs are left to fit."""
    tied_exponents: bool
    """Whether beta = alpha."""
    fixed: list[str]
    """Constants that were not fitted."""
    isoflop: IsoFlop | None
    """None if no compute budget has three sizes."""
    notes: list[Note]
    """Warnings about the numbers."""
    choice: Choice | None = None
    """Why it is this law, if `law` was "auto"."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitReport:
    """Fits of all families of a set of points."""

    law: str
    """As asked for; with "auto" each family has its own."""
    families: dict[str, FamilyFit]
    """Family → its law; only those that could be fitted."""
    refused: dict[str, str]
    """Families whose points cannot determine the law, and the error."""
    options: FitOptions
    """As given."""
    floor: SharedFloor | None = None
    """The E of all families, with `share_floor`; the other constants' intervals hold it there."""
    repetition: RepetitionCosts | None = None
    """What repeating costs each recipe, whatever the law; None if not asked for."""
    limits: Limits | None = None
    """With the law tuned-size or ensemble, instead of laws of families."""
    notes: list[Note] = field(default_factory=list)
    """What to know about the points."""

    def save(self, path: str | Path) -> None:
        """Write the laws, with their resamples, to a .toml or .json file for `epochal plan`.

        Raises UserError for another suffix, and for limits, from which nothing can be planned.
        """
        if self.limits is not None:
            raise UserError(f"the law {self.law} says nothing of length: it has no law file")
        write_laws(path, list(self.families.values()), self.options)


def fit(source: Source, options: FitOptions | None = None) -> FitReport:
    """Fit a law to each family of runs; reports what was left out and what is not identified.

    `source` is a CSV of points, run folders or folders that hold runs, or Points. Raises DataError,
    RunError or UserError for points that are damaged, not comparable or cannot determine the law,
    OptionError for an option that the kind of source does not take.
    """
    options = options or FitOptions()
    if options.law in LIMIT_LAWS:
        found = fit_limits(source, options)
        return FitReport(law=options.law, families={}, refused={}, options=options, limits=found)
    table = read_all(source, options)
    points = table.points if options.all_settings else table.best()
    report = fit_points(points, options)
    of_recipes = table.best(within_recipes=True)
    return replace(
        report,
        repetition=repetition_costs(of_recipes, options, read_fixed(options.fix)),
        notes=[*report.notes, *unigram_level_notes(points)],
    )


def fit_points(points: Points, options: FitOptions) -> FitReport:
    """Fit every family of `points`; a family that cannot be fitted is refused with the reason.

    With the law "auto" each family gets the one that `choose_law` chooses for it. Raises
    DataError if no family's points can determine the law, or, for a floor to share, if those of
    one cannot; OptionError for an unknown law.
    """
    form = FORMS.get(check_law(options.law))  # None: "auto"
    fix = read_fixed(options.fix)
    families = [name for name in family_names() if name in points.family]
    if not families:
        raise DataError("there are no points to fit")
    asked: dict[str, tuple[Points, Form, dict[str, float], Choice | None]] = {}
    refused: dict[str, str] = {}
    for family in families:
        fixed = fixed_for(fix, family)
        try:
            part = points.of_family(family)
            if form is not None:
                asked[family] = part, form, fixed, None
                continue
            found = choose_law(part, family, options, fixed)
            asked[family] = part, FORMS[found.law], fixed, found
        except DataError as error:
            refused[family] = str(error)
    floor = None
    if options.share_floor:
        floor = shared_floor(
            {
                family: point_fit(part, family, own, options, fixed)
                for family, (part, own, fixed, _) in asked.items()
            }
        )
    fits: dict[str, FamilyFit] = {}
    for family, (part, own, fixed, choice) in asked.items():
        before = [d for d in points.dropped if d.family == family]
        shared = {} if floor is None else {"E": floor.value}
        try:
            fit = _fit_family(part, family, own, options, fixed | shared, before)
            fits[family] = replace(fit, choice=choice)
        except DataError as error:
            refused[family] = str(error)
    if not fits:
        raise DataError("; ".join(dict.fromkeys(refused.values())))
    return FitReport(
        law=options.law,
        families=fits,
        refused=refused,
        options=options,
        floor=floor,
        notes=list(points.notes),
    )


def _fit_family(
    points: Points,
    family: str,
    form: Form,
    options: FitOptions,
    fix: Mapping[str, float],
    dropped: list[Dropped],
) -> FamilyFit:
    """Fit one family's points. Raises DataError if they cannot determine the law."""
    estimate = point_fit(points, family, form, options, fix)
    rows, fixed, unknown = estimate.rows, estimate.fixed, estimate.unknown
    problem, constants, objectives, errors = _with_intervals(estimate, options, family)
    theta = constants[0]
    intervals = errors.intervals
    for name in (*fixed, *unknown):
        value = None if name in unknown else float(form.constrain(theta)[form.index(name)])
        intervals[name] = (value, value)
    residuals = problem.residuals(constants[:1])[0]
    predicted = (
        np.exp(problem.log_loss + residuals) if options.residual == "log" else rows.loss + residuals
    )
    close = close_to_best(objectives)
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
        dropped=[*dropped, *estimate.left_out],
        r2=_r_squared(rows.loss, predicted),
        condition=condition_of(problem, theta),
        held_out=held_out_check(problem, theta, rows),
        tied_exponents=options.tie_exponents,
        fixed=list(fixed),
        isoflop=isoflop(points),
        notes=_fit_notes(problem, theta, rows, residuals, form),
    )


def _with_intervals(
    estimate: PointFit, options: FitOptions, family: str
) -> tuple[FitProblem, Floats, Floats, Spread]:
    """(problem, minima, objectives, intervals); adds to the estimate's status of constants.

    A half-life that any value fits as well is not identified: all is fitted again without it.
    """
    rows, unknown = estimate.rows, estimate.unknown
    problem, constants, objectives = estimate.problem, estimate.constants, estimate.objectives
    errors = spread(
        problem, constants[close_to_best(objectives)], objectives[0], rows, options, family
    )
    if lost := [name for name in errors.profiles if errors.intervals[name] == (None, None)]:
        unknown += lost
        estimate.constant_status |= dict.fromkeys(lost, note(ConstantStatus.ANY_VALUE))
        problem = make_problem(rows, problem.form, options, estimate.fixed, unknown)
        constants, objectives = search(problem)
        curves = {name: errors.profiles[name] for name in lost}
        errors = spread(
            problem, constants[close_to_best(objectives)], objectives[0], rows, options, family
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


def _minima(
    form: Form, minima: Floats, objectives: Floats, unknown: list[str]
) -> list[dict[str, float]]:
    """Constants and objective of each minimum, without those that are not identified."""
    return [
        {
            **{
                name: float(value)
                for name, value in zip(form.constants, form.constrain(constants), strict=True)
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


def _fit_notes(
    problem: FitProblem, constants: Floats, rows: Points, residuals: Floats, form: Form
) -> list[Note]:
    """Warnings that belong to the numbers."""
    notes = []
    values = dict(zip(form.constants, form.constrain(constants).tolist(), strict=True))
    if "E" in problem.free and values["E"] < 0.01:
        notes.append(note(FitNote.NO_FLOOR))
    condition = condition_of(problem, constants)
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
    if "R_D" in problem.free and len(np.unique(rows.budgets)) == 1:
        notes.append(note(FitNote.ONE_UNIQUE_BUDGET))
    return [*notes, *penalty_notes(form, values)]

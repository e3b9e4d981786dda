"""The point estimate of a law from a family's runs: which rows it takes, what they can identify,
and every minimum; intervals come later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.results import Note, note
from epochal.scaling.forms import FORMS, Form, Inputs, not_identified, unconstrain
from epochal.scaling.law import SINGLE_EPOCH, ScalingLaw
from epochal.scaling.notes import ConstantStatus, DropReason
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Dropped, Points
from epochal.scaling.solver import FitProblem, polish
from epochal.scaling.starts import distinct, global_search
from epochal.units import format_count

STAGE_1_EPOCHS = 2.5
"""Most epochs of rows in stage 1 of a two-stage fit (Muennighoff's notebook)."""
_POLISH_WITHIN = 0.03
_MOST_POLISHED = 12
_LARGE = 1.1  # rows with N above N_opt(u) by this factor can identify R_N


@dataclass(slots=True)
class PointFit:
    """A law on the rows that it takes, with every minimum."""

    rows: Points
    left_out: list[Dropped]
    fixed: dict[str, float]
    """Unconstrained values of constants that are not fitted."""
    unknown: list[str]
    """Half-lives that the rows do not identify."""
    constant_status: dict[str, Note]
    problem: FitProblem
    constants: Floats
    """Unconstrained constants of the minima, best first, [M, k]."""
    objectives: Floats
    """[M]."""


def point_fit(
    points: Points,
    family: str,
    form: Form,
    options: FitOptions,
    fix: Mapping[str, float] | None = None,
    polished: int = _MOST_POLISHED,
) -> PointFit:
    """Fit one family's points, without intervals; up to `polished` of the best minima are polished.

    `fix` are constants that are not fitted. Raises DataError if the points cannot determine the
    law.
    """
    rows, left_out = _select_rows(points, form, options)
    fixed = _fixed_constants(form, fix or {})
    status = dict.fromkeys(fixed, note(ConstantStatus.FIXED))
    if options.two_stage:
        fixed |= _stage_1(rows, family, form, options, fixed)
        status = dict.fromkeys(fixed, note(ConstantStatus.FIXED_FROM_STAGE_1)) | status
    unknown = _not_repeated(rows, form, fixed)
    status |= dict.fromkeys(unknown, note(ConstantStatus.NO_REPETITION))
    if "R_D" in unknown:
        rows, more = _single_epoch(rows)
        left_out += more
    problem = make_problem(rows, form, options, fixed, unknown)
    _check_determined(problem, rows, family, left_out)
    constants, objectives = search(problem, polished)
    if "R_N" in problem.free and not _large_models(rows, form, constants[0]):
        unknown.append("R_N")
        status["R_N"] = note(ConstantStatus.NO_LARGE_MODELS)
        problem = make_problem(rows, form, options, fixed, unknown)
        constants, objectives = search(problem, polished)
    return PointFit(rows, left_out, fixed, unknown, status, problem, constants, objectives)


def _select_rows(points: Points, form: Form, options: FitOptions) -> tuple[Points, list[Dropped]]:
    """The points that `form` is fitted to, and those left out with the reason.

    The Chinchilla law takes only runs of about one epoch. A law that is monotone in epochs
    takes no overfitted runs: it cannot express them, and they would move its constants.
    """
    limit = options.max_epochs
    if limit is None and form.name == "chinchilla":
        limit = SINGLE_EPOCH
    reasons: dict[int, Note] = {}
    if limit is not None:
        for index in np.flatnonzero(points.epochs > limit * (1 + 1e-9)).tolist():
            epochs = float(points.epochs[index])
            reasons[index] = note(DropReason.TOO_MANY_EPOCHS, limit=limit, epochs=epochs)
    if form.monotone and not options.keep_overfitted:
        threshold = options.overfit_threshold
        for index, above in _overfitted(points, threshold).items():
            reason = note(DropReason.OVERFITTED, above=above, threshold=threshold)
            reasons.setdefault(index, reason)
    keep = np.array([index not in reasons for index in range(len(points))], dtype=bool)
    return points.take(keep), [points.drop(index, reason) for index, reason in reasons.items()]


def _overfitted(points: Points, threshold: float) -> dict[int, float]:
    """Index → share by which the loss is above the lowest of shorter, otherwise equal runs."""
    alike: dict[tuple[float, float], list[int]] = defaultdict(list)
    for index in np.argsort(points.tokens, kind="stable"):
        alike[float(points.params[index]), float(points.unique_tokens[index])].append(int(index))
    above = {}
    for indices in alike.values():
        lowest = np.inf
        for index in indices:
            if points.loss[index] > lowest * (1 + threshold):
                above[index] = float(points.loss[index] / lowest - 1)
            lowest = min(lowest, float(points.loss[index]))
    return above


def _check_determined(
    problem: FitProblem, points: Points, family: str, left_out: Sequence[Dropped] = ()
) -> None:
    """Raise DataError, naming what is missing, if no fit could determine the constants.

    `left_out` are the points that were dropped before: too few may be left because of them.
    """
    free, rows = problem.free, len(points)
    if rows <= len(free):
        why = f"; {len(left_out)} were left out of the fit" if left_out else ""
        raise DataError(
            f"{family}: {rows} points cannot determine the {len(free)} constants of the law "
            f"{problem.form.name} ({', '.join(free)}){why}; give at least {len(free) + 1}, tie the "
            "exponents, or fix some constants"
        )
    if "alpha" not in free and "E" not in free:
        return
    need = 2 if problem.tie else 3
    sizes, lengths = (np.unique(np.round(np.log(v), 3)) for v in (points.params, points.tokens))
    if "A" in free and len(sizes) < need:
        raise DataError(
            f"{family}: all runs have {_few(points.params)} parameters, so A, alpha and E cannot "
            f"be separated; give runs of at least {need} sizes, or fix constants"
        )
    if "B" in free and len(lengths) < need:
        raise DataError(
            f"{family}: all runs saw {_few(points.tokens)} tokens, so B, beta and E cannot be "
            f"separated; give runs of at least {need} lengths, or fix constants"
        )
    single = bool((points.epochs <= SINGLE_EPOCH).all())
    if {"A", "B"} <= set(free) and single and np.ptp(np.log(points.flops)) < 0.1:
        raise DataError(
            f"{family}: all runs have one compute budget ({format_count(points.flops[0])} FLOPs), "
            "where more parameters always mean fewer tokens, so their effects cannot be "
            "separated; give runs of at least two budgets"
        )


def _few(values: np.ndarray) -> str:
    return " or ".join(format_count(v) for v in np.unique(values)[:3])


def _single_epoch(rows: Points) -> tuple[Points, list[Dropped]]:
    """The rows of one epoch, and the one that repeats: alone it cannot identify a half-life."""
    repeated = rows.epochs > SINGLE_EPOCH
    reason = note(DropReason.ONLY_REPEATED)
    dropped = [rows.drop(index, reason) for index in np.flatnonzero(repeated).tolist()]
    return rows.take(~repeated), dropped


def _large_models(rows: Points, form: Form, constants: Floats) -> bool:
    """Whether at least two rows have N well above N_opt(u); only these identify R_N."""
    law = ScalingLaw(family="", form=form, theta=constants)
    best = law.optimal_params(np.minimum(rows.tokens, rows.unique_tokens))
    return int((rows.params > _LARGE * best).sum()) >= 2


def _fixed_constants(form: Form, fix: Mapping[str, float]) -> dict[str, float]:
    """Unconstrained values of the constants to fix.

    Raises DataError for a constant that the law does not have, or a value that is not positive.
    """
    strange = [name for name in fix if name not in form.constants]
    if strange:
        raise DataError(
            f"the law {form.name} has no constant {strange[0]!r} to fix; it has "
            f"{', '.join(form.constants)}"
        )
    bad = [name for name, value in fix.items() if not np.isfinite(value) or value <= 0]
    if bad:
        raise DataError(f"cannot fix {bad[0]} = {fix[bad[0]]!r}: it is not a positive number")
    values = unconstrain(form, np.array([fix.get(name, 1.0) for name in form.constants]))
    return {name: float(values[form.index(name)]) for name in form.constants if name in fix}


def make_problem(
    rows: Points, form: Form, options: FitOptions, fixed: Mapping[str, float], unknown: list[str]
) -> FitProblem:
    """The law on `rows`, with what is fixed and the rule for constants that are `unknown`."""
    everything = {**fixed, **not_identified(unknown)}
    return FitProblem(
        form,
        Inputs.at(rows.params, rows.tokens, rows.unique_tokens),
        np.log(rows.loss),
        options.huber,
        options.residual,
        options.tie_exponents and "alpha" not in everything and "beta" not in everything,
        everything,
    )


def _not_repeated(rows: Points, form: Form, fixed: Mapping[str, float]) -> list[str]:
    """Constants that rows of one epoch do not identify.

    Raises DataError for a law of overfitting.
    """
    if (rows.epochs > SINGLE_EPOCH).sum() >= 2:
        return []
    if "K" in form.constants and "K" not in fixed:
        raise DataError(
            f"fewer than two runs repeat their tokens, so the penalty on repetition of the law "
            f"{form.name} cannot be determined; fit the law chinchilla, or add runs of several "
            "epochs"
        )
    return [name for name in ("R_D", "R_N") if name in form.constants and name not in fixed]


def search(problem: FitProblem, most: int = _MOST_POLISHED) -> tuple[Floats, Floats]:
    """All distinct minima, best first, up to `most` of the best polished: unconstrained constants
    [M, k] and objectives [M]."""
    constants, objectives = global_search(problem)
    near = objectives <= objectives[0] * (1 + _POLISH_WITHIN) + 1e-24
    ends = [polish(problem, c) for c in constants[near][:most]]
    for index, (end, value) in enumerate(ends):
        if value < objectives[index]:
            constants[index], objectives[index] = end, value
    return distinct(problem, constants, objectives)


def _stage_1(
    rows: Points, family: str, form: Form, options: FitOptions, fixed: Mapping[str, float]
) -> dict[str, float]:
    """A, B, E, α, β from rows of up to 2.5 epochs, by the Chinchilla law."""
    part = rows.take(rows.epochs <= STAGE_1_EPOCHS)
    five = FORMS["chinchilla"]
    kept = {name: value for name, value in fixed.items() if name in five.constants}
    problem = make_problem(part, five, options, kept, [])
    _check_determined(problem, part, f"{family}, stage 1 (up to {STAGE_1_EPOCHS:g} epochs)")
    best = search(problem)[0][0]
    return {name: float(best[five.index(name)]) for name in five.constants} | dict(fixed)

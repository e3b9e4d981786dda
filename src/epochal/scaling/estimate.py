"""The point estimate of a law from a family's runs, with every minimum; intervals come later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.results import Note, NoteCode, note
from epochal.scaling.forms import CHINCHILLA
from epochal.scaling.forms.form import UNINFORMED, FitProblem, Form, Inputs, not_identified
from epochal.scaling.law import SINGLE_EPOCH, ScalingLaw
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Dropped, DropReason, Points, select_rows
from epochal.scaling.search import search
from epochal.units import format_count

_STAGE_1_EPOCHS = 2.5
"""Most epochs of rows in stage 1 of a two-stage fit (Muennighoff's notebook)."""
_WITHIN = 0.01
"""Minima whose objective is within this share of the lowest are all reported."""
_LARGE = 1.1  # rows with N above N_opt(u) by this factor can identify R_N


class ConstantStatus(NoteCode):
    """What is known about a constant besides its value and interval."""

    FIXED = "fixed"
    FIXED_FROM_STAGE_1 = "fixed_from_stage_1"
    LOG_VOCABULARY = "log_vocabulary"
    """Fixed at the logarithm of the runs' vocabulary."""
    NO_REPETITION = "no_repetition"
    """Not identified: fewer than two runs repeat their tokens."""
    NO_LARGE_MODELS = "no_large_models"
    """Not identified: no two runs have N above 1.1·N_opt(U)."""
    ANY_VALUE = "any_value"
    """Not identified: any value fits as well."""
    AT_LEAST = "at_least"
    """low."""
    AT_MOST = "at_most"
    """high."""


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


def close_to_best(objectives: Floats) -> NDArray[np.bool_]:
    """Which of the objectives [M], lowest first, are within 1 % of it."""
    close: NDArray[np.bool_] = objectives <= objectives[0] * (1 + _WITHIN) + 1e-24
    return close


def point_fit(
    points: Points,
    family: str,
    form: Form,
    options: FitOptions,
    fix: Mapping[str, float] | None = None,
    polished: int = 12,
) -> PointFit:
    """Fit one family's points, without intervals; up to `polished` of the best minima are polished.

    `fix` are constants that are not fitted. Raises DataError if the points cannot determine the
    law.
    """
    rows, left_out = select_rows(points, form, options)
    fixed = _fixed_constants(form, fix or {})
    status = dict.fromkeys(fixed, note(ConstantStatus.FIXED))
    uninformed = _uninformed(rows, family, form, fixed)
    fixed |= uninformed
    status |= dict.fromkeys(uninformed, note(ConstantStatus.LOG_VOCABULARY))
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
    if "R_N" in problem.free:
        law = ScalingLaw(family="", form=form, theta=constants[0])
        best = law.optimal_params(np.minimum(rows.tokens, rows.unique_tokens))
        if (rows.params > _LARGE * best).sum() < 2:
            unknown.append("R_N")
            status["R_N"] = note(ConstantStatus.NO_LARGE_MODELS)
            problem = make_problem(rows, form, options, fixed, unknown)
            constants, objectives = search(problem, polished)
    return PointFit(rows, left_out, fixed, unknown, status, problem, constants, objectives)


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


def _fixed_constants(form: Form, fix: Mapping[str, float]) -> dict[str, float]:
    """Unconstrained values of the constants to fix.

    Raises DataError for a constant that the law does not have, or a value that is not positive.
    """
    fix = {form.renamed.get(name, name): value for name, value in fix.items()}
    strange = [name for name in fix if name not in form.constants]
    if strange:
        raise DataError(
            f"the law {form.name} has no constant {strange[0]!r} to fix; it has "
            f"{', '.join(form.constants)}"
        )
    bad = [name for name, value in fix.items() if not np.isfinite(value) or value <= 0]
    if bad:
        raise DataError(f"cannot fix {bad[0]} = {fix[bad[0]]!r}: it is not a positive number")
    values = form.unconstrain(np.array([fix.get(name, 1.0) for name in form.constants]))
    return {name: float(values[form.index(name)]) for name in form.constants if name in fix}


def _uninformed(
    rows: Points, family: str, form: Form, fixed: Mapping[str, float]
) -> dict[str, float]:
    """log ln V for the L0 of a law that has one and for which none is given.

    Raises DataError if the vocabulary is not known.
    """
    if UNINFORMED.name not in form.constants or UNINFORMED.name in fixed:
        return {}
    if rows.vocabulary is None:
        raise DataError(
            f"{family}: the law {form.name} needs the loss L0 of a model that knows nothing, and "
            "the vocabulary of these points is not known; fix L0 at ln V or the unigram entropy"
        )
    return {UNINFORMED.name: float(np.log(np.log(rows.vocabulary)))}


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
        options.tie_exponents and {"alpha", "beta"} <= set(form.constants) - set(everything),
        everything,
    )


def _not_repeated(rows: Points, form: Form, fixed: Mapping[str, float]) -> list[str]:
    """Constants that rows of one epoch do not identify.

    Raises DataError for a law of overfitting.
    """
    if (rows.epochs > SINGLE_EPOCH).sum() >= 2:
        return []
    if "P" in form.constants and "P" not in fixed:
        raise DataError(
            f"fewer than two runs repeat their tokens, so the penalty on repetition of the law "
            f"{form.name} cannot be determined; fit the law chinchilla, or add runs of several "
            "epochs"
        )
    return [name for name in ("R_D", "R_N") if name in form.constants and name not in fixed]


def _stage_1(
    rows: Points, family: str, form: Form, options: FitOptions, fixed: Mapping[str, float]
) -> dict[str, float]:
    """A, B, E, α, β from rows of up to 2.5 epochs, by the Chinchilla law."""
    part = rows.take(rows.epochs <= _STAGE_1_EPOCHS)
    five = CHINCHILLA
    kept = {name: value for name, value in fixed.items() if name in five.constants}
    problem = make_problem(part, five, options, kept, [])
    _check_determined(problem, part, f"{family}, stage 1 (up to {_STAGE_1_EPOCHS:g} epochs)")
    best = search(problem)[0][0]
    return {name: float(best[five.index(name)]) for name in five.constants} | dict(fixed)


def groups_of(names: Sequence[object]) -> NDArray[np.int64]:
    """Number of each element's group, groups numbered in order of first sight."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)

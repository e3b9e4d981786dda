"""The point estimate of a law from a family's runs, and which law the runs support.

An estimate has every minimum; intervals come later. Of several laws all see the same runs,
overfitted ones too, since whether runs overfit is the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.results import Note, NoteCode, note
from epochal.scaling.forms import CHINCHILLA, FORMS
from epochal.scaling.forms.form import FitProblem, Form, Inputs, not_identified
from epochal.scaling.law import SINGLE_EPOCH, ScalingLaw
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Dropped, DropReason, Points, select_rows
from epochal.scaling.search import best_ends, search
from epochal.units import format_count

_STAGE_1_EPOCHS = 2.5
"""Most epochs of rows in stage 1 of a two-stage fit (Muennighoff's notebook)."""
_LARGE = 1.1  # rows with N above N_opt(u) by this factor can identify R_N
CANDIDATES = tuple(
    sorted(
        (form.name for form in FORMS.values() if form.candidate),
        key=lambda name: len(FORMS[name].constants),
    )
)
"""The laws of which "auto" chooses one, from the fewest constants to the most."""
AICC_LEAD = 2.0
"""AICc must be lower by more than this (Burnham & Anderson 2002: below 2, both have support).
The rule: the law with the fewest constants, unless one with more has a lower held-out error by more
than one standard error and an AICc lower by more than this."""
_FOLDS = 12
_FEWEST_GROUPS = 4
_MOST_MINIMA = 6
_NOTHING = 1e-6
"""Errors below this are of rounding; differences between them say nothing."""


class ConstantStatus(NoteCode):
    """What is known about a constant besides its value and interval."""

    FIXED = "fixed"
    FIXED_FROM_STAGE_1 = "fixed_from_stage_1"
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


class ChoiceReason(NoteCode):
    """Why a law was chosen."""

    NOTHING_REPEATS = "nothing_repeats"
    """Fewer than two runs repeat their tokens."""
    ONLY_ONE = "only_one"
    """No other law could be fitted."""
    BETTER = "better"
    """than: law; error_lower, standard_error: shares; aicc_lower."""
    FEWEST_CONSTANTS = "fewest_constants"
    """No other law predicts held-out runs better."""
    GAIN_UNCLEAR = "gain_unclear"
    """ahead: laws whose gain is not clear."""


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
    polished: int = 12,
) -> PointFit:
    """Fit one family's points, without intervals; up to `polished` of the best minima are polished.

    `fix` are constants that are not fitted. Raises DataError if the points cannot determine the
    law.
    """
    rows, left_out = select_rows(points, form, options)
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
    if "K" in form.constants and "K" not in fixed:
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


@dataclass(frozen=True, slots=True)
class LawScore:
    """A law's scores."""

    law: str
    constants: int
    """That were fitted."""
    held_out_error: float | None
    """Mean of |log predicted − log seen| over runs whose group was left out of the fit."""
    aicc: float | None
    """Akaike's criterion, corrected for few runs; only differences count."""
    refused: str | None = None
    """The error, if it could not be fitted."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The law that was chosen, and why."""

    law: str
    reason: Note
    runs: int
    groups: int
    """Of runs that were held out together."""
    candidates: tuple[LawScore, ...]


def choose_law(
    points: Points,
    family: str,
    options: FitOptions,
    fix: Mapping[str, float] | None = None,
) -> Choice:
    """The law of CANDIDATES that one family's `points` support, by the rule of AICC_LEAD.

    Held-out error: runs of one size on the same unique tokens are left out together, all
    minima of the full fit are descended from again, and what was left out is predicted. AICc is
    that of the objective's own likelihood. Raises DataError where no candidate can be fitted.
    """
    first = CANDIDATES[0]
    if (points.epochs > SINGLE_EPOCH).sum() < 2:
        return Choice(first, note(ChoiceReason.NOTHING_REPEATS), len(points), 0, ())
    options = replace(options, keep_overfitted=True)
    fits: dict[str, PointFit] = {}
    refused: dict[str, str] = {}
    for name in CANDIDATES:
        try:
            fits[name] = point_fit(points, family, FORMS[name], options, fix, polished=2)
        except DataError as error:
            refused[name] = str(error)
    if not fits:
        raise DataError(refused[first])
    rows = next(iter(fits.values())).rows
    groups = _held_out_groups(rows)
    best = min(fits.values(), key=lambda fit: float(fit.objectives[0]))
    inside = float((np.abs(best.problem.residuals(best.constants[:1])) <= options.huber).mean())
    errors = {name: _held_out_errors(fit, groups) for name, fit in fits.items()}
    scores = {
        name: _aicc(fit.problem, float(fit.objectives[0]), inside) for name, fit in fits.items()
    }
    chosen, reason = _choose(errors, scores, groups)
    candidates = tuple(
        LawScore(
            name,
            len(fits[name].problem.free) if name in fits else len(FORMS[name].constants),
            float(errors[name].mean()) if name in fits else None,
            scores.get(name),
            refused.get(name),
        )
        for name in CANDIDATES
    )
    return Choice(chosen, reason, len(rows), int(groups.max()) + 1, candidates)


def _held_out_groups(rows: Points) -> NDArray[np.int64]:
    """Number of each row's group: rows of one size on the same unique tokens; with fewer than
    four of these, each row by itself."""
    curves = zip(
        np.round(np.log(rows.params), 3).tolist(),
        np.round(np.log(rows.unique_tokens), 3).tolist(),
        strict=True,
    )
    groups = groups_of(list(curves))
    return groups if groups.max() + 1 >= _FEWEST_GROUPS else np.arange(len(rows))


def _held_out_errors(fit: PointFit, groups: NDArray[np.int64]) -> Floats:
    """|log predicted − log seen| of each row by the law fitted without its fold, [n]."""
    folds = groups % min(int(groups.max()) + 1, _FOLDS)
    number = int(folds.max()) + 1
    weights = (folds[None] != np.arange(number)[:, None]).astype(float)
    ends, _ = best_ends(fit.problem, fit.constants[:_MOST_MINIMA], number, weights)
    errors = np.abs(replace(fit.problem, residual="log").residuals(ends))
    held: Floats = errors[folds, np.arange(len(groups))]
    return np.maximum(np.where(np.isfinite(held), held, 10.0), _NOTHING)


def _aicc(problem: FitProblem, objective: float, inside: float) -> float | None:
    """AICc of Huber's terms as a likelihood at its best scale; None with too few rows for it.

    −2 log L = 2n/(1 + inside)·log(objective/n): Laplace's likelihood if no row is within δ
    (`inside` 0), the normal one if all are. The scale counts as a constant. The same rule as
    that of the profiles' limit (intervals.py).
    """
    rows, count = problem.rows, len(problem.free) + 1
    if rows <= count + 1:
        return None
    least = float(problem.huber(np.array(_NOTHING)))
    misfit = 2 * rows / (1 + inside) * np.log(max(objective / rows, least))
    return float(misfit + 2 * count + 2 * count * (count + 1) / (rows - count - 1))


def _choose(
    errors: Mapping[str, Floats], scores: Mapping[str, float | None], groups: NDArray[np.int64]
) -> tuple[str, Note]:
    """(law, reason) by the rule of AICC_LEAD, from the fewest constants on."""
    names = list(errors)
    chosen, reason = names[0], note(ChoiceReason.ONLY_ONE)
    for name in names[1:]:
        lower, error = paired(errors[chosen], errors[name], groups)
        old, new = scores[chosen], scores[name]
        gain = None if old is None or new is None else old - new
        if lower > error and gain is not None and gain > AICC_LEAD:
            reason = note(
                ChoiceReason.BETTER,
                than=chosen,
                error_lower=lower,
                standard_error=error,
                aicc_lower=gain,
            )
            chosen = name
    if chosen == names[0] and len(names) > 1:
        ahead = [n for n in names[1:] if paired(errors[chosen], errors[n], groups)[0] > 0]
        reason = note(ChoiceReason.FEWEST_CONSTANTS)
        if ahead:
            reason = note(ChoiceReason.GAIN_UNCLEAR, ahead=ahead)
    return chosen, reason


def paired(old: Floats, new: Floats, groups: NDArray[np.int64]) -> tuple[float, float]:
    """By how much `new` errors are lower in the mean, and the standard error over groups."""
    difference = old - new
    number = int(groups.max()) + 1
    mean = float(difference.mean())
    sums = np.bincount(groups, difference - mean, number)
    spread = float(np.sqrt(number / (number - 1) * (sums**2).sum())) / len(groups)
    return mean, spread


def groups_of(names: Sequence[object]) -> NDArray[np.int64]:
    """Number of each element's group, groups numbered in order of first sight."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)

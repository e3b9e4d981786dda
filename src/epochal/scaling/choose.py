"""Which law a family's runs support.

All laws see the same runs, overfitted ones too, since whether runs overfit is the question. A law
whose constants the runs do not identify is not chosen: what it says beyond them is arbitrary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.results import Note, NoteCode, note
from epochal.scaling.estimate import PointFit, groups_of, point_fit
from epochal.scaling.forms import DATA_CONSTRAINED, FORMS
from epochal.scaling.forms.form import NOTHING, FitProblem
from epochal.scaling.identified import unidentified
from epochal.scaling.law import SINGLE_EPOCH
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.search import best_ends

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
    unidentified: tuple[str, ...] = ()
    """Constants that the runs do not identify; the law is then not chosen."""


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
    """The law of CANDIDATES that one family's `points` support, by the rule of AICC_LEAD among
    those whose constants the points identify.

    Held-out error: runs of one size on the same unique tokens are left out together, all
    minima of the full fit are descended from again, and what was left out is predicted. AICc is
    that of the objective's own likelihood. Raises DataError where no candidate can be fitted.
    """
    if (points.epochs > SINGLE_EPOCH).sum() < 2:
        return Choice(DATA_CONSTRAINED.name, note(ChoiceReason.NOTHING_REPEATS), len(points), 0, ())
    options = replace(options, keep_overfitted=True)
    fits: dict[str, PointFit] = {}
    refused: dict[str, str] = {}
    for name in CANDIDATES:
        try:
            fits[name] = point_fit(points, family, FORMS[name], options, fix, polished=2)
        except DataError as error:
            refused[name] = str(error)
    if not fits:
        raise DataError(refused[DATA_CONSTRAINED.name])
    rows = next(iter(fits.values())).rows
    groups = _held_out_groups(rows)
    best = min(fits.values(), key=lambda fit: float(fit.objectives[0]))
    within = best.problem.share_within(best.constants[0])
    errors = {name: _held_out_errors(fit, groups) for name, fit in fits.items()}
    scores = {name: _aicc(fit.problem, fit.objectives[:1], within) for name, fit in fits.items()}
    unknown = {name: unidentified(fit.problem, fit.constants[0]) for name, fit in fits.items()}
    known = [name for name in fits if not unknown[name]]
    if not known:  # the default, whose half-lives are reported as not identified
        known = [DATA_CONSTRAINED.name if DATA_CONSTRAINED.name in fits else next(iter(fits))]
    chosen, reason = _choose({name: errors[name] for name in known}, scores, groups)
    candidates = tuple(
        LawScore(
            name,
            len(fits[name].problem.free) if name in fits else len(FORMS[name].constants),
            float(errors[name].mean()) if name in fits else None,
            scores.get(name),
            refused.get(name),
            unknown.get(name, ()),
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
    return np.maximum(np.where(np.isfinite(held), held, 10.0), NOTHING)


def _aicc(problem: FitProblem, objectives: Floats, within: float) -> float | None:
    """AICc of Huber's terms as a likelihood at its best scale; None with too few rows for it.

    `within` is the share of rows within δ. The scale counts as a constant.
    """
    rows, count = problem.rows, len(problem.free) + 1
    if rows <= count + 1:
        return None
    misfit = float(problem.misfit(objectives, within)[0])
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

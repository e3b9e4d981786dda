"""One entropy floor E for all families of a text, and whether their runs support that.

The floor is the text's own entropy, so it should not depend on who models it, as far as a family's
bound on the NLL becomes tight. Of each value of E on a grid all families are fitted again; Huber's
terms are taken as a likelihood at the family's own best scale, as in profiles of half-lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.scaling.checks import Interval
from epochal.scaling.estimate import PointFit
from epochal.scaling.law import LEVEL
from epochal.scaling.search import refitted

_CELLS, _ROUNDS = 21, 4
_SMALLEST = 1e-3  # nats, the lowest floor looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFloor:
    """E of all families together, nats per token."""

    value: float
    interval: Interval
    """95 %, of a profile; an end of None is open."""
    separate: dict[str, float]
    """E of each family fitted alone."""
    statistic: float
    """By how much −2·log of the likelihood rises if E is shared."""
    limit: float
    """95 % point of its distribution if E is the same: χ² with one degree less than families."""
    supported: bool
    """Whether the statistic is within the limit."""


def shared_floor(fits: Mapping[str, PointFit]) -> SharedFloor:
    """The E that fits all families best. Raises DataError for fewer than two, or an E not free."""
    if len(fits) < 2:
        raise DataError(
            "a floor can be shared by two or more families; these points give a law of "
            f"{' and '.join(fits) or 'none'} only. Fit without share_floor, or add runs"
        )
    for family, fit in fits.items():
        if "E" not in fit.problem.free:
            raise DataError(f"{family}: E is fixed, so it cannot be fitted for all families")
    low, high = _SMALLEST, min(float(np.exp(fit.problem.log_loss.min())) for fit in fits.values())
    values, misfits = np.empty(0), np.empty(0)
    for _ in range(_ROUNDS):
        grid = np.setdiff1d(np.linspace(low, high, _CELLS)[:-1], values)
        found = np.sum([_misfits(fit, grid) for fit in fits.values()], axis=0)
        order = np.argsort(both := np.concatenate([values, grid]))
        values, misfits = both[order], np.concatenate([misfits, found])[order]
        best = int(misfits.argmin())
        low, high = values[max(best - 1, 0)], values[min(best + 1, len(values) - 1)]
    apart = sum(float(_misfit(fit, fit.objectives[:1])[0]) for fit in fits.values())
    least = float(misfits[best])
    statistic = max(0.0, least - apart)
    limit = _chi2_limit(len(fits) - 1)
    return SharedFloor(
        value=float(values[best]),
        interval=_interval(values, misfits, best),
        separate={family: _own(fit) for family, fit in fits.items()},
        statistic=statistic,
        limit=limit,
        supported=statistic <= limit,
    )


def _own(fit: PointFit) -> float:
    form = fit.problem.form
    return float(np.exp(fit.constants[0, form.index("E")]))


def _misfits(fit: PointFit, grid: Floats) -> Floats:
    """−2·log of the likelihood with E fixed at each value of the grid."""
    return _misfit(fit, refitted(fit.problem, fit.constants[:4], "E", np.log(grid), rounds=80))


def _misfit(fit: PointFit, objectives: Floats) -> Floats:
    """With the degrees of freedom that the other constants leave, as in profiles."""
    problem = fit.problem
    share = max(1, problem.rows - len(problem.free)) / problem.rows
    misfit = problem.misfit(objectives, problem.share_within(fit.constants[0]))
    return share * misfit


def _chi2_limit(freedom: int) -> float:
    """χ² with `freedom` degrees of freedom is below it with probability LEVEL."""
    from scipy.special import chdtri

    return float(chdtri(freedom, 1 - LEVEL))


def _interval(values: Floats, misfits: Floats, best: int) -> Interval:
    """Where the misfit rises by the 95 % point of χ² with one degree of freedom."""
    limit = float(misfits[best]) + _chi2_limit(1)
    below = np.flatnonzero(misfits[:best] > limit)
    above = best + np.flatnonzero(misfits[best:] > limit)
    low = _crossing(values, misfits, below[-1], below[-1] + 1, limit) if len(below) else None
    high = _crossing(values, misfits, above[0], above[0] - 1, limit) if len(above) else None
    return low, high


def _crossing(values: Floats, misfits: Floats, outside: int, inside: int, limit: float) -> float:
    """E between two neighbours, on the straight line between their misfits."""
    share = (limit - misfits[inside]) / (misfits[outside] - misfits[inside])
    return float(values[inside] + share * (values[outside] - values[inside]))

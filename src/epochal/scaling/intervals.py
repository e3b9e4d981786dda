"""Intervals of a fit's constants: bootstraps and profiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.estimates import Floats
from epochal.scaling.forms import constrain
from epochal.scaling.law import LEVEL, SINGLE_EPOCH
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.solver import FitProblem, solve

_BOOTSTRAP_ROUNDS = 40
_BOOTSTRAP_TOLERANCE = 1e-5
FEW_BUDGETS = (3, 10)
"""Fewest and most unique-token budgets with which whole budgets are resampled too."""
_PROFILE = np.concatenate([np.geomspace(0.05, 2e5, 45)])
_CHI2 = 3.841
"""95 % point of χ² with one degree of freedom."""


Interval = tuple[float | None, float | None]
"""An end of None is open; both None: not identified."""


@dataclass(slots=True)
class Spread:
    """Resamples and intervals of a fit's constants."""

    samples: list[Floats]
    """Sets of unconstrained constants, each [S, k]."""
    intervals: dict[str, Interval]
    profiles: dict[str, list[tuple[float, float]]]
    """Half-life → (value, objective) with it fixed there."""


def spread(
    problem: FitProblem,
    minima: Floats,
    objective: float,
    rows: Points,
    options: FitOptions,
    family: str,
) -> Spread:
    """Intervals from resamples; profiles of the half-lives widen and open theirs."""
    starts = _with_floors(problem, minima)
    samples = _resample(problem, starts, rows, options, family)
    intervals: dict[str, Interval] = dict(_percentiles(problem, samples)) if samples else {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in ("R_D", "R_N"):
        if name not in problem.free:
            continue
        low, high, curves[name] = profile(problem, starts, objective, name)
        before = intervals.get(name, (low, high))
        low = None if low is None or before[0] is None else min(low, before[0])
        high = None if high is None or before[1] is None else max(high, before[1])
        intervals[name] = (low, high)
    return Spread(samples, intervals, curves)


def _with_floors(problem: FitProblem, minima: Floats) -> Floats:
    """The minima, and for one whose E is nearly 0 a start with a real floor.

    From E = 0 the logarithm of E hardly moves, so resamples would never leave it.
    """
    if "E" not in problem.free:
        return minima
    at = problem.form.index("E")
    floor = problem.log_loss.min() + np.log(0.4)
    lifted = minima[minima[:, at] < floor - 1.5][:1].copy()
    lifted[:, at] = floor
    return np.concatenate([minima, lifted])


def _resample(
    problem: FitProblem, minima: Floats, rows: Points, options: FitOptions, family: str
) -> list[Floats]:
    """Resamples of runs, and of whole budgets where there are few."""
    if options.bootstraps < 1:
        return []
    groups = groups_of(rows.run)
    samples = [bootstrap(problem, minima, groups, options.bootstraps, options.seed, family)]
    budgets = groups_of(np.round(np.log(rows.unique_tokens), 2).tolist())
    number = int(budgets.max()) + 1
    repeated = bool((rows.epochs > SINGLE_EPOCH).any())
    if repeated and FEW_BUDGETS[0] <= number <= FEW_BUDGETS[1]:
        count = max(50, options.bootstraps // 3)
        samples.append(bootstrap(problem, minima, budgets, count, options.seed + 1, family))
    return samples


def groups_of(names: Sequence[object]) -> NDArray[np.int64]:
    """Number of each element's group, groups numbered in order of first sight."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def bootstrap(
    problem: FitProblem,
    minima: Floats,
    groups: NDArray[np.int64],
    count: int,
    seed: int,
    family: str = "",
) -> Floats:
    """Unconstrained constants of `count` resamples of whole groups, [count, k].

    Each resample is fitted from every one of the `minima` [M, k]; the best end counts. The
    families draw apart: with equal draws on equal grids, their errors would be paired by chance.
    """
    generator = np.random.Generator(
        np.random.Philox(rng.stream_key(seed, f"fit bootstrap {family}"))
    )
    number = int(groups.max()) + 1
    drawn = generator.multinomial(number, np.full(number, 1 / number), size=count)
    weights = drawn[:, groups].astype(float)
    best: Floats | None = None
    lowest = np.full(count, np.inf)
    for start in minima:
        ends = solve(
            problem,
            np.repeat(start[None], count, axis=0),
            weights,
            rounds=_BOOTSTRAP_ROUNDS,
            tolerance=_BOOTSTRAP_TOLERANCE,
        )
        better = ends.objective < lowest
        best = ends.constants if best is None else np.where(better[:, None], ends.constants, best)
        lowest = np.minimum(lowest, ends.objective)
    assert best is not None
    return best


def _percentiles(problem: FitProblem, samples: Sequence[Floats]) -> dict[str, tuple[float, float]]:
    """95 % percentile interval of each constant; the widest over the sets of samples."""
    edge = (1 - LEVEL) / 2
    ranges = [np.quantile(constrain(problem.form, s), (edge, 1 - edge), axis=0) for s in samples]
    low = np.min([r[0] for r in ranges], axis=0)
    high = np.max([r[1] for r in ranges], axis=0)
    return {
        name: (float(a), float(b))
        for name, a, b in zip(problem.form.constants, low, high, strict=True)
    }


def threshold(problem: FitProblem, residuals: Floats, objective: float) -> float:
    """Objective up to which a profile counts as within 95 %.

    Beyond δ Huber's terms are those of a Laplace distribution, whose log-likelihood at the best
    scale is −n·log(objective); within δ those of a normal one, −(n/2)·log(objective). The
    exponent in between follows the share of points within δ (our rule).
    """
    inside = float((np.abs(residuals) <= problem.delta).mean())
    freedom = max(1.0, problem.rows - len(problem.free))
    return objective * float(np.exp(0.5 * _CHI2 / freedom * (1 + inside))) + 1e-18


def profile(
    problem: FitProblem, minima: Floats, objective: float, name: str
) -> tuple[float | None, float | None, list[tuple[float, float]]]:
    """95 % profile interval of a half-life (None: open), and the profile (value, objective).

    The constant is fixed at each value of a log grid and all others are fitted again.
    """
    at = problem.form.index(name)
    values = np.log(_PROFILE)
    part = dataclasses.replace(problem, fixed={**problem.fixed, name: 0.0})
    fixed, _ = part.map()
    base = np.repeat(fixed[None], len(values), axis=0)
    base[:, at] = values
    lowest = np.full(len(values), np.inf)
    for start in minima:
        starts = np.repeat(start[None], len(values), axis=0)
        starts[:, at] = values
        lowest = np.minimum(lowest, solve(part, starts, rounds=40, base=base).objective)
    best = minima[0]
    limit = threshold(problem, problem.residuals(best[None]), min(objective, float(lowest.min())))
    inside = np.flatnonzero(lowest <= limit)
    curve = list(zip(_PROFILE.tolist(), lowest.tolist(), strict=True))
    mine = float(np.exp(best[at]))
    if not len(inside):  # narrower than the grid
        return mine, mine, curve
    first, last = int(inside[0]), int(inside[-1])
    low = None if first == 0 else _crossing(values, lowest, first, first - 1, limit)
    high = None if last == len(values) - 1 else _crossing(values, lowest, last, last + 1, limit)
    return (
        None if low is None else min(low, mine),
        None if high is None else max(high, mine),
        curve,
    )


def _crossing(values: Floats, lowest: Floats, inside: int, outside: int, limit: float) -> float:
    rise = lowest[outside] - lowest[inside]
    share = (limit - lowest[inside]) / rise if np.isfinite(rise) and rise > 0 else 0.0
    return float(np.exp(values[inside] + share * (values[outside] - values[inside])))

"""How far a fit's constants can be trusted: bootstraps and profiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.estimates import Floats
from epochal.scaling.forms import constrain
from epochal.scaling.law import LEVEL
from epochal.scaling.solver import FitProblem, solve

_BOOTSTRAP_ROUNDS = 40
_BOOTSTRAP_TOLERANCE = 1e-5
FEW_BUDGETS = (3, 10)
"""With so many unique-token budgets, whole budgets are resampled too."""
_PROFILE = np.concatenate([np.geomspace(0.05, 2e5, 45)])
_CHI2 = 3.841
"""95 % point of χ² with one degree of freedom."""


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
    """Inner constants of `count` resamples of whole groups, [count, k].

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


def percentiles(problem: FitProblem, samples: Sequence[Floats]) -> dict[str, tuple[float, float]]:
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

    The constant is held at each value of a log grid and all others are fitted again.
    """
    at = problem.form.index(name)
    values = np.log(_PROFILE)
    held = dataclasses.replace(problem, held={**problem.held, name: 0.0})
    fixed, _ = held.map()
    base = np.repeat(fixed[None], len(values), axis=0)
    base[:, at] = values
    lowest = np.full(len(values), np.inf)
    for start in minima:
        starts = np.repeat(start[None], len(values), axis=0)
        starts[:, at] = values
        lowest = np.minimum(lowest, solve(held, starts, rounds=40, base=base).objective)
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

"""Resamples of runs, and of whole budgets of unique tokens, for intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.estimates import Floats
from epochal.scaling.estimate import groups_of
from epochal.scaling.joint import Problem
from epochal.scaling.law import SINGLE_EPOCH
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.search import best_ends

_BOOTSTRAP_ROUNDS = 40
_BOOTSTRAP_TOLERANCE = 1e-5
_FEW_BUDGETS = (3, 10)
"""Fewest and most unique-token budgets with which whole budgets are resampled too."""


def resample_weights(rows: Points, options: FitOptions, name: str) -> list[Floats]:
    """Weights of the rows in resamples of runs, and in others of whole budgets where there are few,
    each [S, n]. `name` tells the draws of several sets of rows apart."""
    sets = [_weights(groups_of(rows.run), options.bootstraps, options.seed, name)]
    budgets = groups_of(rows.budgets.tolist())
    number = int(budgets.max()) + 1
    repeated = bool((rows.epochs > SINGLE_EPOCH).any())
    if repeated and _FEW_BUDGETS[0] <= number <= _FEW_BUDGETS[1]:
        count = max(50, options.bootstraps // 3)
        sets.append(_weights(budgets, count, options.seed + 1, name))
    return sets


def _weights(groups: NDArray[np.int64], count: int, seed: int, name: str) -> Floats:
    """Of `count` resamples of whole groups, [count, n].

    Sets of rows draw apart: with equal draws on equal grids, their errors would be paired by
    chance.
    """
    key = rng.stream_key(seed, f"fit bootstrap {name}")
    number = int(groups.max()) + 1
    drawn = np.random.Generator(np.random.Philox(key)).multinomial(
        number, np.full(number, 1 / number), size=count
    )
    return drawn[:, groups].astype(float)


def refit_resamples(problem: Problem, minima: Floats, weights: Floats) -> Floats:
    """Unconstrained constants of resamples with these weights of rows [S, n], [S, k].

    Each resample is fitted from every one of the `minima` [M, k]; the best end counts.
    """
    return best_ends(
        problem,
        minima,
        len(weights),
        weights,
        rounds=_BOOTSTRAP_ROUNDS,
        tolerance=_BOOTSTRAP_TOLERANCE,
    )[0]

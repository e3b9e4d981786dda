"""The best size and length for a compute budget and a number of unique tokens.

Minimise the law over log N with D = C/(6N): a log grid, then ever finer grids round the best
cell, for many budgets or sets of constants at once. The curve has kinks where D = U and
N = N_opt(u), which a grid does not mind. A law that can turn up again is minimised over D, too:
no more than the budget, but less if that is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms import Where, predict
from epochal.scaling.known import KnownLaw

SMALLEST, LARGEST = 1e4, 1e13
"""Sizes that are looked at."""
_CELLS, _ZOOMED, _ROUNDS = 241, 17, 7
_CELLS_2D, _LENGTHS, _ZOOMED_2D = 61, 33, 9
_BACK = np.log(1e6)
_SHORTEST = 7.0  # log of U over the shortest length looked at


@dataclass(frozen=True, slots=True)
class Optima:
    """Best points, one per row."""

    loss: Floats
    params: Floats
    tokens: Floats


def optima(
    law: KnownLaw,
    flops: Floats | float,
    unique_tokens: Floats | float,
    constants: Floats | None = None,
    sizes: tuple[float, float] = (SMALLEST, LARGEST),
) -> Optima:
    """Best N and D for each row of `flops`, `unique_tokens` and `constants` [S, k] (broadcast).

    Where the law says nothing of repetition, no token is repeated. Losses are those of
    `law.predict`, so a law without R_N has its optimum at N_opt(u) or below.
    """
    inner = law.inner[None] if constants is None else constants
    rows = np.broadcast_shapes(np.shape(flops), np.shape(unique_tokens), (len(inner),))
    search = _Search(
        law,
        np.broadcast_to(inner, (*rows, inner.shape[1])),
        np.broadcast_to(np.log(flops), rows),
        np.broadcast_to(np.log(unique_tokens), rows),
    )
    low = np.full(rows, np.log(sizes[0]))
    high = np.full(rows, np.log(sizes[1]))
    return search.over_both(low, high) if not law.form.monotone else search.over_size(low, high)


class _Search:
    """One batch of minimisations; all arrays have the batch first."""

    def __init__(self, law: KnownLaw, inner: Floats, log_flops: Floats, log_unique: Floats) -> None:
        self.law, self.inner = law, inner
        self.log_flops, self.log_unique = log_flops, log_unique

    def tokens(self, log_n: Floats) -> Floats:
        """log D of the whole budget for sizes [S, G]; no token twice if nothing is known of it."""
        log_d: Floats = self.log_flops[:, None] - np.log(6.0) - log_n
        if not self.law.repeats:
            log_d = np.minimum(log_d, self.log_unique[:, None])
        return log_d

    def loss(self, log_n: Floats, log_d: Floats) -> Floats:
        """Losses [S, G]."""
        log_unique = self.log_unique[:, None]
        log_u = np.minimum(log_unique, log_d)
        where = Where(log_n, log_d, log_u, log_unique, np.expm1(log_d - log_u))
        with np.errstate(over="ignore", under="ignore"):
            losses: Floats = np.exp(np.minimum(predict(self.law.form, self.inner, where), 600.0))
        return losses

    def over_size(self, low: Floats, high: Floats) -> Optima:
        """Minimise over log N alone."""
        cells = _CELLS
        for _ in range(_ROUNDS):
            grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, cells)
            losses = self.loss(grid, self.tokens(grid))
            best = losses.argmin(axis=1)
            low, high = _around(grid, best)
            cells = _ZOOMED
        log_n = np.take_along_axis(grid, best[:, None], axis=1)
        log_d = self.tokens(log_n)
        return Optima(self.loss(log_n, log_d)[:, 0], np.exp(log_n[:, 0]), np.exp(log_d[:, 0]))

    def over_both(self, low: Floats, high: Floats) -> Optima:
        """Minimise over log N and log D, the whole budget or less."""
        rows = len(low)
        sizes = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, _CELLS_2D)
        shares = np.broadcast_to(np.linspace(0, 1, _LENGTHS), (rows, _LENGTHS))
        for _ in range(_ROUNDS + 2):
            log_n = np.repeat(sizes, shares.shape[1], axis=1)
            share = np.tile(shares, (1, sizes.shape[1]))
            most = self.tokens(log_n)
            least = np.minimum(self.log_unique[:, None] - _SHORTEST, most)
            log_d = least + share * (most - least)
            losses = self.loss(log_n, log_d)
            best = losses.argmin(axis=1)
            at_size, at_share = np.divmod(best, shares.shape[1])
            sizes, shares = _finer(sizes, at_size), _finer(shares, at_share)
        row = np.arange(rows)
        return Optima(losses[row, best], np.exp(log_n[row, best]), np.exp(log_d[row, best]))


def _around(grid: Floats, best: Floats) -> tuple[Floats, Floats]:
    """The neighbours of the best cell of each row."""
    rows = np.arange(len(grid))
    last = grid.shape[1] - 1
    return grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, last)]


def _finer(grid: Floats, best: Floats) -> Floats:
    low, high = _around(grid, best)
    return low[:, None] + (high - low)[:, None] * np.linspace(0, 1, _ZOOMED_2D)


def floor_loss(law: KnownLaw, unique_tokens: float) -> tuple[float, float]:
    """(floor, least C within 0.001 nats of it): what no budget can beat on so many tokens.

    The floor is the lowest loss of budgets up to 10^12 times those of one epoch of a model of
    N_opt(U) (or of U parameters), where every law here has long been flat.
    """
    start = np.log(6.0) + 2 * np.log(unique_tokens) - 6.0
    logs = np.linspace(start, start + np.log(1e14), 113)
    losses = np.minimum.accumulate(optima(law, np.exp(logs), unique_tokens).loss)
    floor = float(losses[-1])
    target = floor + SATURATED
    at = int(np.flatnonzero(losses <= target)[0])
    while at == 0:  # flat already: look at smaller budgets, down to a token of the smallest size
        if logs[0] <= np.log(6.0 * SMALLEST):
            return floor, float(np.exp(logs[0]))
        logs = np.linspace(max(logs[0] - _BACK, np.log(6.0 * SMALLEST)), logs[0], 41)
        losses = np.minimum.accumulate(optima(law, np.exp(logs), unique_tokens).loss)
        at = int(np.flatnonzero(losses <= target)[0]) if losses[-1] <= target else len(logs) - 1
    return floor, least_flops(law, unique_tokens, target, float(logs[at - 1]), float(logs[at]))


def best_length(law: KnownLaw, params: float, unique_tokens: float) -> float:
    """Tokens at which the loss of `params` parameters on U tokens is lowest, up to 10⁶ epochs."""
    low, high = np.log(unique_tokens) - 5.0, np.log(unique_tokens) + np.log(1e6)
    cells = _CELLS
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, cells)
        best = int(law.predict(params, np.exp(grid), unique_tokens).argmin())
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, cells - 1)]
        cells = _ZOOMED
    return float(np.exp(grid[best]))


SATURATED = 1e-3
"""Nats above the floor from which more compute is said to buy nothing."""


def least_flops(
    law: KnownLaw, unique_tokens: float, target: float, low: float, high: float
) -> float:
    """Least C whose optimum is `target` or less, between log C `low` (above) and `high`."""
    for _ in range(4):
        logs = np.linspace(low, high, 17)
        losses = np.minimum.accumulate(optima(law, np.exp(logs), unique_tokens).loss)
        below = np.flatnonzero(losses <= target)
        at = int(below[0]) if len(below) else len(logs) - 1
        low, high = float(logs[max(at - 1, 0)]), float(logs[at])
    return float(np.exp(high))

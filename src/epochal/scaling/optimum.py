"""The best size and length for a compute budget and a number of unique tokens.

Minimise the law over log N with D = C/(6N): a log grid, then ever finer grids round the best
cell, for many budgets or sets of constants at once. The curve has kinks where D = U and
N = N_opt(u), which a grid does not mind. A law that can turn up again is minimised over D, too:
no more than the budget, but less if that is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from epochal.errors import UserError
from epochal.estimates import Floats
from epochal.recipe.model import Model
from epochal.scaling.forms.form import Inputs
from epochal.scaling.law import ScalingLaw
from epochal.sizes import LADDER, Architecture, swiglu_width
from epochal.units import parse_number

SMALLEST, LARGEST = 1e4, 1e13
"""Sizes that are looked at."""
LEAST_TOKENS = 2.0
"""What the budget must train the largest size for."""
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
    law: ScalingLaw,
    flops: Floats | float,
    unique_tokens: Floats | float,
    constants: Floats | None = None,
    sizes: Floats | Sequence[float] | None = None,
) -> Optima:
    """Best N and D for each row of `flops`, `unique_tokens` and `constants` [S, k] (broadcast).

    With `sizes` N is given, one per row, and only D is looked for. Where the law says nothing of
    repetition, no token is repeated. Losses are those of `law.predict`, so a law without R_N has
    its optimum at N_opt(u) or below.
    """
    inner = law.theta[None] if constants is None else constants
    smallest, largest = (SMALLEST, LARGEST) if sizes is None else (sizes, sizes)
    rows = np.broadcast_shapes(
        np.shape(flops), np.shape(unique_tokens), (len(inner),), np.shape(smallest)
    )
    search = _Search(
        law,
        np.broadcast_to(inner, (*rows, inner.shape[1])),
        np.broadcast_to(np.log(flops), rows),
        np.broadcast_to(np.log(unique_tokens), rows),
    )
    low, high = (np.broadcast_to(np.log(end), rows) for end in (smallest, largest))
    if sizes is None:  # a nearly flat law has its optimum where no token would be left
        high = np.maximum(low, np.minimum(high, np.log(flops) - np.log(6.0 * LEAST_TOKENS)))
    return search.over_both(low, high) if not law.form.monotone else search.over_size(low, high)


class _Search:
    """One batch of minimisations; all arrays have the batch first."""

    def __init__(
        self, law: ScalingLaw, inner: Floats, log_flops: Floats, log_unique: Floats
    ) -> None:
        self.law, self.theta = law, inner
        self.log_flops, self.log_unique = log_flops, log_unique

    def tokens(self, log_n: Floats) -> Floats:
        """log D of the whole budget for sizes [S, G]; no token twice if nothing is known of it."""
        log_d: Floats = self.log_flops[:, None] - np.log(6.0) - log_n
        if not self.law.repeats:
            log_d = np.minimum(log_d, self.log_unique[:, None])
        return log_d

    def loss(self, log_n: Floats, log_d: Floats) -> Floats:
        """Losses [S, G]."""
        where = Inputs.at_logs(log_n, log_d, self.log_unique[:, None])
        with np.errstate(over="ignore", under="ignore"):
            losses: Floats = np.exp(np.minimum(self.law.form.predict(self.theta, where), 600.0))
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


def first_place(
    holds: Callable[[Floats], NDArray[np.bool_]],
    low: float,
    high: float,
    *,
    cells: int,
    rounds: int,
) -> tuple[float, float]:
    """The two neighbours between which `holds` first becomes true from `low` to `high`.

    In each round on a finer grid of `cells`; where it holds nowhere, at the end.
    """
    for _ in range(rounds):
        grid = np.linspace(low, high, cells)
        found = np.flatnonzero(holds(grid))
        at = int(found[0]) if len(found) else cells - 1
        low, high = float(grid[max(at - 1, 0)]), float(grid[at])
    return low, high


def floor_loss(law: ScalingLaw, unique_tokens: float) -> tuple[float, float]:
    """(floor, least C within 0.001 nats of it): the loss no budget can beat on U tokens.

    The floor is the lowest loss of budgets up to 10^12 times those of one epoch of a model of
    N_opt(U) (or of U parameters), where every law here has long been flat.
    """
    start = np.log(6.0) + 2 * np.log(unique_tokens) - 6.0
    logs = np.linspace(start, start + np.log(1e14), 113)
    losses = np.minimum.accumulate(optima(law, np.exp(logs), unique_tokens).loss)
    floor = float(losses[-1])
    target = floor + _SATURATED
    at = int(np.flatnonzero(losses <= target)[0])
    while at == 0:  # flat already: look at smaller budgets, down to a token of the smallest size
        if logs[0] <= np.log(6.0 * SMALLEST):
            return floor, float(np.exp(logs[0]))
        logs = np.linspace(max(logs[0] - _BACK, np.log(6.0 * SMALLEST)), logs[0], 41)
        losses = np.minimum.accumulate(optima(law, np.exp(logs), unique_tokens).loss)
        at = int(np.flatnonzero(losses <= target)[0]) if losses[-1] <= target else len(logs) - 1
    return floor, _least_flops(law, unique_tokens, target, float(logs[at - 1]), float(logs[at]))


def best_length(law: ScalingLaw, params: float, unique_tokens: float) -> float:
    """Tokens at which the loss of `params` parameters on U tokens is lowest, up to 10⁶ epochs."""
    low, high = np.log(unique_tokens) - 5.0, np.log(unique_tokens) + np.log(1e6)
    cells = _CELLS
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, cells)
        best = int(law.predict(params, np.exp(grid), unique_tokens).argmin())
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, cells - 1)]
        cells = _ZOOMED
    return float(np.exp(grid[best]))


_SATURATED = 1e-3
"""Nats above the floor from which more compute is said to buy nothing."""


def _least_flops(
    law: ScalingLaw, unique_tokens: float, target: float, low: float, high: float
) -> float:
    """Least C whose optimum is `target` or less, between log C `low` (above) and `high`."""

    def reached(logs: Floats) -> NDArray[np.bool_]:
        return optima(law, np.exp(logs), unique_tokens).loss <= target

    return float(np.exp(first_place(reached, low, high, cells=17, rounds=4)[1]))


_NEARLY = 0.01
"""Nats that "nearly the same loss" may be above the best."""
_FEWER = 40.0  # log of the budget over the smallest one looked at
_FAR = 1.6  # a size whose N differs by more than this factor is not the optimum's neighbour


@dataclass(frozen=True, slots=True)
class LadderChoice:
    """A size that can be trained, with the whole budget."""

    name: str
    params: float
    tokens: float
    epochs: float
    loss: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """A cheaper way to a loss within 0.01 nats of the best."""

    what: Literal["smaller model", "fewer FLOPs"]
    params: float
    tokens: float
    epochs: float
    flops: float
    loss: float


def size_choices(
    sizes: Sequence[str] | Mapping[str, float] | None, vocabulary: int
) -> dict[str, float]:
    """Names → N of the sizes to choose from: the whole ladder, or those given.

    A size is a name of the ladder or a number of parameters, or the user's own name with its N.
    Raises UserError.
    """
    ladder = {name: float(shape.params(vocabulary)) for name, shape in LADDER.items()}
    if not sizes:
        return ladder
    if isinstance(sizes, Mapping):
        return dict(sizes)
    chosen = {}
    for text in sizes:
        if text in ladder:
            chosen[text] = ladder[text]
            continue
        try:
            chosen[text] = parse_number(text)
        except UserError:
            raise UserError(
                f"{text!r} is neither a size of the ladder (`epochal sizes`) nor a number of "
                "parameters"
            ) from None
    return chosen


def best_of_sizes(
    law: ScalingLaw,
    unique: float,
    flops: float,
    sizes: Mapping[str, float],
    optimum: float,
    only: bool,
) -> LadderChoice | None:
    """The size with the lowest loss for the budget.

    None if all are far from the `optimum`, unless the user asked for these sizes `only`.
    """
    found = optima(law, flops, unique, sizes=list(sizes.values()))
    best = int(found.loss.argmin())
    name, params = list(sizes.items())[best]
    if max(params / optimum, optimum / params) > _FAR and not only:
        return None
    tokens = float(found.tokens[best])
    return LadderChoice(name, params, tokens, tokens / min(tokens, unique), float(found.loss[best]))


def iso_loss(
    law: ScalingLaw, unique: float, flops: float, loss: float, params: float
) -> list[Alternative]:
    """The smallest model for the budget, and the least compute, within 0.01 nats of the best."""
    target = loss + _NEARLY

    def good(log_n: Floats) -> NDArray[np.bool_]:
        return optima(law, flops, unique, sizes=np.exp(log_n)).loss <= target

    smallest = max(np.log(params) - 6.0, np.log(SMALLEST))
    _, size = first_place(good, smallest, np.log(params), cells=25, rounds=4)
    smaller = optima(law, flops, unique, sizes=[np.exp(size)])
    spent = _least_flops(law, unique, target, np.log(flops) - _FEWER, np.log(flops))
    return [
        _alternative("smaller model", unique, smaller),
        _alternative("fewer FLOPs", unique, optima(law, spent, unique)),
    ]


def _alternative(
    what: Literal["smaller model", "fewer FLOPs"], unique: float, best: Optima
) -> Alternative:
    params, tokens, loss = (float(one[0]) for one in (best.params, best.tokens, best.loss))
    return Alternative(
        what, params, tokens, tokens / min(tokens, unique), 6 * params * tokens, loss
    )


def model_for(params: float, vocabulary: int) -> Model:
    """A model of about `params` parameters: the nearest of the ladder, or one of our own shape.

    Beyond the ladder's ends and between far rows: width in steps of 32, depth about width/64,
    as the ladder's small rows have it.
    """
    ladder = size_choices(None, vocabulary)
    name = min(ladder, key=lambda n: abs(np.log(ladder[n] / params)))
    if abs(np.log(ladder[name] / params)) < np.log(1.15):
        return Model(size=name)
    shapes = [
        (width, depth)
        for width in range(32, 6144, 32)
        for depth in range(max(1, width // 96), max(3, width // 40) + 1)
    ]
    sizes = {shape: _shape(*shape).params(vocabulary) for shape in shapes}
    width, depth = min(
        sizes, key=lambda s: (round(abs(np.log(sizes[s] / params)), 2), abs(s[1] - s[0] / 64))
    )
    own = sizes[width, depth]
    if abs(np.log(own / params)) > abs(np.log(ladder[name] / params)):
        return Model(size=name)
    heads = _heads(width)
    return replace(Model(), d_model=width, layers=depth, heads=heads)


def _shape(width: int, depth: int) -> Architecture:
    heads = _heads(width)
    return Architecture(
        d_model=width,
        layers=depth,
        heads=heads,
        head_dim=width // heads,
        d_ff=swiglu_width(width),
    )


def _heads(width: int) -> int:
    return width // 64 if width % 64 == 0 and width >= 256 else width // 32

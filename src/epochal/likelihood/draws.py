"""Which noise level each row gets in each draw.

A row of m scored tokens contributes E_K[m/K · Σ masked NLL], K uniform on 1 … m. The value
depends strongly on K, so levels u (K = 1 + ⌊u·m⌋) are not drawn independently: in each draw,
the n rows of a group share out n equal slices of [0, 1) among them, one each, in a new random
order. Each row's level is then still uniform, so every estimate keeps its mean, but the part
of the variance that the level explains is gone.

Groups, not the whole set at once, so that the groups' independence gives the error bar. With
16 rows a group loses about 1/16² of the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.errors import OptionError
from epochal.estimates import Floats
from epochal.rng import Keys


@dataclass(frozen=True, slots=True)
class EvalShard:
    """Which batches this process scores, and how sums over all processes are made.

    Whole batches are dealt out, so each forward pass has the same rows on any number of
    processes; and each row is scored by one process, all others adding exact zeros, so the
    sums are the same numbers, bit for bit.
    """

    rank: int = 0
    world: int = 1
    total: Callable[[Floats], Floats] | None = None
    """Sum of an array over all processes, given to each of them; None for one process."""

    def shard_batches(self, batches: list[slice]) -> Iterator[tuple[slice, bool]]:
        """(batch, whether it counts): as many for each process, the last ones perhaps idle.

        An idle pass repeats a batch whose result is dropped: under sharded weights all
        processes must make the same number of forward passes.
        """
        for first in range(0, len(batches), self.world):
            number = first + self.rank
            mine = number < len(batches)
            yield batches[number if mine else first], mine

    def sums(self, arrays: list[Floats]) -> list[Floats]:
        """The arrays' sums over all processes, in one exchange."""
        if self.total is None:
            return arrays
        flat = self.total(np.concatenate([array.ravel() for array in arrays]))
        parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
        return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]


GROUP_ROWS = 16
"""Rows per group, chosen by us: small enough for many groups, large enough to stratify."""
FEWEST_MASKS = 7
"""Of a continuation: all tokens masked once, and three pairs, the fewest whose differences give
an error."""


@dataclass(frozen=True, slots=True)
class DrawPlan:
    """Levels and mask keys of all rows in any draw; a pure function of (seed, draw, row)."""

    rows: int
    seed: int
    stratified: bool

    def groups(self) -> NDArray[np.int64]:
        """[rows] group of each row; without stratification each row is its own."""
        if not self.stratified:
            return np.arange(self.rows)
        count = max(1, self.rows // GROUP_ROWS)
        return np.arange(self.rows) * count // self.rows

    def levels(self, draw: int) -> NDArray[np.float64]:
        """[rows] levels in [0, 1)."""
        keys = self.keys(draw)
        jitter = rng.uniforms(keys, 1)[:, 0]
        if not self.stratified:
            return jitter
        group = self.groups()
        size = np.bincount(group)
        start = np.cumsum(size) - size
        # Rows of each group in a random order: sorted by group, then by a random number.
        lot = rng.outputs(self.keys(draw, "lot"), np.zeros(self.rows, dtype=np.int64))
        place = np.empty(self.rows, dtype=np.int64)
        place[np.lexsort((lot, group))] = np.arange(self.rows)
        return (place - start[group] + jitter) / size[group]

    def keys(self, draw: int, purpose: str = "mask") -> Keys:
        """[rows] keys of the rows' masks."""
        return rng.row_keys(
            rng.stream_key(self.seed, f"evaluation:{purpose}", draw), np.arange(self.rows)
        )


def check_masks(draws: int) -> None:
    """Raise OptionError for fewer masks per continuation than its error bar needs."""
    if draws < FEWEST_MASKS:
        raise OptionError(
            "draws",
            draws,
            f"at least {FEWEST_MASKS} are needed, since the error bar comes from comparing them "
            "(32 is usual)",
        )

"""A process's shard of an evaluation, so that any number of processes score one set together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _single_process(values: Floats) -> Floats:
    return values


@dataclass(frozen=True, slots=True)
class EvalShard:
    """Which batches this process scores, and how sums over all processes are made.

    Whole batches are dealt out, so each forward pass has the same rows on any number of
    processes; and each row is scored by one process, all others adding exact zeros, so the
    sums are the same numbers, bit for bit.
    """

    rank: int = 0
    world: int = 1
    total: Callable[[Floats], Floats] = _single_process
    """Sum of an array over all processes, given to each of them."""

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
        if self.total is _single_process:
            return arrays
        flat = self.total(np.concatenate([array.ravel() for array in arrays]))
        parts = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
        return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]

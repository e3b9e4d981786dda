"""Text block by block, with a model trained on blocks: keys and values of earlier ones cached.

A block sees itself and the clean blocks before it, as in training, so the cache is exact, and what
comes after a gap's block is not seen. Shape letters: B rows, L positions, N masked positions of
all rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.generation.unmasking import shared_steps, unmask
from epochal.generation.writer import State, Task, Writer


def _generate(task: Task) -> Iterator[State]:
    """[B, L] ids, `mask` at the same positions in each → a state per step, the last without masks.

    Raises OptionError for fewer steps than blocks with masks.
    """
    size = task.trained.size
    places = (task.ids[0] == task.mask).nonzero().squeeze(1)
    if not len(places):
        return
    counts = [count for count in torch.bincount(places // size).tolist() if count]
    parts = shared_steps(list(accumulate(counts)), task.config.steps or len(places))
    yield from unmask(task, parts=parts, read=_Reader(task, size).logits)


class _Reader:
    """Reads one block after another."""

    def __init__(self, task: Task, size: int) -> None:
        self._task, self._size = task, size
        self._caches = task.model.new_caches(*task.ids.shape)
        self._done = 0  # positions in the caches, whole blocks

    def logits(self, ids: Tensor, masked: Tensor) -> Tensor:
        """[N, V] at the masked positions, all of one block; those before it are clean."""
        model, machine = self._task.model, self._task.machine
        first = int(masked.any(dim=0).int().argmax()) // self._size * self._size
        with machine.autocast():
            if first > self._done:
                block = torch.arange(first, device=machine.device) // self._size
                rule = block[None, :] <= block[self._done :, None]
                model(ids[:, self._done : first].to(machine.device), rule, caches=self._caches)
                self._done = first
            here = slice(first, first + self._size)
            hidden = model(ids[:, here].to(machine.device), "bidirectional", caches=self._caches)
            for cache in self._caches:
                cache.length = first  # the block changes, and is read again
            scored = hidden[masked[:, here].to(machine.device)]
            return F.linear(scored, model.table[: self._task.vocabulary])


WRITER = Writer(
    _generate, infills=True, order=None, options=frozenset({"steps", "order", "remask"})
)

"""When checkpoints of a run are written, and how many are kept."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from epochal.errors import StorageError
from epochal.training import checkpoint, sharded
from epochal.training.checkpoint import Kind, TrainState
from epochal.training.optim import WeightAverage
from epochal.training.parallel.world import World


class Saver:
    """Writes checkpoints: with one process at once; with many in the background, except for
    `best`, which is one file that anything can read."""

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        """`keep`: how many of kind `last` stay."""
        self._folder, self._keep, self._world = folder, keep, world
        self._pending: sharded.Pending | None = None

    @property
    def failed(self) -> bool:
        """Whether this process knows that its part of a checkpoint could not be written."""
        return self._pending is not None and self._pending.failed

    def best(self, state: TrainState, model: nn.Module) -> None:
        """Save the weights as those of the lowest validation NLL so far."""
        checkpoint.save(self._folder, "best", state, model, world=self._world)

    def save(
        self,
        kind: Kind,
        state: TrainState,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
    ) -> None:
        """Save all that is needed to resume.

        Raises StorageError if it, or the previous one, cannot be written.
        """
        keep = {"last": self._keep, "permanent": None}.get(kind, 1)
        if self._world.size == 1:
            checkpoint.save(self._folder, kind, state, model, optimizer, average, keep=keep)
            return
        self.wait()
        self._pending = checkpoint.save_in_parts(
            self._folder, kind, state, model, optimizer, average, self._world, keep
        )

    def wait(self) -> None:
        """Return when the pending checkpoint is complete. Raises StorageError on rank 0."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        failure = None
        try:
            pending.wait()
        except StorageError as error:
            failure = error
        if self._world.all_reduce_max(failure is not None)[0]:
            if self._world.main:
                checkpoint.clean(self._folder)
            raise failure or StorageError("another process could not write its part")

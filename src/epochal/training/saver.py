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

    def __init__(
        self,
        folder: Path,
        keep: int,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
    ) -> None:
        """`keep`: how many of kind `last` stay."""
        self._folder, self._keep, self._world = folder, keep, world
        self._model, self._optimizer, self._average = model, optimizer, average
        self._pending: sharded.Pending | None = None

    @property
    def failed(self) -> bool:
        """Whether this process knows that its part of a checkpoint could not be written."""
        return self._pending is not None and self._pending.failed

    def load(self, path: Path) -> TrainState:
        """Fill model, optimizer and average from a checkpoint; the state of its run."""
        state = checkpoint.load_state(path)
        checkpoint.load_training(path, self._model, self._optimizer, self._average)
        return state

    def best(self, state: TrainState) -> None:
        """Save the weights as those of the lowest validation NLL so far."""
        checkpoint.save(self._folder, "best", state, self._model, world=self._world)

    def save(self, state: TrainState, kind: Kind = "last") -> None:
        """Save all that is needed to resume.

        Raises StorageError if it, or the previous one, cannot be written.
        """
        keep = {"last": self._keep, "permanent": None}.get(kind, 1)
        given = (self._folder, kind, state, self._model, self._optimizer, self._average)
        if self._world.size == 1:
            checkpoint.save(*given, keep=keep)
            return
        self.wait()
        self._pending = checkpoint.save_in_parts(*given, self._world, keep)

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

"""When checkpoints of a run are written, and how many are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from epochal.errors import StorageError
from epochal.training import checkpoint, sharded
from epochal.training.checkpoint import Kind, TrainState
from epochal.training.optim import WeightAverage
from epochal.training.parallel.world import World


@dataclass
class Saver:
    """Writes checkpoints: with one process at once; with many in the background, except for
    `best`, which is one file that anything can read."""

    folder: Path
    family: str
    """The run's; checkpoints of others are refused."""
    keep: int
    """How many of kind `last` stay."""
    world: World
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    _pending: sharded.Pending | None = field(default=None, init=False)

    @property
    def failed(self) -> bool:
        """Whether this process knows that its part of a checkpoint could not be written."""
        return self._pending is not None and self._pending.failed

    def load(self, path: Path) -> TrainState:
        """Fill model, optimizer and average from a checkpoint; the state of its run."""
        state = checkpoint.load_state(path, self.family)
        checkpoint.load_training(path, self.model, self.optimizer, self.average)
        return state

    def best(self, state: TrainState) -> None:
        """Save the weights as those of the lowest validation NLL so far."""
        checkpoint.save(self.folder, "best", state, self.model, world=self.world)

    def save(self, state: TrainState, kind: Kind = "last") -> None:
        """Save all that is needed to resume.

        Raises StorageError if it, or the previous one, cannot be written.
        """
        keep = {"last": self.keep, "permanent": None}.get(kind, 1)
        given = (self.folder, kind, state, self.model, self.optimizer, self.average)
        if self.world.size == 1:
            checkpoint.save(*given, keep=keep)
            return
        self.wait()
        self._pending = checkpoint.save_in_parts(*given, self.world, keep)

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
        if self.world.all_reduce_max(failure is not None)[0]:
            if self.world.main:
                checkpoint.clean(self.folder)
            raise failure or StorageError("another process could not write its part")

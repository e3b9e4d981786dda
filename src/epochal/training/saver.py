"""What is kept of a run, and when it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from epochal.errors import StorageError
from epochal.training import checkpoint, sharded
from epochal.training.average import Average
from epochal.training.checkpoint import TrainState
from epochal.training.parallel.world import World

Kind = Literal["last", "stop", "kept"]
"""last: the newest few. stop: out of turn, until the next `last`. kept: for good."""


class Saver:
    """Writes checkpoints: of one process at once; of many in the background, except for `best`,
    which is one file that anything can read."""

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        """`keep` is how many of the `last` are left in place."""
        self._folder, self._keep, self._world = folder, keep, world
        self._pending: sharded.Pending | None = None

    @property
    def failed(self) -> bool:
        """Whether a checkpoint of which this process has a part could not be written."""
        return self._pending is not None and self._pending.failed

    def best(self, state: TrainState, model: nn.Module) -> None:
        """Keep the weights as those of the lowest validation NLL so far."""
        checkpoint.save(self._folder, "best", state, model, world=self._world)

    def save(
        self,
        kind: Kind,
        state: TrainState,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
    ) -> None:
        """Keep all that is needed to go on.

        Raises StorageError if it, or the one before, cannot be written.
        """
        keep = {"last": self._keep, "stop": 1, "kept": None}[kind]
        if self._world.size == 1:
            checkpoint.save(self._folder, kind, state, model, optimizer, average, keep=keep)
            return
        self.wait()
        target, temporary = checkpoint.places(self._folder, kind, state.step, "parts")
        extra = checkpoint.state_text(state)
        self._pending = sharded.begin(
            target,
            temporary,
            checkpoint.all_tensors(model, optimizer, average),
            self._world,
            lambda: checkpoint.commit(target, temporary, extra, keep),
        )

    def wait(self) -> None:
        """Return when what was begun is whole. Raises StorageError in the first process."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        error = None
        try:
            pending.wait()
        except StorageError as found:
            error = found
        if self._world.agree(error is not None)[0]:
            if self._world.main:
                checkpoint.clean(self._folder)
            raise error or StorageError("another process could not write its part")

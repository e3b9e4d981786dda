"""The processes that share the questions of tasks."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import torch
from torch import distributed

from epochal.training.parallel.world import gloo_group, process_count


class Processes:
    """This process among those that torchrun started; a single one without it."""

    def __init__(self) -> None:
        self.world = process_count()
        self.rank = int(os.environ["RANK"]) if self.world > 1 else 0
        self._joined = ExitStack()
        self._group = self._joined.enter_context(gloo_group())

    def device(self, name: str | None) -> str:
        """`auto` becomes this process's own GPU where there are several."""
        if self.world > 1 and name in (None, "auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        return name or "auto"

    def close(self) -> None:
        """Leave the process group."""
        self._joined.close()

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, on each."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self._group)
        return values

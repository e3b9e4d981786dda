"""Several processes on one piece of work: what torchrun started, joined into a group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from epochal.likelihood.shard import Floats, Share
from epochal.training.parallel.world import gloo_group


@contextmanager
def shared_work() -> Iterator[Share]:
    """This process's share of an evaluation: all of it, unless torchrun started several.

    Sums travel through the CPU (gloo), so that they are the same on any device.
    """
    with gloo_group() as group:
        if group is None:
            yield Share()
            return

        def total(values: Floats) -> Floats:
            tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
            dist.all_reduce(tensor, group=group)
            return tensor.numpy()

        yield Share(dist.get_rank(), dist.get_world_size(), total)

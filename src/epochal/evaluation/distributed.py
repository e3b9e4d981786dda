"""One evaluation on several processes, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from epochal.likelihood.draws import EvalShard, Floats
from epochal.training.parallel.world import gloo_group


@contextmanager
def distributed_eval() -> Iterator[EvalShard]:
    """This process's shard of an evaluation: all of it, unless torchrun started several.

    Sums travel through the CPU (gloo), so that they are the same on any device.
    """
    with gloo_group() as group:
        if group is None:
            yield EvalShard()
            return

        def total(values: Floats) -> Floats:
            tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
            dist.all_reduce(tensor, group=group)
            return tensor.numpy()

        yield EvalShard(dist.get_rank(), dist.get_world_size(), total)

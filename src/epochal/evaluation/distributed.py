"""Several processes on one piece of work: what torchrun started, joined into a group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from epochal.likelihood.shard import Floats, Share


@contextmanager
def shared_work() -> Iterator[Share]:
    """This process's share of an evaluation: all of it, unless torchrun started several.

    A process group that is there already is used and left alone. Sums travel through the CPU
    (gloo), so that they are the same on any device.
    """
    if dist.is_initialized():
        yield _share()
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Share()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo")
    try:
        yield _share()
    finally:
        dist.destroy_process_group()


def _share() -> Share:
    gloo = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")

    def total(values: Floats) -> Floats:
        tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
        dist.all_reduce(tensor, group=gloo)
        return tensor.numpy()

    return Share(dist.get_rank(), dist.get_world_size(), total)


def first_process() -> bool:
    """Whether this is the process that speaks and writes: the only one, or torchrun's first."""
    return int(os.environ.get("RANK", "0")) == 0

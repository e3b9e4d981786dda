"""The processes of a run: who this one is, and what all of them agree on.

One process alone is a `World()` without any process group; its methods then cost nothing.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store

from epochal import progress
from epochal.device import Machine
from epochal.errors import EpochalError, RecipeError
from epochal.training.parallel.heartbeat import Watch
from epochal.training.parallel.mesh import MeshPlan

T = TypeVar("T")
_OPENED = itertools.count()
_LAUNCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SPEAK_SECONDS = 5.0
"""How long an error of all processes waits for the first to tell it."""
AXES = ("pipeline", "replicate", "shard", "tensor")


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that make the run together."""

    rank: int = 0
    plan: MeshPlan = field(default_factory=MeshPlan)
    mesh: DeviceMesh | None = None
    """Axes pipeline, replicate, shard, tensor; None for one process."""
    control: dist.ProcessGroup | None = None
    """gloo group of all, for small agreements on the CPU."""
    saver: dist.ProcessGroup | None = None
    """gloo group of all, for the background thread that writes checkpoints."""
    watch: Watch | None = None

    @property
    def size(self) -> int:
        """Processes of the run."""
        return self.plan.world

    @property
    def main(self) -> bool:
        """Whether this process writes the run's files and talks to the user."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which share of the rows is this process's."""
        return self.rank // self.plan.tensor % self.plan.data

    @property
    def stage(self) -> int:
        """Which stage of the pipeline is this process's."""
        return self.rank // (self.plan.tensor * self.plan.data)

    @property
    def speaks_for_stage(self) -> bool:
        """Whether this process is the first of those that hold its stage."""
        return self.rank % (self.plan.tensor * self.plan.data) == 0

    @property
    def _speaks(self) -> bool:
        """One process of each data-parallel share, so that sums count nothing twice: one of
        the last stage, where losses are."""
        return self.rank % self.plan.tensor == 0 and self.stage == self.plan.pipeline - 1

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an array over the data-parallel shares, the same on every process."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(np.array(values if self._speaks else np.zeros_like(values)))
        dist.all_reduce(tensor, group=self.control)
        summed: NDArray[np.float64] = tensor.numpy()
        return summed

    def total_on_device(self, values: Tensor) -> Tensor:
        """The same for a tensor, on its device and in its dtype."""
        if self.size > 1:
            values = values if self._speaks else torch.zeros_like(values)
            dist.all_reduce(values)
        return values

    def agree(self, *values: int) -> list[int]:
        """The largest of each value over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        return [int(value) for value in tensor.tolist()]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def mark(self, step: int) -> None:
        """Tell the others how far this process is."""
        if self.watch is not None:
            self.watch.step = step

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns in the main process, given to all.

        If it raises an EpochalError there, the other processes end with the same exit code,
        without a word.
        """
        if self.size == 1:
            return work()
        outcome: list[tuple[T | None, int]] = [(None, 0)]
        raised: EpochalError | None = None
        if self.main:
            try:
                outcome = [(work(), 0)]
            except EpochalError as error:
                raised, outcome = error, [(None, error.exit_code)]
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if raised is not None:
            raise raised
        value, exit_code = outcome[0]
        if exit_code:
            raise SystemExit(exit_code)
        return value  # type: ignore[return-value]


def processes() -> int:
    """Processes that the launcher (torchrun) started; 1 if there is none."""
    if any(name not in os.environ for name in _LAUNCH):
        return 1
    return int(os.environ["WORLD_SIZE"])


def quiet() -> bool:
    """Whether this is one of many processes and not the one that talks."""
    return processes() > 1 and os.environ["RANK"] != "0"


@contextmanager
def one_voice() -> Iterator[None]:
    """Let only the first process tell of an error that all of them meet.

    The launcher ends all processes as soon as one has failed, so the others give the first a few
    seconds to say its word; they wait no longer than until it ends.
    """
    try:
        yield
    except (EpochalError, SystemExit) as error:
        if not quiet():
            raise
        code = error.exit_code if isinstance(error, EpochalError) else error.code
        if code:
            time.sleep(SPEAK_SECONDS)
        raise SystemExit(code) from None


@contextmanager
def open_world(plan: MeshPlan, machine: Machine, timeout: float) -> Iterator[World]:
    """Join the other processes for the block. `timeout` in seconds, for every exchange.

    If another process dies or does not answer, this one says who, and ends.
    """
    if plan.world == 1:
        yield World()
        return
    rank = int(os.environ["RANK"])
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    names = f"try{restart}.{next(_OPENED)}"
    store = _store(names, timeout)
    wait = timedelta(seconds=timeout)
    cuda = machine.device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=store,
        rank=rank,
        world_size=plan.world,
        timeout=wait,
        device_id=machine.device if cuda else None,
    )
    watch = Watch(_store(names, timeout), rank, plan.world, timeout)
    try:
        world = World(
            rank=rank,
            plan=plan,
            mesh=init_device_mesh(
                machine.device.type,
                (
                    plan.pipeline,
                    plan.replicas if plan.zero else plan.data,
                    plan.shard,
                    plan.tensor,
                ),
                mesh_dim_names=AXES,
            ),
            control=dist.new_group(backend="gloo", timeout=wait),
            saver=dist.new_group(backend="gloo", timeout=wait),
            watch=watch,
        )
        with watch.naming_the_lost():
            if world.main:
                yield world
            else:
                with progress.hidden():
                    yield world
    finally:
        watch.close()
        dist.destroy_process_group()


def local_device(machine: Machine) -> Machine:
    """The machine with this process's own GPU, by LOCAL_RANK, where it is a GPU."""
    if machine.device.type != "cuda" or processes() == 1:
        return machine
    index: int | None = machine.device.index
    if index is not None:
        raise RecipeError(
            f'`train.device` = "{machine.device}" names one GPU for all processes; set '
            'train.device="auto"'
        )
    local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= there:
        raise RecipeError(
            f"process {local} of this machine has no GPU: there are {there}; start torchrun with "
            f"--nproc-per-node={there}"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return replace(machine, device=device)


def _store(names: str, timeout: float) -> Store:
    """The launcher's store, with names of its own for each restart and each run.

    After a kill -9 the restarted processes would otherwise read the addresses of the dead
    (seen: "connectFullMesh … Connection refused").
    """
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not hosted and os.environ["RANK"] == "0",
        timeout=timedelta(seconds=max(timeout, 60.0)),
        wait_for_workers=False,
        multi_tenant=True,
    )
    return PrefixStore(names, store)

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
from epochal.training.parallel.heartbeat import Heartbeat
from epochal.training.parallel.mesh import MeshPlan

T = TypeVar("T")
_OPENED = itertools.count()
_LAUNCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SPEAK_SECONDS = 5.0
"""How long the other processes wait with an error that all of them have, for rank 0 to print it."""
EVAL_TIMEOUT = 1800.0
"""Seconds for every exchange of an evaluation; PyTorch's own default."""
AXES = ("pipeline", "replicate", "shard", "tensor")


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train the run together."""

    rank: int = 0
    plan: MeshPlan = field(default_factory=MeshPlan)
    mesh: DeviceMesh | None = None
    """Axes pipeline, replicate, shard, tensor; None for one process."""
    control: dist.ProcessGroup | None = None
    """gloo group of all, for small agreements on the CPU."""
    saver: dist.ProcessGroup | None = None
    """gloo group of all, for the background thread that writes checkpoints."""
    heartbeat: Heartbeat | None = None

    @property
    def size(self) -> int:
        """Processes of the run."""
        return self.plan.world

    @property
    def main(self) -> bool:
        """Whether this process writes the run's files and prints messages."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Index of this process's share of the rows, 0 … plan.data − 1."""
        return self.rank // self.plan.tensor % self.plan.data

    @property
    def stage(self) -> int:
        """Index of this process's stage of the pipeline."""
        return self.rank // (self.plan.tensor * self.plan.data)

    @property
    def is_stage_leader(self) -> bool:
        """Whether this process is the first of those that hold its stage."""
        return self.rank % (self.plan.tensor * self.plan.data) == 0

    @property
    def _counts_once(self) -> bool:
        """True in one process per data-parallel share, so that sums count nothing twice: one
        of the last stage, where losses are."""
        return self.rank % self.plan.tensor == 0 and self.stage == self.plan.pipeline - 1

    def all_reduce_sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an array over the data-parallel shares, the same on every process."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(np.array(values if self._counts_once else np.zeros_like(values)))
        dist.all_reduce(tensor, group=self.control)
        summed: NDArray[np.float64] = tensor.numpy()
        return summed

    def all_reduce_sum_on_device(self, values: Tensor) -> Tensor:
        """The same for a tensor, on its device and in its dtype."""
        if self.size > 1:
            values = values if self._counts_once else torch.zeros_like(values)
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, *values: int) -> list[int]:
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

    def beat(self, step: int) -> None:
        """Report to the other processes that this one is at `step`."""
        if self.heartbeat is not None:
            self.heartbeat.step = step

    def run_on_rank_zero(self, work: Callable[[], T]) -> T:
        """Run `work` in the main process; every process gets what it returns.

        If it raises an EpochalError there, the other processes exit with the same exit code and
        print nothing.
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


def process_count() -> int:
    """Processes that the launcher (torchrun) started; 1 without a launcher."""
    if any(name not in os.environ for name in _LAUNCH):
        return 1
    return int(os.environ["WORLD_SIZE"])


def is_secondary_rank() -> bool:
    """Whether the launcher started several processes and this one is not rank 0."""
    return process_count() > 1 and os.environ["RANK"] != "0"


@contextmanager
def report_errors_once() -> Iterator[None]:
    """Let only rank 0 print an error that all processes have.

    The launcher ends all processes as soon as one has failed. So the others wait a few seconds
    for rank 0, and no longer than until it exits.
    """
    try:
        yield
    except (EpochalError, SystemExit) as error:
        if not is_secondary_rank():
            raise
        code = error.exit_code if isinstance(error, EpochalError) else error.code
        if code:
            time.sleep(SPEAK_SECONDS)
        raise SystemExit(code) from None


@contextmanager
def open_world(plan: MeshPlan, machine: Machine, timeout: float) -> Iterator[World]:
    """Join the other processes for the block. `timeout` in seconds, for every exchange.

    If another process dies or hangs, this one names it and exits.
    """
    if plan.world == 1:
        yield World()
        return
    cuda = machine.device.type == "cuda"
    names = _start_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout, machine.device if cuda else None
    )
    rank = dist.get_rank()
    heartbeat = Heartbeat(_store(names, timeout), rank, plan.world, timeout)
    replicas = plan.replicas if plan.zero else plan.data
    wait = timedelta(seconds=timeout)
    try:
        world = World(
            rank=rank,
            plan=plan,
            mesh=init_device_mesh(
                machine.device.type,
                (plan.pipeline, replicas, plan.shard, plan.tensor),
                mesh_dim_names=AXES,
            ),
            control=dist.new_group(backend="gloo", timeout=wait),
            saver=dist.new_group(backend="gloo", timeout=wait),
            heartbeat=heartbeat,
        )
        with heartbeat.report_dead_ranks():
            if world.main:
                yield world
            else:
                with progress.hidden():
                    yield world
    finally:
        heartbeat.close()
        dist.destroy_process_group()


@contextmanager
def gloo_group() -> Iterator[dist.ProcessGroup | None]:
    """A gloo group of all processes that torchrun started, for work other than training.

    None for a single process. A process group that exists already is used and kept;
    else, where there are GPUs, each process takes its own as the default.
    """
    if not dist.is_initialized() and process_count() == 1:
        yield None
        return
    if dist.is_initialized():
        gloo = dist.get_backend() == "gloo"
        yield dist.group.WORLD if gloo else dist.new_group(backend="gloo")
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _start_group("gloo", EVAL_TIMEOUT)
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def local_device(machine: Machine) -> Machine:
    """The machine with this process's own GPU, by LOCAL_RANK, where it is a GPU.

    Raises RecipeError for a device that names one GPU, and for more processes than GPUs.
    """
    if machine.device.type != "cuda" or process_count() == 1:
        return machine
    index: int | None = machine.device.index
    if index is not None:
        raise RecipeError(
            f'`train.device` = "{machine.device}" names one GPU for all processes; set '
            'train.device="auto"'
        )
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= gpus:
        raise RecipeError(
            f"process {local} of this machine has no GPU: there are {gpus}; start torchrun with "
            f"--nproc-per-node={gpus}"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return replace(machine, device=device)


def _start_group(backend: str, timeout: float, device: torch.device | None = None) -> str:
    """Start torch's process group; the prefix of its names in the launcher's store."""
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    names = f"try{restart}.{next(_OPENED)}"
    dist.init_process_group(
        backend,
        store=_store(names, timeout),
        rank=int(os.environ["RANK"]),
        world_size=process_count(),
        timeout=timedelta(seconds=timeout),
        device_id=device,
    )
    return names


def _store(names: str, timeout: float) -> Store:
    """The launcher's store, with separate names for each restart and each run.

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

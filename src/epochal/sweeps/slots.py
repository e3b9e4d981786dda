"""Dividing a machine among runs that are trained side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from epochal.data.parallel import cores
from epochal.errors import OptionError
from epochal.progress import say

EPOCHAL = [sys.executable, "-m", "epochal"]
"""How a command of `epochal` begins."""
MOST_JOBS_ON_CPU = 8
"""Each takes memory. Chosen by us."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Slot:
    """A share of the machine for one run at a time."""

    number: int
    env: dict[str, str] = field(default_factory=dict)
    """Changes to the environment of this process."""
    gpus: int = 0

    @property
    def threads(self) -> int:
        """CPU threads of a run in this slot."""
        return int(self.env["OMP_NUM_THREADS"])

    def train_command(self, recipe_file: Path, evaluate: bool) -> list[str]:
        """The command that trains a recipe, with one process per GPU of the slot.

        A single process also evaluates, if `evaluate`, which saves starting another.
        """
        rest = ["train", str(recipe_file), "--comparable"]
        if self.gpus < 2:
            return [*EPOCHAL, *rest, *(["--eval"] if evaluate else [])]
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        return [sys.executable, *launcher, f"--nproc-per-node={self.gpus}", *EPOCHAL[1:], *rest]

    def evaluate_command(self, run_dir: str) -> list[str]:
        """The command that evaluates the best checkpoint of a run."""
        return [*EPOCHAL, "eval", run_dir, "--checkpoint", "best"]


def make_slots(
    jobs: int,
    *,
    cpus: int | None = None,
    gpus: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Slot]:
    """`jobs` slots, each with its share of the CPU threads and GPUs.

    The threads divided are those that OMP_NUM_THREADS allows, else one per CPU core that this
    process may use; at least one per slot. GPUs are those in CUDA_VISIBLE_DEVICES, else all;
    with fewer GPUs than slots they are shared in turn. Every slot has the same number, since all
    runs are checked for that number before one starts. Raises OptionError for less than one job.
    """
    if jobs < 1:
        raise OptionError("jobs", jobs, "should be at least 1")
    env = os.environ if environment is None else environment
    available = cpus if cpus is not None else cores()
    allowed = env.get("OMP_NUM_THREADS", "")
    threads = min(available, int(allowed)) if allowed.isdigit() and int(allowed) else available
    devices = gpus if gpus is not None else _gpus(env)
    slots = []
    for number in range(jobs):
        changes = dict.fromkeys(_THREADS, str(max(1, threads // jobs)))
        own: list[str] = []
        if devices:
            each = max(1, len(devices) // jobs)
            start = number * each % len(devices)
            own = devices[start : start + each]
            changes["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        slots.append(Slot(number, changes, len(own)))
    return slots


def jobs_for(runs: int, asked: int | None) -> int:
    """How many of some runs to train at a time: as many as `asked`, else one on each GPU; without
    one, on each core.

    Small models use one core better than two share: together they make more tokens a second.
    """
    if asked is not None:
        return asked
    slot = make_slots(1)[0]
    return min(runs, slot.gpus or min(slot.threads, MOST_JOBS_ON_CPU))


def warn_idle_gpus(slots: Sequence[Slot], gpus: list[str] | None = None) -> None:
    """Say which GPUs have no slot, since every slot has the same number; `gpus`: default all."""
    devices = gpus if gpus is not None else _gpus(os.environ)
    jobs, each = len(slots), slots[0].gpus
    if unused := max(0, len(devices) - each * jobs):
        plural = "s" * (unused > 1)
        say(
            f"{jobs} runs at a time with {each} of the {len(devices)} GPUs each leave {unused} "
            f"GPU{plural} idle; jobs = {len(devices)} would use all"
        )


def _gpus(env: Mapping[str, str]) -> list[str]:
    """Ids of the GPUs that may be used, from nvidia-smi, without torch."""
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode:
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]

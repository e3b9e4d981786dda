"""Options of `sweep` and `submit`. Light, so that the command line's help is quick."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from epochal.errors import OptionError, UserError
from epochal.options import option
from epochal.units import parse_seconds

Cluster = Literal["slurm", "local"]
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(m|min|h|d)?")


def _minutes(text: str) -> int:
    """Minutes, rounded up, of 90, 90m, 4h, 2d, or of Slurm's 04:00:00, 1-12:00 and 1-12:00:00.

    As in Slurm, "04:00" alone is minutes and seconds. Raises UserError.
    """
    if match := _CLOCK.fullmatch(text.strip()):
        days, first, second, third = match.groups()
        if third is None and days is None:
            seconds = 60 * int(first) + int(second)
        else:
            seconds = 86400 * int(days or 0) + 3600 * int(first) + 60 * int(second)
            seconds += int(third or 0)
    elif match := _SPAN.fullmatch(text.strip()):
        seconds = int(float(match[1]) * {"h": 3600, "d": 86400}.get(match[2] or "", 60))
    else:
        raise UserError(f"{text!r} is not a time; write 90 (minutes), 4h, 2d or 1-12:00:00")
    if seconds < 60:
        raise UserError(f"{text!r} is less than a minute")
    return -(-seconds // 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What each job asks of the cluster."""

    partition: str | None = None
    """Partition of the cluster."""
    minutes: int = option(240, flag="--time", metavar="TIME", parse=_minutes)
    """Time limit of one job in minutes, or as 4h, 2d, 1-12:00:00; a run that is not done by then
    is queued again."""
    nodes: int = 1
    """Nodes per run."""
    gpus: int = 1
    """GPUs per node, one process each; 0 for none."""
    cpus: int | None = None
    """CPUs per node."""
    memory_gb: float | None = option(None, flag="--memory", metavar="GB")
    """Memory per node."""
    parallel: int = 256
    """Jobs of an array that may run at a time."""
    requeues: int = 100
    """Maximum requeues after the time limit."""
    grace: int = 120
    """Seconds before the time limit at which the run is signalled to save."""
    setup: tuple[str, ...] = option((), metavar="LINE")
    """Shell line before the command, such as `module load cuda`; may be repeated."""
    sbatch: Mapping[str, str] = option(default_factory=dict, metavar="NAME=VALUE")
    """Any other sbatch option, such as account=mine; may be repeated."""

    def __post_init__(self) -> None:
        for name, least in (("minutes", 1), ("nodes", 1), ("gpus", 0), ("grace", 30)):
            if getattr(self, name) < least:
                raise OptionError(name, getattr(self, name), f"should be at least {least}")
        if self.grace >= 60 * self.minutes:
            raise OptionError(
                "grace", self.grace, f"leaves no time to train in {self.minutes} minutes"
            )

    @property
    def processes(self) -> int:
        """Processes per run."""
        return self.nodes * max(1, self.gpus)

    def parameters(self, name: str) -> dict[str, Any]:
        """Arguments of submitit's `SlurmExecutor.update_parameters`."""
        parameters = {
            "job_name": name,
            "partition": self.partition,
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": 1,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": self._memory(),
            "array_parallelism": self.parallel,
            "signal_delay_s": self.grace,
            "stderr_to_stdout": True,
            "setup": list(self.setup) or None,
            "additional_parameters": dict(self.sbatch) or None,
        }
        return {key: value for key, value in parameters.items() if value is not None}

    def _memory(self) -> str | None:
        """Memory with its unit: a number alone would be megabytes to sbatch."""
        if self.memory_gb is None:
            return None
        whole = self.memory_gb == int(self.memory_gb)
        return f"{int(self.memory_gb)}GB" if whole else f"{int(1024 * self.memory_gb)}MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """Options of `submit` beside the resources of its jobs."""

    out: Path | None = None
    """Folder of the run or sweep.  [default: that of train or sweep]"""
    retry: bool = False
    """Also submit runs of the sweep that failed or were ended early."""
    dry_run: bool = False
    """Print the sbatch script, then exit."""
    cluster: Cluster = "slurm"
    """local: run the same jobs as processes of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """How the runs of a sweep are run."""

    jobs: int | None = None
    """Runs at a time on this machine.  [default: one per GPU, else per CPU core, at most 8]"""
    out: Path | None = None
    """Folder for the runs.  [default: runs/<sweep's name>]"""
    retry: bool = False
    """Try runs again that failed or were ended early."""
    reuse: tuple[Path, ...] = option((), metavar="FOLDER")
    """Where to look for finished runs; may be repeated.  [default: the folder that holds out]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How settings are searched."""

    out: Path | None = None
    """Folder for the runs.  [default: runs/<recipe's name>-tune]"""
    families: tuple[str, ...] = option((), flag="--family", metavar="NAME")
    """A family to tune, repeatable; all of them if not given."""
    axes: tuple[Literal["lr", "weight_decay", "epochs", "dropout"], ...] = option((), flag="--axis")
    """A setting to search, repeatable; lr, weight_decay and epochs if not given."""
    budget: float | None = option(None, metavar="TIME", parse=parse_seconds)
    """Time for training over all sessions: 20min, 2h, 600s; in Python seconds. Every search may
    use the same share of it.  [default: until the searches end]"""
    seeds: int = 1
    """Trainings of the settings found; with 2 or more, what another seed changes is part of the
    error."""
    jobs: int | None = None
    """Runs at a time on this machine.  [default: one per GPU, else per CPU core, at most 8]"""

    def __post_init__(self) -> None:
        for name in ("jobs", "seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(name, value, "should be at least 1")
        if self.budget is not None and not self.budget > 0:
            raise OptionError("budget", self.budget, "should be more than 0 seconds")

"""Runs as jobs of a Slurm cluster, through submitit: arrays, preemption, several nodes.

One task per node starts one command: `python -m epochal train RECIPE`, or torchrun with a process
per GPU. Before Slurm takes the nodes back it sends a signal; then the run is ended by its STOP
file, which reaches all nodes alike, and the job is queued again and goes on from its checkpoint.
"""

from __future__ import annotations

import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from epochal.errors import RunError, UserError
from epochal.runs import RunFolder
from epochal.sweeps.slots import Slot

Cluster = Literal["slurm", "local"]
POLL_SECONDS = 0.5
PORTS = (20000, 60000)
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Slurm sends these to every process of a job; only those that know what to do should heed them."""
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(m|min|h|d)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What each job asks of the cluster."""

    partition: str | None = None
    minutes: int = 60
    """Time limit of one sitting; a run that is not done by then is queued again."""
    nodes: int = 1
    gpus: int = 1
    """Per node; one process each."""
    cpus: int | None = None
    """Per node."""
    memory_gb: float | None = None
    """Per node."""
    parallel: int = 256
    """Jobs of an array that may run at a time."""
    requeues: int = 100
    """How often a run may use up its time and be queued again."""
    grace: int = 120
    """Seconds before the end at which the run is asked to save."""
    setup: tuple[str, ...] = ()
    """Shell lines before the command, such as `module load cuda`."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further sbatch options by name, such as account or constraint."""

    def __post_init__(self) -> None:
        for name, least in (("minutes", 1), ("nodes", 1), ("gpus", 0), ("grace", 30)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} = {getattr(self, name)} is below {least}")
        if self.grace >= 60 * self.minutes:
            raise UserError(
                f"--grace of {self.grace} seconds leaves nothing of {self.minutes} minutes"
            )

    @property
    def processes(self) -> int:
        """Of one run."""
        return self.nodes * max(1, self.gpus)

    def parameters(self, name: str) -> dict[str, Any]:
        """Keywords of submitit's `update_parameters` for Slurm."""
        wanted = {
            "job_name": name,
            "partition": self.partition,
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": 1,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": self.memory_gb,
            "array_parallelism": self.parallel,
            "signal_delay_s": self.grace,
            "stderr_to_stdout": True,
            "setup": list(self.setup) or None,
            "additional_parameters": dict(self.more) or None,
        }
        return {key: value for key, value in wanted.items() if value is not None}


def parse_minutes(text: str) -> int:
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
        raise UserError(f"--time {text!r}: write 90 (minutes), 4h, 2d or 1-12:00:00")
    if seconds < 60:
        raise UserError(f"--time {text!r} is less than a minute")
    return -(-seconds // 60)


@dataclass(slots=True)
class TrainTask:
    """Trains one run on the nodes of a job; submitit pickles it and calls it on each node."""

    recipe_file: str
    run_dir: str
    nodes: int
    gpus: int
    grace: int
    evaluate: bool
    _process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> str:
        """Train, or go on; evaluate where that is wanted. Raises RunError if it failed."""
        environment = _job_environment()
        code = self._run(self.command(environment))
        if code:
            raise RunError(f"{self.run_dir}: training ended with exit code {code}")
        if self.evaluate and self._by_torchrun and environment.global_rank == 0:
            code = self._run(Slot(0).evaluate_command(self.run_dir))
            if code:
                raise RunError(f"{self.run_dir}: the evaluation ended with exit code {code}")
        return self.run_dir

    def checkpoint(self) -> Any:
        """Called by submitit before the job is taken away: save, and be queued again."""
        from submitit.helpers import DelayedSubmission

        folder = RunFolder(Path(self.run_dir))
        process, self._process = self._process, None
        if process is not None and folder.path.is_dir():
            folder.stop_file.touch()
            end = time.monotonic() + self.grace - 15
            while process.poll() is None and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            if process.poll() is None:  # not by the file, so at once
                process.send_signal(signal.SIGTERM)
            folder.stop_file.unlink(missing_ok=True)
        return DelayedSubmission(self)

    @property
    def _by_torchrun(self) -> bool:
        return self.nodes > 1 or self.gpus > 1

    def command(self, environment: Any) -> list[str]:
        """The command on one node of the job."""
        if not self._by_torchrun:
            return Slot(0).train_command(Path(self.recipe_file), self.evaluate)
        launcher = [f"--nproc-per-node={max(1, self.gpus)}"]
        if self.nodes == 1:
            launcher.append("--standalone")
        else:
            port = random.Random(str(environment.job_id)).randrange(*PORTS)
            launcher += [
                f"--nnodes={self.nodes}",
                # Static, so the first node hosts the meeting by its number, not because its own
                # hostname is Slurm's name for it, and has the run's first process and messages.
                "--rdzv-backend=static",
                f"--node-rank={environment.node}",
                f"--master-addr={environment.hostnames[0]}",
                f"--master-port={port}",
            ]
        train = ["-m", "epochal", "train", self.recipe_file]
        return [sys.executable, "-m", "torch.distributed.run", *launcher, *train]

    def _run(self, command: list[str]) -> int:
        # Else torchrun dies of a warning, and so does a run that is still importing; training
        # has handlers of its own.
        self._process = process = subprocess.Popen(command, preexec_fn=_ignore_warnings)
        while (code := process.poll()) is None:  # wait() would hold a lock that checkpoint() needs
            time.sleep(POLL_SECONDS)
        return code


def _ignore_warnings() -> None:
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def _job_environment() -> Any:
    from submitit import JobEnvironment

    return JobEnvironment()


def need_submitit() -> None:
    """Raise UserError, saying how to install it, unless submitit is there."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(
            "submitting needs the package submitit; pip install 'epochal[slurm]'"
        ) from None


def submit_tasks(
    tasks: list[TrainTask],
    resources: Resources,
    name: str,
    folder: Path,
    cluster: Cluster = "slurm",
) -> list[str]:
    """Hand tasks to the cluster, several as one array; their job ids.

    `cluster` "local" runs them as processes of this machine, to try the same path without
    Slurm. Raises UserError where Slurm is not there or refuses.
    """
    need_submitit()
    import submitit

    try:
        if cluster == "slurm":
            executor: Any = submitit.SlurmExecutor(folder, max_num_timeout=resources.requeues)
            executor.update_parameters(**resources.parameters(name))
        else:
            executor = submitit.LocalExecutor(folder)
            executor.update_parameters(
                timeout_min=resources.minutes, signal_delay_s=resources.grace
            )
        jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
    except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        first = str(error).strip().splitlines()[0]
        gpus = (
            "Invalid generic resource" in str(error) and cluster == "slurm" and resources.gpus > 0
        )
        none = "If the cluster has no GPUs, type --gpus 0 for processes on CPUs. " if gpus else ""
        raise UserError(
            f"cannot submit: {first} {none}Look at the script with --dry-run; --cluster local "
            "runs the same jobs on this machine"
        ) from error
    return [str(job.job_id) for job in jobs]


def script(resources: Resources, name: str, folder: Path, tasks: list[TrainTask]) -> str:
    """The sbatch script that `submit_tasks` would hand in, and the commands of its jobs."""
    need_submitit()
    from submitit.slurm.slurm import _convert_mem, _make_sbatch_string

    parameters = resources.parameters(name)
    if "mem" in parameters:
        parameters["mem"] = _convert_mem(parameters["mem"])
    if len(tasks) > 1:
        parameters["map_count"] = len(tasks)
    start = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    text: str = _make_sbatch_string(command=start, folder=folder, **parameters)
    lines = [text.rstrip(), "", "# what the jobs run on each node:"]
    for number, task in enumerate(tasks):
        words = " ".join(map(_quoted, task.command(_Shown())))
        lines.append(f"#   {number}: {words}")
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    return word if "$" in word else shlex.quote(word)


class _Shown:
    """Stands for what is only known on the cluster, in a script that is shown."""

    job_id = "$JOB_ID"
    node = "$NODE"
    hostnames = ("$FIRST_HOST",)

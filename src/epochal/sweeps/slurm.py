"""Runs as jobs of a Slurm cluster, through submitit: arrays, preemption, several nodes.

One task per node starts one command: `python -m epochal train RECIPE`, or torchrun with one
process per GPU. Before Slurm takes the nodes back it sends a signal; then the run is ended by its
STOP file, which all nodes see, and the job is queued again and resumes from its checkpoint.
"""

from __future__ import annotations

import random
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal.errors import RunError, UserError
from epochal.runs import RunFolder
from epochal.sweeps.options import Cluster, Resources
from epochal.sweeps.slots import Slot

POLL_SECONDS = 0.5
PORTS = (20000, 60000)
WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Slurm sends these to every process of a job; processes without a handler should ignore them."""


@dataclass(slots=True)
class TrainTask:
    """Trains one run on the nodes of a job; submitit pickles it and calls it on each node.

    Queued jobs hold pickles of it, so its name and fields stay.
    """

    recipe_file: str
    run_dir: str
    nodes: int
    gpus: int
    grace: int
    evaluate: bool
    _process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> str:
        """Train or resume, then evaluate if `evaluate`. Raises RunError if either fails."""
        environment = _job_environment()
        code = self._run(self.command(environment))
        if code:
            raise RunError(f"{self.run_dir}: training ended with exit code {code}")
        by_torchrun = self.nodes > 1 or self.gpus > 1  # else the training evaluates
        if self.evaluate and by_torchrun and environment.global_rank == 0:
            code = self._run(Slot(0).evaluate_command(self.run_dir))
            if code:
                raise RunError(f"{self.run_dir}: the evaluation ended with exit code {code}")
        return self.run_dir

    def checkpoint(self) -> Any:
        """Called by submitit before the job ends: save and be queued again."""
        from submitit.helpers import DelayedSubmission

        folder = RunFolder(Path(self.run_dir))
        process, self._process = self._process, None
        if process is not None and folder.path.is_dir():
            folder.stop_file.touch()
            end = time.monotonic() + self.grace - 15
            while process.poll() is None and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            if process.poll() is None:  # the file was not enough
                process.send_signal(signal.SIGTERM)
            folder.stop_file.unlink(missing_ok=True)
        return DelayedSubmission(self)

    def command(self, environment: Any) -> list[str]:
        """The command on one node of the job."""
        if self.nodes == 1:
            slot = Slot(0, gpus=self.gpus)
            return slot.train_command(Path(self.recipe_file), self.evaluate)
        port = random.Random(str(environment.job_id)).randrange(*PORTS)
        return [
            *(sys.executable, "-m", "torch.distributed.run"),
            f"--nproc-per-node={max(1, self.gpus)}",
            f"--nnodes={self.nodes}",
            # Static, so that the first node is the host because of its rank, not because its
            # own hostname equals Slurm's name for it, and has rank 0 and the messages.
            "--rdzv-backend=static",
            f"--node-rank={environment.node}",
            f"--master-addr={environment.hostnames[0]}",
            f"--master-port={port}",
            *("-m", "epochal", "train", self.recipe_file, "--comparable"),
        ]

    def _run(self, command: list[str]) -> int:
        # Otherwise a warning kills torchrun, and a run that is still importing; training has
        # its own handlers.
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


def submit_tasks(
    tasks: list[TrainTask],
    resources: Resources,
    name: str,
    folder: Path,
    cluster: Cluster = "slurm",
) -> list[str]:
    """Submit tasks to the cluster, several as one array; returns their job ids.

    `cluster` "local" runs them as processes of this machine, to try the same path without
    Slurm. Raises UserError where Slurm is missing or refuses.
    """
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
        none = "If the cluster has no GPUs, set gpus = 0 for processes on CPUs. " if gpus else ""
        raise UserError(
            f"cannot submit: {first} {none}A dry run shows the script; the cluster local runs "
            "the same jobs on this machine"
        ) from error
    return [str(job.job_id) for job in jobs]


def script(resources: Resources, name: str, folder: Path, tasks: list[TrainTask]) -> str:
    """The sbatch script that `submit_tasks` would submit, and the commands of its jobs."""
    # No public function makes a script without submitting it, so the version is bounded
    # (pyproject.toml) and a test compares this script with one that was submitted.
    from submitit.slurm.slurm import _make_sbatch_string

    parameters = resources.parameters(name)
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
    """Placeholders for values that are only known on the cluster, in a script that is shown."""

    job_id = "$JOB_ID"
    node = "$NODE"
    hostnames = ("$FIRST_HOST",)

"""Text encoded by tasks elsewhere, through datatrove's executors: Slurm, Ray, or processes here.

The command scans, splits and joins; each task reads the text again and encodes its share of the
shards. What is missing afterwards the command encodes itself, so a task that fails costs time only.
"""

from __future__ import annotations

import pickle
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.fidelity import Fidelity
from epochal.data.options import PrepareOptions
from epochal.data.shards import KeptShards
from epochal.data.split import Selection
from epochal.errors import DataError, OptionError, UserError, not_installed
from epochal.progress import say

_POLL_SECONDS = 10.0
_MOST_TASKS = 1000  # of an array, by Slurm's usual limit


@dataclass(frozen=True)
class EncodeShare:
    """A step of a datatrove pipeline; queued jobs hold pickles of it, so name and field stay."""

    job: str
    """File of what the tasks share."""

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Encode the shards whose number leaves `rank` when divided by `world_size`."""
        fidelity, selections, kept = pickle.loads(Path(self.job).read_bytes())
        number = 0
        for selection in selections:
            for task in fidelity.tasks(selection.texts(selection.used), kept):
                if number % world_size == rank:
                    fidelity.work(task)
                number += 1


def encode_elsewhere(
    selections: Sequence[Selection], fidelity: Fidelity, kept: KeptShards, options: PrepareOptions
) -> None:
    """Have the texts encoded by the tasks of an executor, and wait for them.

    Raises DataError without datatrove, OptionError for standard input, and UserError if the
    cluster refuses.
    """
    if any(selection.inputs.kept for selection in selections):
        problem = "cannot be used with standard input, which other machines cannot read; save it"
        raise OptionError("executor", options.executor, problem)
    folder = kept.folder.resolve()
    job = folder / "job.pickle"
    with files.atomic_path(job) as pending:
        pending.write_bytes(pickle.dumps((fidelity, tuple(selections), kept)))
    tasks = options.tasks or min(kept.count, _MOST_TASKS)
    executor = _executor(EncodeShare(str(job)), tasks, folder / f"tasks-{tasks}", options)
    say(f"encoding in {tasks} tasks; their logs are in {folder / f'tasks-{tasks}'}")
    try:
        executor.run()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"the executor {options.executor} cannot start tasks: {error}") from error
    if options.executor == "slurm" and executor.job_id != -1:
        while _is_queued(str(executor.job_id)):
            time.sleep(_POLL_SECONDS)
    kept.look()


def _is_queued(job: str) -> bool:
    listed = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, check=False)
    return bool(listed.stdout.strip())


def _executor(step: EncodeShare, tasks: int, logs: Path, options: PrepareOptions) -> Any:
    try:
        from datatrove.executor.local import LocalPipelineExecutor
        from datatrove.executor.ray import RayPipelineExecutor
        from datatrove.executor.slurm import SlurmPipelineExecutor
    except ImportError:
        raise DataError(not_installed("executors need", "datatrove", "cluster")) from None
    common: dict[str, Any] = {"pipeline": [step], "tasks": tasks, "logging_dir": str(logs)}
    if options.executor == "slurm":
        return SlurmPipelineExecutor(
            **common,
            time=options.time,
            partition=options.partition,
            job_name="epochal-prepare",
            qos=None,
            env_command="\n".join(options.setup),
            sbatch_args=dict(options.sbatch),
        )
    kind = RayPipelineExecutor if options.executor == "ray" else LocalPipelineExecutor
    return kind(**common, workers=options.workers or -1)

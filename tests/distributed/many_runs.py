"""Several runs one after the other, in the same processes.

    many_runs.py JOBS.json      [{overrides…, "stop_at": 12}, …]

A run with `stop_at` is stopped after
so many steps, as by SIGTERM to the last process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from epochal.errors import TrainingStopped
from epochal.training.parallel import world
from epochal.training.step import Stepper
from epochal.training.train import train


@contextlib.contextmanager
def stopping(at):
    """Send SIGTERM to the last process in its step number `at` (from 1)."""
    plain = Stepper.__call__

    def step(self, number, lr):
        if number + 1 == at and self.world.rank == self.world.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, number, lr)

    Stepper.__call__ = step
    try:
        with contextlib.suppress(TrainingStopped, SystemExit):
            yield
    finally:
        Stepper.__call__ = plain


def train_one(job):
    """Train one of the jobs."""
    at = job.pop("stop_at", None)
    with stopping(at) if at else contextlib.nullcontext():
        train(None, job)


if __name__ == "__main__":
    world.SPEAK_SECONDS = 0.0  # of runs that are stopped here, nobody has to tell
    for job in json.loads(Path(sys.argv[1]).read_text()):
        train_one(job)

"""A run to which something happens in the last process.

faulty_run.py JOB.json FAULT      kills | hang | full-disk
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter

from epochal.cli.main import main
from epochal.training.parallel import world
from epochal.training.step import Stepper
from tiny_runs import as_words

THREE = {"parallel.data": 3}
RESTART = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def before(owner, name, action):
    """Call `action(number of the call)` before a method of the last process."""
    plain, calls = getattr(owner, name), []

    def disturbed(self, *arguments, **more):
        calls.append(1)
        if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            action(len(calls))
        return plain(self, *arguments, **more)

    setattr(owner, name, disturbed)


def at(number, what):
    """What to do in call number `number`, and in no other."""
    return lambda call: what() if call == number else None


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_there_is(checkpoint):
    """Die once it is whole, which it becomes in the background while the steps go on."""
    while not checkpoint.exists():
        time.sleep(0.01)
    die()


def fill_the_disk():
    """From now on all parts are written to the device that has no room, as the system says."""

    @contextlib.contextmanager
    def full(self, path, mode):
        with Path("/dev/full").open(mode) as stream:
            yield stream

    FileSystem.create_stream = full


if __name__ == "__main__":
    job, fault = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    if fault == "kills" and RESTART == 0:
        saved = Path(job["run_dir"], "checkpoints", "last-00000008")
        before(Stepper, "problems", at(11, lambda: die_when_there_is(saved)))
    elif fault == "kills" and RESTART == 1:
        before(FileSystemWriter, "write_data", at(2, die))  # the save after step 16
    elif fault == "hang":
        before(Stepper, "problems", at(7, lambda: time.sleep(1000)))
    elif fault == "full-disk":
        patience, world.SPEAK_SECONDS = world.SPEAK_SECONDS, 0.0  # the launcher waits for us
        with contextlib.suppress(SystemExit):  # a mesh that does not fit, in passing
            main(["train", *as_words(job | {"run_dir": f"{job['run_dir']}/../no-mesh"} | THREE)])
        world.SPEAK_SECONDS = patience
        before(FileSystemWriter, "write_data", at(2, fill_the_disk))
    if fault == "kills" and RESTART == 2:
        with contextlib.suppress(SystemExit):  # the same run, to which nothing happens
            main(["train", *as_words(job | {"run_dir": f"{job['run_dir']}/../still"})])
    main(["train", *as_words(job)])

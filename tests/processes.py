"""Processes that work together, as torchrun starts them, forked from the server of runs.

Run as a program it is that server: of the requests' arguments, `python FILE …` runs a file,
`torchrun …` is torchrun, all others `epochal`.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

from epochal.sweeps import fork_server
from epochal.sweeps.fork_server import PRELOADED, _run_epochal, serve, start_epochal

_STORES = []


def use_for_all_runs():
    """Let runs of sweeps and studies share the one server with the tests' own processes."""
    fork_server.COMMAND = [sys.executable, str(Path(__file__))]
    _wait_for_no_disk()


def _wait_for_no_disk():
    """No test cuts the power, so nothing has to be on the disk."""
    os.fsync = lambda handle: None


def measure_quickly():
    """How fast this machine multiplies, which took half the time of a tiny run, is no test's."""
    if device := sys.modules.get("epochal.device"):
        device._CPU_PRODUCT = 64


def together(count, arguments, folder):
    """Run `epochal` with the arguments, or `python FILE …`, in `count` processes to their end.

    (Standard output of the first, what all of them wrote to standard error.)
    """
    children, logs = start(count, arguments, folder)
    codes = _exit_codes(children)
    said = errors(logs)
    assert codes == [0] * count, said[-4000:]
    assert not any(log.read_text() for log in logs[1:]), "only the first one speaks"
    return logs[0].read_text(), said


def torchrun(count, *arguments, restarts, folder):
    """What is said by a file that torchrun runs in `count` processes, restarted after failures.

    They are forked from torchrun, which is forked itself: each would import torch for seconds.
    """
    words = ["torchrun", "--standalone", "--nproc-per-node", str(count), "--run-path"]
    words += ["--start-method", "fork", "--max-restarts", str(restarts), *arguments]
    log = folder / "torchrun"
    codes = _exit_codes([start_epochal(words, os.environ | {"OMP_NUM_THREADS": "1"}, log)])
    said = log.read_text()
    assert codes == [0], said[-4000:]
    return said


def _exit_codes(children):
    try:
        return [child.wait() for child in children]
    finally:
        for child in children:
            if child.poll() is None:  # the test took too long
                os.killpg(child.pid, signal.SIGKILL)


def errors(logs):
    """What all of the processes wrote to standard error."""
    return "".join(Path(f"{log}.err").read_text() for log in logs)


def start(count, arguments, folder):
    """The processes, and the files of their standard output; see `together`."""
    from torch.distributed import TCPStore

    # As under torchrun they meet at a store that outlives them: one of rank 0's own would be gone
    # when a second run in the same processes asks for it.
    _STORES.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(_STORES[-1].port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {**os.environ, "OMP_NUM_THREADS": "1"}
    logs = [folder / f"rank-{rank}" for rank in range(count)]
    children = []
    for rank, log in enumerate(logs):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "ERRORS": f"{log}.err"}
        children.append(start_epochal(arguments, shared | own, log))
    return children, logs


def _run(arguments):
    measure_quickly()
    if path := os.environ.get("ERRORS"):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if arguments[0] == "torchrun":
        from torch.distributed.run import main

        return main(arguments[1:])
    if arguments[0] != "python":
        return _run_epochal(arguments)
    sys.argv = arguments[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    return runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _wait_for_no_disk()
    serve(_run, PRELOADED)

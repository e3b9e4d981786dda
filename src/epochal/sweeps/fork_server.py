"""Processes for runs, forked from one that has already imported torch.

Importing torch and what training needs takes 3 to 6 s of a core, a large share of the short runs
of a study; forking takes less than 0.1 s. The server is a process of its own without threads and
without tensors, so that its children begin as a new interpreter would. A line of JSON on its
standard input asks for a child; it answers with lines of JSON: the child's id, later its exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from epochal.errors import RunError

PRELOADED = (
    "epochal.cli.main",
    "epochal.cli.train",
    "epochal.cli.evaluate",
    "epochal.training.train",
    "epochal.evaluation.evaluate",
    "torch._inductor.compile_fx",
)
"""Modules that a child need not import."""
COMMAND = [sys.executable, "-m", "epochal.sweeps.fork_server"]
FORKS = hasattr(os, "fork") and sys.platform != "darwin"
"""Whether runs are forked. Windows cannot, and libraries of macOS do not outlive a fork: there each
run is a new interpreter."""
POLL_SECONDS = 0.05
LOST = -9
"""Exit code of a child whose server ended before it."""


class ForkServer:
    """The server, as seen by the process that starts runs."""

    def __init__(self, threads: int) -> None:
        """Start it; it imports in the background. `threads`: CPU threads of each child."""
        self.threads, number = threads, str(threads)
        self.process = subprocess.Popen(
            COMMAND,
            bufsize=0,  # so that `select` sees every line
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number},
            start_new_session=True,  # Ctrl-C at the terminal is not for it
        )
        self._codes: dict[int, int] = {}
        self.cpu_seconds = 0.0
        """Of its children that have ended."""

    @property
    def ended(self) -> bool:
        """Whether it can start nothing any more."""
        return self.process.poll() is not None

    def close(self) -> None:
        """End it; its children go on."""
        with self.process:
            self.process.kill()

    def start(self, arguments: list[str], env: dict[str, str], log: Path) -> ForkedProcess:
        """Run `epochal` with `arguments` in a new session; its output is appended to `log`.

        Raises RunError if the server has ended.
        """
        request = {"arguments": arguments, "env": env, "cwd": str(Path.cwd()), "log": str(log)}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended, which `_read` finds
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        while (answer := self._read()) is not None:
            if "code" not in answer:
                return ForkedProcess(answer["pid"], self)
        raise RunError(f"the process that starts runs ended with exit code {self.process.wait()}")

    def exit_code(self, pid: int) -> int | None:
        """The exit code of a child, as `subprocess` gives it; None while it runs."""
        assert self.process.stdout is not None
        while pid not in self._codes and select.select([self.process.stdout], [], [], 0)[0]:
            if self._read() is None:
                return None if _is_alive(pid) else LOST
        return self._codes.get(pid)

    def _read(self) -> dict[str, Any] | None:
        """The next answer, None if there will be none; an exit code is kept."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            return None
        answer: dict[str, Any] = json.loads(line)
        if "code" in answer:
            self._codes[answer["pid"]] = answer["code"]
            self.cpu_seconds += answer["cpu_seconds"]
        return answer


class ForkedProcess:
    """A child of the server, with what is used of `subprocess.Popen`."""

    def __init__(self, pid: int, server: ForkServer) -> None:
        self.pid = pid
        self._server = server

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._server.exit_code(self.pid)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        while (code := self.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code


_servers: list[ForkServer] = []
"""Kept for all sweeps of this process; those that have ended, too."""


def start_epochal(
    arguments: list[str], env: dict[str, str], log: Path
) -> ForkedProcess | subprocess.Popen[bytes]:
    """Start `epochal` with `arguments` and the environment `env`; see `ForkServer.start`."""
    if not FORKS:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "epochal", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
    threads = int(env["OMP_NUM_THREADS"])
    server = next((one for one in _servers if one.threads == threads and not one.ended), None)
    if server is None:
        server = ForkServer(threads)
        _servers.append(server)
        atexit.register(server.close)
    return server.start(arguments, env, log)


def forked_cpu_seconds() -> float:
    """CPU seconds of all processes that `start_epochal` has started and that have ended."""
    return sum(server.cpu_seconds for server in _servers)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def serve(run: Callable[[list[str]], None], modules: Sequence[str]) -> None:
    """Import `modules`, then fork a child per request until standard input ends.

    A child calls `run` with the arguments of the request, and ends as an interpreter would.
    """
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # collections in a child would copy the pages of all these objects
    children: set[int] = set()
    while True:
        asked = select.select([sys.stdin], [], [], POLL_SECONDS if children else None)[0]
        while children and (ended := os.wait4(-1, os.WNOHANG))[0]:
            pid, status, used = ended
            children.remove(pid)
            code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
            _answer(pid=pid, code=code, cpu_seconds=seconds)
        if not asked:
            continue
        line = sys.stdin.readline()
        if not line:
            return
        pid = os.fork()
        if pid == 0:
            _be_a_child(run, json.loads(line))
        children.add(pid)


def _be_a_child(run: Callable[[list[str]], None], request: dict[str, Any]) -> NoReturn:
    """In the session, folder, environment and with the output that were asked for."""
    code: object = 0
    try:
        os.setsid()
        _answer(pid=os.getpid())  # by the child, since its session must be there
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.argv[1:] = request["arguments"]
        run(request["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    # Taking the modules apart, as Python does at its end, takes longer than a short run.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _run_epochal(_: list[str]) -> None:
    runpy.run_module("epochal", run_name="__main__")  # which reads sys.argv


def _answer(**values: float) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(_run_epochal, PRELOADED)

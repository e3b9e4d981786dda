"""Which processes are alive, and where each of them is.

Each process writes a line about itself to the launcher's store every second: a count of beats,
its last step, and the line of code its main thread is at. Processes 0 and 1 read them all. So
a process that dies or hangs is named, with its step, while the others still wait for it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from epochal.progress import say

BEAT_SECONDS = 1.0
_SILENT_SECONDS = 4 * BEAT_SECONDS
_FAILED_EXCHANGE = re.compile(
    r"third_party/gloo/|\bnccl (error|communicator)|connection (closed by peer|reset|refused)|"
    r"broken pipe|socket timeout|timed out waiting|pair closure|monitoredbarrier|connectfullmesh",
    re.IGNORECASE,
)
"""Messages of gloo, which raises plain RuntimeErrors, for an exchange that failed."""
_AGAIN = "The job ends; started again, it resumes from the last checkpoint"


@dataclass(slots=True)
class _Process:
    """The last known state of another process."""

    line: str = ""
    heard: float = field(default_factory=time.monotonic)
    """When its line last changed."""
    place: tuple[int, str] = (0, "")
    """(step, line of code)"""
    passes: int = 0
    moved: float = field(default_factory=time.monotonic)
    """When its step, line of code or forward passes last changed."""

    def update(self, line: str) -> None:
        now = time.monotonic()
        if line != self.line:
            self.line, self.heard = line, now
            state = json.loads(line)
            place, passes = (state["step"], state["at"]), state["passes"]
            if (place, passes) != (self.place, self.passes):
                self.place, self.passes, self.moved = place, passes, now

    def describe(self, rank: int, verb: str) -> str:
        """`rank 1 (host, process 7) is after step 4, at training/loop.py:99 (run)`."""
        state = json.loads(self.line) if self.line else {}
        who = f" ({state['host']}, process {state['pid']})" if state else ""
        step, code = self.place
        return f"rank {rank}{who} {verb} after step {step:,}, at {code or 'its start'}"


class Heartbeat:
    """Beats for this process and, in processes 0 and 1, watches the others."""

    def __init__(self, store: Store, rank: int, size: int, timeout: float) -> None:
        self.step = 0
        self.passes = 0
        """Forward passes so far, so that a long evaluation is not taken for a standstill."""
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        self._main = threading.get_ident()
        self._end = threading.Event()
        self._others = {other: _Process() for other in range(size)} if rank < 2 else {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop beating."""
        self._end.set()
        self._thread.join(timeout=2 * BEAT_SECONDS)

    @contextmanager
    def report_dead_ranks(self) -> Iterator[None]:
        """Where an exchange inside the block fails, print the error and who is missing, and exit.

        Other errors pass. The exit is immediate, without cleaning up: other threads may wait for
        the dead process for long, and the launcher for this one.
        """
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            if not _is_failed_exchange(error):
                raise
            reason = (str(error).strip() or repr(error)).splitlines()[0][:400]
            say(f"error: rank {self._rank} after step {self.step:,}: {reason}")
            if self._others:
                if threading.current_thread() is threading.main_thread():
                    # The launcher ends the remaining ones; there are seconds before it kills.
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                # Only then is silence more than a pause.
                time.sleep(_SILENT_SECONDS + 2 * BEAT_SECONDS)
                say(
                    f"error: process {self._rank} lost another one after step {self.step:,}: "
                    f"{self._suspects()}. {_AGAIN}"
                )
            os._exit(1)

    def _run(self) -> None:
        beats = 0
        while not self._end.wait(BEAT_SECONDS if beats else 0):
            beats += 1
            try:
                self._store.set(f"beat{self._rank}", self._line(beats))
                if self._others and beats > 2:
                    self._read_others()
            except (dist.DistError, RuntimeError):
                return  # the store is gone, and with it the job
            if self._others and self._stuck():
                say(
                    f"error: no process has moved for {0.8 * self._timeout:.0f} s "
                    f"(`parallel.timeout` = {self._timeout:g} s). {self._suspects()}. {_AGAIN}"
                )
                os._exit(1)

    def _line(self, beats: int) -> str:
        frame = sys._current_frames().get(self._main)
        at = ""
        if frame is not None:
            stack = traceback.extract_stack(frame)
            inside = f"{os.sep}epochal{os.sep}"
            own = ([part for part in stack if inside in part.filename] or stack)[-1]
            at = f"{own.filename.rpartition(inside)[2]}:{own.lineno} ({own.name})"
        state = {"beats": beats, "step": self.step, "passes": self.passes, "at": at}
        return json.dumps(state | {"host": socket.gethostname(), "pid": os.getpid()})

    def _read_others(self) -> None:
        ranks = [rank for rank in self._others if self._store.check([f"beat{rank}"])]
        lines = self._store.multi_get([f"beat{rank}" for rank in ranks])
        with self._lock:
            for rank, line in zip(ranks, lines, strict=True):
                self._others[rank].update(line.decode())

    def _stuck(self) -> bool:
        with self._lock:
            latest = max(process.moved for process in self._others.values())
        return time.monotonic() - latest > 0.8 * self._timeout

    def _suspects(self) -> str:
        """The processes that are silent, or else those that are elsewhere than most."""
        with self._lock:
            now, others = time.monotonic(), self._others
            silent = {r: p for r, p in others.items() if now - p.heard > _SILENT_SECONDS}
            places = [process.place for process in others.values()]
            odd = {r: p for r, p in others.items() if places.count(p.place) * 2 <= len(places)}
            chosen, verb = (silent, "was last heard of") if silent else (odd or others, "is")
            return "; ".join(p.describe(rank, verb) for rank, p in list(chosen.items())[:8])


def _is_failed_exchange(error: Exception) -> bool:
    if isinstance(error, dist.DistError):
        return True
    # Not the kinds derived from it, such as a GPU that is out of memory.
    return type(error) is RuntimeError and _FAILED_EXCHANGE.search(str(error)) is not None

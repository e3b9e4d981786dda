"""Who of the processes is still there, and where each of them is.

Each process puts a line about itself into the launcher's store every second: how many beats,
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
_EXCHANGE = re.compile(
    r"third_party/gloo/|\bnccl (error|communicator)|connection (closed by peer|reset|refused)|"
    r"broken pipe|socket timeout|timed out waiting|pair closure|monitoredbarrier|connectfullmesh",
    re.IGNORECASE,
)
"""What gloo, which raises plain RuntimeErrors, says of an exchange that failed."""
_AGAIN = "The job ends; started again, it goes on from the last checkpoint"


@dataclass(slots=True)
class _Seen:
    """What is known of another process."""

    line: str = ""
    heard: float = field(default_factory=time.monotonic)
    """When its line last changed."""
    place: tuple[int, str] = (0, "")
    passes: int = 0
    moved: float = field(default_factory=time.monotonic)
    """When its step or place in the code last changed."""

    def update(self, line: str) -> None:
        now = time.monotonic()
        if line != self.line:
            self.line, self.heard = line, now
            told = json.loads(line)
            place, passes = (told["step"], told["at"]), told["passes"]
            if (place, passes) != (self.place, self.passes):
                self.place, self.passes, self.moved = place, passes, now

    def __str__(self) -> str:
        told = json.loads(self.line) if self.line else {}
        who = f" ({told['host']}, process {told['pid']})" if told else ""
        return f"{who} after step {self.place[0]:,}, at {self.place[1] or 'its start'}"


class Watch:
    """Beats for this process and, in processes 0 and 1, looks after the others."""

    def __init__(self, store: Store, rank: int, size: int, timeout: float) -> None:
        self.step = 0
        self.passes = 0
        """Forward passes so far: a long evaluation is no standstill."""
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        self._main = threading.get_ident()
        self._end = threading.Event()
        self._seen = {other: _Seen() for other in range(size)} if rank < 2 else {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop beating."""
        self._end.set()
        self._thread.join(timeout=2 * BEAT_SECONDS)

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Where an exchange inside the block fails, tell the error, who is missing, and end this
        process. Other errors pass.

        At once, without clearing up: other threads may wait for the dead for long, and the
        launcher for this one.
        """
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            if not _is_of_an_exchange(error):
                raise
            reason = (str(error).strip() or repr(error)).splitlines()[0][:400]
            say(f"error: rank {self._rank} after step {self.step:,}: {reason}")
            if self._seen:
                if threading.current_thread() is threading.main_thread():
                    # The launcher ends those that are left; there are seconds before it kills.
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(_SILENT_SECONDS + 2 * BEAT_SECONDS)  # until silence is no pause
                say(
                    f"error: process {self._rank} lost another one after step {self.step:,}: "
                    f"{self._who()}. {_AGAIN}"
                )
            os._exit(1)

    def _run(self) -> None:
        beats = 0
        while not self._end.wait(BEAT_SECONDS if beats else 0):
            beats += 1
            try:
                self._store.set(f"beat{self._rank}", self._line(beats))
                if self._seen and beats > 2:
                    self._look()
            except (dist.DistError, RuntimeError):
                return  # the store is gone, and with it the job
            if self._seen and self._stuck():
                say(
                    f"error: no process has moved for {0.8 * self._timeout:.0f} s "
                    f"(`parallel.timeout` = {self._timeout:g} s). {self._who()}. {_AGAIN}"
                )
                os._exit(1)

    def _line(self, beats: int) -> str:
        frame = sys._current_frames().get(self._main)
        at = ""
        if frame is not None:
            stack = traceback.extract_stack(frame)
            ours = [one for one in stack if f"{os.sep}epochal{os.sep}" in one.filename] or stack
            name = ours[-1].filename.rpartition(f"{os.sep}epochal{os.sep}")[2]
            at = f"{name}:{ours[-1].lineno} ({ours[-1].name})"
        host, pid = socket.gethostname(), os.getpid()
        told = {"beats": beats, "step": self.step, "passes": self.passes, "at": at}
        return json.dumps(told | {"host": host, "pid": pid})

    def _look(self) -> None:
        there = [rank for rank in self._seen if self._store.check([f"beat{rank}"])]
        lines = self._store.multi_get([f"beat{rank}" for rank in there])
        with self._lock:
            for rank, line in zip(there, lines, strict=True):
                self._seen[rank].update(line.decode())

    def _stuck(self) -> bool:
        with self._lock:
            latest = max(seen.moved for seen in self._seen.values())
        return time.monotonic() - latest > 0.8 * self._timeout

    def _who(self) -> str:
        """The processes that are silent, or else those that are elsewhere than most."""
        with self._lock:
            now = time.monotonic()
            silent = {r: s for r, s in self._seen.items() if now - s.heard > _SILENT_SECONDS}
            places = [seen.place for seen in self._seen.values()]
            odd = {r: s for r, s in self._seen.items() if places.count(s.place) * 2 <= len(places)}
            chosen, what = (silent, "was last heard of") if silent else (odd or self._seen, "is")
            shown = [f"rank {rank}{seen}" for rank, seen in list(chosen.items())[:8]]
        return "; ".join(f"{one.replace(' after step', f' {what} after step', 1)}" for one in shown)


def _is_of_an_exchange(error: Exception) -> bool:
    if isinstance(error, dist.DistError):
        return True
    # Not the kinds derived from it, such as a GPU that is out of memory.
    return type(error) is RuntimeError and _EXCHANGE.search(str(error)) is not None

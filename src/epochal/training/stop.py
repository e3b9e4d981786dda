"""Ending a run on request: Ctrl-C, SIGTERM, a cluster's signal, or a file STOP in its folder."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from epochal.progress import say

TRY_AGAIN = 75
"""Exit code after a STOP file (EX_TEMPFAIL)."""
# Slurm's --signal sends SIGUSR1 or SIGUSR2 before it takes the machine away.
_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has no SIGUSR
)
RELAY_SECONDS = 5.0
"""The same signal again within this time is the same request: Slurm signals every process of a
job, so a worker of torchrun gets it from Slurm and from torchrun. Ctrl-C comes from a person."""


class StopRequest:
    """Whether and how the run was asked to stop."""

    def __init__(self, stop_file: Path, main: bool = True) -> None:
        """Only the `main` process reads the file; signals may reach any process."""
        self._file, self._main = stop_file, main
        self._signal: int | None = None
        self._since = 0.0

    def asked(self) -> int:
        """The exit code to stop with, or 0 to continue."""
        if self._signal is not None:
            return 128 + self._signal  # the shell's convention
        if self._main and self._file.exists():
            self._file.unlink(missing_ok=True)
            return TRY_AGAIN
        return 0

    def who(self, exit_code: int) -> str:
        """The signal or file behind this exit code."""
        if exit_code == TRY_AGAIN:
            return f"the file {self._file}"
        return signal.Signals(exit_code - 128).name

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal == number:
            if number != signal.SIGINT and time.monotonic() < self._since + RELAY_SECONDS:
                return
            raise KeyboardInterrupt
        if self._signal is not None:
            return  # a cluster warns with one signal and follows with another
        self._signal, self._since = number, time.monotonic()
        say("finishing this step and saving a checkpoint; the same signal again stops at once")

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Hear requests inside the block. Signals reach only a process's main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[int, Any] = {
            number: signal.signal(number, self._on_signal) for number in _SIGNALS
        }
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

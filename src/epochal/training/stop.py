"""Ending a run on request: Ctrl-C, SIGTERM, or a file named STOP in the run's folder."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from epochal.progress import say


class StopRequest:
    """Whether somebody asked the run to end, and how."""

    def __init__(self, stop_file: Path) -> None:
        self._file = stop_file
        self._signal: int | None = None

    def asked(self) -> tuple[str, int] | None:
        """(who asked, exit code), or None to go on."""
        if self._signal is not None:
            # The shell's convention: 128 + number of the signal.
            return signal.Signals(self._signal).name, 128 + self._signal
        if self._file.exists():
            self._file.unlink(missing_ok=True)
            return f"the file {self._file}", 75
        return None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        say("finishing this step and saving a checkpoint; once more to break off at once")


@contextmanager
def stop_request(stop_file: Path) -> Iterator[StopRequest]:
    """Listen inside the block. Signals reach only a process's main thread."""
    request = StopRequest(stop_file)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {
        number: signal.signal(number, request._on_signal)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

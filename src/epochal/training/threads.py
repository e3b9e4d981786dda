"""How many CPU threads a run's steps use: measured on the steps themselves.

Beside other work, threads that share an operation wait for the slowest, so one thread can be
faster than all; on a quiet machine more are. The counts tried are powers of two: the work is then
divided so that each number is added up in the same order, and the weights are the same, bit for
bit, whatever is chosen (`tests/training/test_threads.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch

STEPS = 3
"""Steps timed with each count; the fastest of them counts, since a disturbance only slows."""
WINDOW = 20
"""Recent steps whose median tells that the machine has become slower."""
SLOWER = 2.0
"""Median over the time of the choice from which the counts are tried again. Chosen by us."""


class ThreadCount:
    """The number of threads for the next step of a run on the CPU."""

    def __init__(self, most: int) -> None:
        """`most` is the largest count allowed."""
        self.counts = [1 << power for power in range(most.bit_length())]
        self._times: dict[int, list[float]] = {}
        self._chosen_time: float | None = None
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._warm = False

    def next(self) -> int:
        """The count for the next step: one that is still to be timed, largest first, or the
        fastest."""
        for count in reversed(self.counts):
            if len(self._times.get(count, ())) < STEPS:
                return count
        return min(self.counts, key=lambda count: min(self._times[count]))

    def took(self, count: int, seconds: float) -> None:
        """Count a step that was made with `count` threads. The first one warms up."""
        if not self._warm:
            self._warm = True
            return
        times = self._times.setdefault(count, [])
        if len(times) < STEPS:
            times.append(seconds)
            return
        self._recent.append(seconds)
        if len(self._recent) < WINDOW:
            return
        now = median(self._recent)
        if self._chosen_time is None:
            self._chosen_time = now
        elif now > SLOWER * self._chosen_time:
            self._times, self._chosen_time = {}, None
            self._recent.clear()


@contextmanager
def restored_threads() -> Iterator[None]:
    """Give torch back its number of threads afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)

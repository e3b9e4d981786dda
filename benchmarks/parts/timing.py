"""Variants measured in turn, so that whatever else runs on the machine disturbs all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from epochal.progress import bar

Times = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table."""

    part: str
    name: str
    value: float
    unit: str
    low: float
    """Smallest over the rounds; for ratios and times alike."""
    high: float
    note: str = ""


def take_turns(
    title: str,
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Seconds by `clock` per call of each variant, A B C A B C …, after one round that warms up."""
    times: Times = {name: [] for name in variants}
    with bar(title, rounds + 1) as progress:
        for number in range(rounds + 1):
            for name, work in variants.items():
                begin = clock()
                work()
                if number:
                    times[name].append(clock() - begin)
            progress.update(number + 1)
    return times


def time_rows(
    part: str, times: Times, unit: str = "s", scale: float = 1.0, note: str = ""
) -> list[Row]:
    """Median, smallest and largest time of each variant, times `scale`."""
    return [
        Row(part, name, statistics.median(s) * scale, unit, min(s) * scale, max(s) * scale, note)
        for name, s in times.items()
    ]


def ratio_row(part: str, times: Times, slow: str, fast: str, note: str = "") -> Row:
    """How many times faster `fast` is than `slow`: the median over rounds of their ratio."""
    ratios = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
    name = f"{fast} against {slow}"
    return Row(part, name, statistics.median(ratios), "×", min(ratios), max(ratios), note)

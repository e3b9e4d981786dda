"""Progress of long work, on standard error: a live bar on a terminal, sparse lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


_visible: ContextVar[bool] = ContextVar("progress_visible", default=True)
_LOG_FIRST_SECONDS = 5.0
_LOG_EVERY_SECONDS = 15.0


class Bar(Protocol):
    """What long work reports: how much is done, and a short note."""

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done (of the bar's total) and the note beside it."""


@contextmanager
def hidden() -> Iterator[None]:
    """Show no progress inside the block."""
    token = _visible.set(False)
    try:
        yield
    finally:
        _visible.reset(token)


def visible() -> bool:
    """Whether progress is shown here."""
    return _visible.get()


def say(message: str) -> None:
    """One line for the person at the screen, on standard error; nothing while hidden."""
    if _visible.get():
        print(message, file=sys.stderr, flush=True)


_said: set[str] = set()


def say_once(message: str) -> None:
    """`say`, once per process."""
    if _unsaid(message):
        say(message)


def say_renamed(what: str, names: Mapping[str, str]) -> None:
    """One notice for names of an earlier version (old → new), each once per process."""
    if new := _unsaid(*(f"{old} → {name}" for old, name in names.items())):
        say(f"{what} with new names, the old ones are still read: {', '.join(new)}")


def _unsaid(*messages: str) -> list[str]:
    new = sorted(set(messages) - _said)
    _said.update(new)
    return new


@contextmanager
def bar(title: str, total: float | None) -> Iterator[Bar]:
    """Show the progress of the block; `total` None means that the amount is not known."""
    if not _visible.get():
        yield _Silent()
    elif sys.stderr.isatty():
        with _terminal() as progress:
            yield _Live(progress, title, total)
    else:
        yield _Lines(title, total)


def _terminal() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class _Silent:
    def update(self, done: float, note: str = "") -> None:
        pass


class _Live:
    def __init__(self, progress: Progress, title: str, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def update(self, done: float, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)


class _Lines:
    """For a log file: a line after five seconds, then every fifteen; none for shorter work."""

    def __init__(self, title: str, total: float | None) -> None:
        self._title, self._total = title, total
        self._start = time.monotonic()
        self._before: float | None = None  # what a resumed work had done already
        self._next = self._start + _LOG_FIRST_SECONDS

    def update(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        before = self._before = done if self._before is None else self._before
        if now < self._next:
            return
        self._next = now + _LOG_EVERY_SECONDS
        share = f"{100 * done / self._total:3.0f}%" if self._total else f"{done:g}"
        if self._total and before < done <= self._total:
            seconds = round((now - self._start) * (self._total - done) / (done - before))
            note = f"{note}, {timedelta(seconds=seconds)} left".removeprefix(", ")
        print(f"{self._title} {share} {note}".rstrip(), file=sys.stderr, flush=True)


COLUMN_GAP = 2
"""Spaces between the columns of a table."""


def table_width(rows: Sequence[Sequence[str]]) -> int:
    """Characters per line of a table; `rows` include its header."""
    longest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return sum(longest) + COLUMN_GAP * (len(longest) - 1)


def fit_columns(
    rows: Sequence[Sequence[str]], width: int, least_important: Sequence[str]
) -> list[int]:
    """Places of the columns to show in a terminal of `width` characters.

    The first of `rows` is the header. Columns are left out in the order of `least_important`
    until the rest fits, or none of them is left.
    """
    shown = list(range(len(rows[0])))
    for name in least_important:
        if table_width([[row[place] for place in shown] for row in rows]) <= width:
            break
        shown.remove(rows[0].index(name))
    return shown

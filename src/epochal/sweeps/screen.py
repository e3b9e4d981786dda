"""What a sweep shows while it runs: a live table on a terminal, sparse lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from epochal.progress import say, visible
from epochal.sweeps.launch import Launch
from epochal.sweeps.monitor import Watch
from epochal.sweeps.record import RunState

LINE_EVERY_SECONDS = 60.0
_ORDER = ("training", "evaluating", "failed", "stopped", "ended early", "finished", "left out")
_ROOM = 6
"""Lines of the terminal that the table leaves for its head, its foot and a prompt."""
_COLUMNS = ("run", "state", "done", "epoch", "loss", "best val", "tok/s")
_LEFT_OUT_FIRST = ("tok/s", "epoch", "loss", "best val", "done", "state")
_GAP = 2
_LEAST_NAME = 8


class SweepScreen:
    """Shows a launch; use it as a context manager."""

    def __init__(self) -> None:
        """On a terminal a table is redrawn; elsewhere events are lines."""
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._next = time.monotonic() + LINE_EVERY_SECONDS

    def __enter__(self) -> SweepScreen:
        if visible() and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def event(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(Text(text))
        else:
            say(text)

    def show(self, launch: Launch) -> None:
        """Redraw the table, or once a minute a line for each run at work."""
        if self._live is not None:
            size = self._console.size
            self._live.update(_table(launch, size.width, size.height - _ROOM))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_SECONDS
            for state in launch.states:
                if state.state in ("training", "evaluating"):
                    say(f"{state.name} {state.state} {_progress(launch.watches[state.name])}")


def _progress(watch: Watch) -> str:
    parts = [f"{100 * watch.share:.0f}%", f"epoch {watch.epochs:.2f}"]
    if watch.loss is not None:
        parts.append(f"loss {watch.loss:.3f}")
    if watch.best is not None:
        parts.append(f"best val {watch.best:.3f}")
    if watch.speed:
        parts.append(f"{watch.speed:,.0f} tok/s")
    return " ".join(parts)


def _table(launch: Launch, width: int, room: int) -> Group:
    """Runs at work first, then what went wrong, then the rest as far as there is room.

    Where the terminal is too narrow for the names, columns are left out, the least telling ones
    first; a name that is still too long keeps its end, which tells it from its neighbours.
    """
    states = sorted(
        (state for state in launch.states if state.state in _ORDER),
        key=lambda state: _ORDER.index(state.state),
    )[: max(1, room)]
    rows = [_row(state, launch.watches[state.name]) for state in states]
    shown = list(_COLUMNS)
    while _width(rows, shown) > width and shown[2:]:
        shown.remove(next(name for name in _LEFT_OUT_FIRST if name in shown))
    longest = max(_LEAST_NAME, width - _width(rows, shown[1:]) - _GAP)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in shown:
        left = name in ("run", "state")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        row["run"] = _end_of(row["run"], longest)
        table.add_row(*(row[name] for name in shown))
    counts = Counter(state.state for state in launch.states)
    minutes = (time.monotonic() - launch.started) / 60
    foot = ", ".join(f"{number} {name}" for name, number in counts.items())
    return Group(table, Text(f"{launch.name}: {foot}; {minutes:.1f} minutes", style="dim"))


def _width(rows: list[dict[str, str]], shown: Sequence[str]) -> int:
    """Letters that these columns take, gaps between them included."""
    return sum(max([len(name), *(len(row[name]) for row in rows)]) + _GAP for name in shown) - _GAP


def _end_of(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"…{name[len(name) - longest + 1 :]}"


def _row(state: RunState, watch: Watch) -> dict[str, str]:
    best = state.nll if state.nll is not None else watch.best
    at_work = state.state == "training"
    return {
        "run": state.name,
        "state": state.state,
        "done": f"{100 * watch.share:.0f}%" if at_work else "",
        "epoch": f"{watch.epochs:.2f}" if at_work else "",
        "loss": f"{watch.loss:.3f}" if at_work and watch.loss is not None else "",
        "best val": "" if best is None else f"{best:.3f}",
        "tok/s": f"{watch.speed:,.0f}" if at_work and watch.speed else "",
    }

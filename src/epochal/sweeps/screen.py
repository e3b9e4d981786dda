"""The progress of a running sweep: a live table on a terminal, sparse lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from epochal.progress import COLUMN_GAP, fit_columns, say, table_width, visible
from epochal.sweeps.launch import Launch
from epochal.sweeps.monitor import RunMonitor
from epochal.sweeps.record import RunState, State

LINE_EVERY_SECONDS = 60.0
_ORDER = (
    State.TRAINING,
    State.EVALUATING,
    State.FAILED,
    State.STOPPED,
    State.ENDED_EARLY,
    State.FINISHED,
    State.LEFT_OUT,
)
_MARGIN = 6
"""Lines of the terminal left for the table's header, its footer and the prompt."""
_COLUMNS = ("run", "state", "done", "epoch", "loss", "best val", "tok/s")
_LEAST_IMPORTANT = ("tok/s", "epoch", "loss", "best val", "done")
_SHORTEST_NAME = 8


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
        """Redraw the table, or once a minute print a line for each running run."""
        if self._live is not None:
            size = self._console.size
            self._live.update(_table(launch, size.width, size.height - _MARGIN))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_SECONDS
            for state in launch.states:
                if state.state in (State.TRAINING, State.EVALUATING):
                    say(f"{state.name} {state.state} {_progress(launch.monitors[state.name])}")


def _progress(monitor: RunMonitor) -> str:
    parts = [f"{100 * monitor.share:.0f}%", f"epoch {monitor.epochs:.2f}"]
    if monitor.loss is not None:
        parts.append(f"loss {monitor.loss:.3f}")
    if monitor.best is not None:
        parts.append(f"best val {monitor.best:.3f}")
    if monitor.speed:
        parts.append(f"{monitor.speed:,.0f} tok/s")
    return " ".join(parts)


def _table(launch: Launch, width: int, height: int) -> Group:
    """Running runs first, then failed ones, then the rest, as many as `height` lines hold.

    Where the terminal is too narrow for the names, the least important columns are left out; a
    name that is still too long keeps its end, in which neighbouring names differ.
    """
    states = sorted(
        (state for state in launch.states if state.state in _ORDER),
        key=lambda state: _ORDER.index(state.state),
    )[: max(1, height)]
    rows = [_row(state, launch.monitors[state.name]) for state in states]
    shown = fit_columns([_COLUMNS, *rows], width, _LEAST_IMPORTANT)
    others = table_width([[row[place] for place in shown[1:]] for row in (_COLUMNS, *rows)])
    longest = max(_SHORTEST_NAME, width - others - COLUMN_GAP)
    table = Table(box=None, padding=(0, COLUMN_GAP, 0, 0), pad_edge=False, header_style="bold")
    for place in shown:
        name = _COLUMNS[place]
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    for name, *rest in rows:
        row = [name if len(name) <= longest else f"…{name[len(name) - longest + 1 :]}", *rest]
        table.add_row(*(row[place] for place in shown))
    counts = Counter(state.state for state in launch.states)
    minutes = (time.monotonic() - launch.started) / 60
    foot = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items())
    return Group(table, Text(f"{launch.name}: {foot}; {minutes:.1f} minutes", style="dim"))


def _row(state: RunState, monitor: RunMonitor) -> list[str]:
    """One cell for each of `_COLUMNS`."""
    best = state.nll if state.nll is not None else monitor.best
    training = state.state == State.TRAINING
    return [
        state.name,
        state.state.replace("_", " "),
        f"{100 * monitor.share:.0f}%" if training else "",
        f"{monitor.epochs:.2f}" if training else "",
        f"{monitor.loss:.3f}" if training and monitor.loss is not None else "",
        "" if best is None else f"{best:.3f}",
        f"{monitor.speed:,.0f}" if training and monitor.speed else "",
    ]

"""Progress of the running runs: read from their metrics, shown, and which of them to end early."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from epochal.progress import COLUMN_GAP, fit_columns, say, table_width, visible
from epochal.results import Note, note
from epochal.sweeps.record import RunReason, RunState, State

BEHIND_NATS = 0.5
"""Nats above the best run of the same budget at the same share of the run: far behind."""
BEHIND_FROM = 0.5
"""Share of a run before which it is not compared with others."""
RISE_NATS = 0.2
"""Nats above the run's own best from which it counts as risen for good."""
RISE_TOKENS = 2.0
"""Tokens trained since the best, over the tokens of the best, before a rise counts."""
_LINE_EVERY_SECONDS = 60.0
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
_COLUMNS = ("run", "state", "done", "left", "epoch", "loss", "best val", "tok/s")
_LEAST_IMPORTANT = ("tok/s", "epoch", "loss", "best val", "left", "done")
_SHORTEST_NAME = 8


@dataclass(slots=True)
class RunMonitor:
    """Reads a growing metrics.jsonl, each line once."""

    path: Path
    family: str
    steps: int | None
    flops: float = 0.0
    """Of the whole run, 0 where they are not known."""
    unique_tokens: int | None = None
    """U. Runs of one family, U and budget (within 5 %) are compared."""
    step: int = 0
    epochs: float = 0.0
    loss: float | None = None
    speed: float = 0.0
    """Tokens per second."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, validation NLL)."""
    _offset: int = 0
    _first: tuple[float, float] | None = None
    """(time, share) when a line was first read."""

    def read(self) -> bool:
        """Read new whole lines; returns whether there was a new validation NLL."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return False
        if size < self._offset:  # rewound when the run was resumed
            self._offset, self.curve = 0, []
        if size == self._offset:
            return False
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        before = len(self.curve)
        for line in whole.splitlines():
            try:
                self._line(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
        if self._first is None:
            self._first = time.monotonic(), self.share
        return len(self.curve) > before

    def _line(self, line: dict[str, Any]) -> None:
        self.step = int(line["step"])
        self.epochs = float(line["epochs"])
        if line["kind"] == "eval":
            self.curve.append((self.step, float(line["nll_nats_per_token"])))
        else:
            self.loss = float(line["loss"])
            self.speed = float(line.get("tokens_per_second", 0.0))

    @property
    def share(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until the run ends, at the speed since its first line was read; None before that."""
        if self._first is None or self.share <= self._first[1]:
            return None
        began, share = self._first
        return (time.monotonic() - began) * (1 - self.share) / (self.share - share)

    @property
    def best(self) -> float | None:
        """Lowest validation NLL so far."""
        return min((nll for _, nll in self.curve), default=None)

    def at_share(self, share: float) -> float | None:
        """Lowest validation NLL up to a share of the run; None if it is not that far."""
        if not self.steps or self.share < share - 1e-9:
            return None
        seen = [nll for step, nll in self.curve if step <= share * self.steps + 1e-9]
        return min(seen, default=None)


def early_stop_reason(run: RunMonitor, others: list[RunMonitor]) -> Note | None:
    """Why a run should be ended early, or None.

    VALIDATION_ROSE: its validation NLL is RISE_NATS above its own best, and it has trained
    RISE_TOKENS times the tokens of its best since. FAR_BEHIND: from BEHIND_FROM of the run on,
    its best NLL is BEHIND_NATS above that of a run of its family, U and budget at that share.
    Chosen by us, wide enough that a run so ended would not have become the best.
    """
    if not run.curve:
        return None
    step, nll = run.curve[-1]
    best_step, best = min(run.curve, key=lambda point: point[1])
    if nll > best + RISE_NATS and step >= (1 + RISE_TOKENS) * best_step:
        return note(RunReason.VALIDATION_ROSE, nll=nll, step=step, best=best, best_step=best_step)
    if run.share < BEHIND_FROM:
        return None
    for rival in others:
        if rival is run or not _comparable(rival, run):
            continue
        reached = rival.at_share(run.share)
        if reached is not None and best > reached + BEHIND_NATS:
            return note(
                RunReason.FAR_BEHIND,
                nll=best,
                share=run.share,
                rival=rival.path.parent.name,
                rival_nll=reached,
            )
    return None


def _comparable(one: RunMonitor, other: RunMonitor) -> bool:
    same = one.family == other.family and one.unique_tokens == other.unique_tokens
    return same and one.flops > 0 and abs(one.flops - other.flops) <= 0.05 * other.flops


class SweepScreen:
    """Shows a launch; use it as a context manager."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        """On a terminal a table is redrawn; elsewhere events are lines. Default: stderr."""
        self._name = name
        self._began = time.monotonic()
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._next = time.monotonic() + _LINE_EVERY_SECONDS

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

    def show(self, states: Sequence[RunState], monitors: Mapping[str, RunMonitor]) -> None:
        """Redraw the table, or once a minute print a line for each running run."""
        if self._live is not None:
            self._live.update(self.table(states, monitors))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_SECONDS
            for state in states:
                if state.state in (State.TRAINING, State.EVALUATING):
                    say(f"{state.name} {state.state} {_progress(monitors[state.name])}")

    def table(self, states: Sequence[RunState], monitors: Mapping[str, RunMonitor]) -> Group:
        """Running runs first, then failed ones, then the rest, as many as there are lines for.

        Where the terminal is too narrow for the names, the least important columns are left out; a
        name that is still too long keeps its end, in which neighbouring names differ.
        """
        width, height = self._console.size
        begun = sorted(
            (state for state in states if state.state in _ORDER),
            key=lambda state: _ORDER.index(state.state),
        )[: max(1, height - _MARGIN)]
        rows = [_row(state, monitors[state.name]) for state in begun]
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
        counts = Counter(state.state for state in states)
        minutes = (time.monotonic() - self._began) / 60
        foot = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items())
        return Group(table, Text(f"{self._name}: {foot}; {minutes:.1f} minutes", style="dim"))


def _left(monitor: RunMonitor) -> str:
    seconds = monitor.seconds_left
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _progress(monitor: RunMonitor) -> str:
    parts = [f"{100 * monitor.share:.0f}%", f"epoch {monitor.epochs:.2f}"]
    if left := _left(monitor):
        parts.append(f"{left} left")
    if monitor.loss is not None:
        parts.append(f"loss {monitor.loss:.3f}")
    if monitor.best is not None:
        parts.append(f"best val {monitor.best:.3f}")
    if monitor.speed:
        parts.append(f"{monitor.speed:,.0f} tok/s")
    return " ".join(parts)


def _row(state: RunState, monitor: RunMonitor) -> list[str]:
    """One cell for each of `_COLUMNS`."""
    best = state.nll if state.nll is not None else monitor.best
    training = state.state == State.TRAINING
    return [
        state.name,
        state.state.replace("_", " "),
        f"{100 * monitor.share:.0f}%" if training else "",
        _left(monitor) if training else "",
        f"{monitor.epochs:.2f}" if training else "",
        f"{monitor.loss:.3f}" if training and monitor.loss is not None else "",
        "" if best is None else f"{best:.3f}",
        f"{monitor.speed:,.0f}" if training and monitor.speed else "",
    ]

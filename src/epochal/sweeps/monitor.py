"""Progress of the running runs, read from their metrics, and which of them to end early."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epochal.results import Note, note
from epochal.sweeps.record import RunReason

BEHIND_NATS = 0.5
"""Nats above the best run of the same budget at the same share of the run: far behind."""
BEHIND_FROM = 0.5
"""Share of a run before which it is not compared with others."""
RISE_NATS = 0.2
"""Nats above the run's own best from which it counts as risen for good."""
RISE_TOKENS = 2.0
"""Tokens trained since the best, over the tokens of the best, before a rise counts."""


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

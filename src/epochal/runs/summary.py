"""A run as one line of numbers, for listings, comparisons and reports."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epochal.runs.curves import CurveShape, validation_curve
from epochal.runs.record import RunRecord, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run. What its record does not have is None."""

    run: str
    """The folder."""
    status: Status
    family: str
    size: str | None
    params: int | None
    unique_tokens: int | None
    epochs: float | None
    """Of the whole run."""
    flops: float | None
    """Of the whole run, 6·N·D."""
    step: int
    """Steps that are done, by metrics.jsonl."""
    progress: float
    """Share of the run that is done."""
    best_nll: float | None
    """Lowest validation NLL in training, nats per token."""
    best_step: int | None
    best_epoch: float | None
    best_flops: float | None
    """Compute up to the step of the lowest NLL."""
    rise_since_best: float | None
    """Nats from the lowest validation NLL in training to the last."""
    shape: CurveShape | None
    """How the validation curve ends."""
    evaluated_nll: float | None
    """NLL of the best checkpoint from `epochal eval`: exact, or an upper bound (by family)."""
    evaluated_error: float | None
    """Its standard error."""
    bits_per_byte: float | None
    """The evaluated NLL per UTF-8 byte of the text."""
    tokens_per_second: float | None
    """Training speed in the last line of the log."""
    seconds: float | None
    """Spent so far, by the last checkpoint."""
    seconds_since_update: float | None
    """Of a run in progress: since its last line in the log."""
    differs: dict[str, Any] = field(default_factory=dict)
    """Settings in which the runs of a listing differ."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.run).resolve().name

    @property
    def nll(self) -> float | None:
        """Best NLL: evaluated, else the lowest in training."""
        return self.best_nll if self.evaluated_nll is None else self.evaluated_nll

    @property
    def epochs_seen(self) -> float:
        """Epochs so far."""
        return self.progress * (self.epochs or 0.0)

    @property
    def flops_spent(self) -> float:
        """Compute so far."""
        return self.progress * (self.flops or 0.0)


def summarise(record: RunRecord, differs: dict[str, Any] | None = None) -> RunSummary:
    """The line of a run, which may be in progress, stopped, diverged or imported."""
    info, numbers = record.info, record.info.get("numbers", {})
    training, curve = record.metrics("train"), validation_curve(record)
    steps, step = numbers.get("steps"), record.last_step
    best = None if curve is None else curve.best
    evaluated = record.evaluation("best")
    metrics = record.folder.metrics_file
    running = record.status == "running" and metrics.exists()
    return RunSummary(
        run=str(record.path),
        status=record.status,
        family=record.family,
        size=info.get("identity", {}).get("model.size"),
        params=numbers.get("params"),
        unique_tokens=numbers.get("unique_tokens"),
        epochs=numbers.get("epochs"),
        flops=numbers.get("flops"),
        step=step,
        progress=min(1.0, step / steps) if steps else 0.0,
        best_nll=None if curve is None else float(curve.nll[best]),
        best_step=None if curve is None else int(curve.steps[best]),
        best_epoch=None if curve is None else float(curve.epochs[best]),
        best_flops=None if curve is None else float(curve.flops[best]),
        rise_since_best=None if curve is None else curve.rise,
        shape=None if curve is None else curve.shape,
        evaluated_nll=None if evaluated is None else evaluated.nll_nats_per_token,
        evaluated_error=None if evaluated is None else evaluated.standard_error,
        bits_per_byte=None if evaluated is None else evaluated.bits_per_byte,
        tokens_per_second=training[-1].get("tokens_per_second") if training else None,
        seconds=info.get("seconds"),
        seconds_since_update=time.time() - metrics.stat().st_mtime if running else None,
        differs=differs or {},
    )

"""Runs side by side: how far, how good, how fast, and by which settings they differ."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from epochal.families import family_names
from epochal.runs.find import find_runs
from epochal.runs.record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One run of a listing. What a record does not say is None."""

    run: str
    """The folder."""
    status: str
    family: str
    size: str | None
    params: int | None
    unique_tokens: int | None
    epochs: float | None
    """Of the whole run."""
    flops: float | None
    """Of the whole run, 6·N·D."""
    progress: float
    """Share of the steps that are done, by metrics.jsonl."""
    step: int
    best_nll: float | None
    """Lowest validation NLL while training, nats per token."""
    best_step: int | None
    evaluated_nll: float | None
    """Of the best checkpoint by `epochal eval`."""
    evaluated_error: float | None
    """Its standard error."""
    tokens_per_second: float | None
    seconds: float | None
    """Spent so far, by the last checkpoint."""
    quiet_seconds: float | None
    """Since the last line was written."""
    differs: dict[str, Any]
    """Settings in which the runs of the listing are not all alike."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


Sort = Literal["run", "nll", "flops", "epochs", "params", "progress", "speed"]


def list_runs(
    places: Sequence[str | Path] = ("runs",),
    *,
    sort: Sort = "run",
    status: Collection[str] = (),
    family: str | None = None,
) -> list[RunLine]:
    """Every run among and below `places`, sorted by folder or as `sort` says.

    `nll` puts the lowest evaluated (else best) NLL first, the others the largest; runs that do
    not have the value come last. Only runs of the `status` and `family` given, if any are.
    Works on runs in progress, stopped or diverged. Raises RunError for a place without runs.
    """
    records = [RunRecord(path) for path in sorted(find_runs(places))]
    records = [
        record
        for record in records
        if (not status or record.status in status) and family in (None, record.family)
    ]
    identities = [record.info.get("identity", {}) for record in records]
    lines = [
        _line(record, _differing(own, identities))
        for record, own in zip(records, identities, strict=True)
    ]
    return lines if sort == "run" else sorted(lines, key=lambda line: _place(line, sort))


def _place(line: RunLine, sort: Sort) -> float:
    """Where a run stands in the list: the lower, the earlier."""
    if sort == "nll":
        value = line.best_nll if line.evaluated_nll is None else line.evaluated_nll
        return math.inf if value is None else value
    found = line.tokens_per_second if sort == "speed" else getattr(line, sort)
    return math.inf if found is None else -float(found)


# Each has a column of its own.
_SHOWN = ("family", "model.size", "data.unique_tokens", "train.epochs")
_ABSENT = "unset"


def _differing(own: dict[str, Any], all_of_them: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = sorted({key for one in all_of_them for key in one} - set(_SHOWN))
    found = {}
    for key in keys:
        alike: Sequence[dict[str, Any]] = all_of_them
        section = key.partition(".")[0]
        if section in family_names():  # says nothing about runs of the other family
            if own.get("family") != section:
                continue
            alike = [one for one in all_of_them if one.get("family") == section]
        values = [one.get(key, _ABSENT) for one in alike]
        if any(value != values[0] for value in values):
            value = own.get(key, _ABSENT)
            # The hash of a corpus tells nothing beyond its first letters.
            found[key] = value[:8] if key.startswith("corpus.") else value
    return found


def _line(record: RunRecord, differs: dict[str, Any]) -> RunLine:
    info, numbers = record.info, record.info.get("numbers", {})
    training, evaluations = record.metrics("train"), record.metrics("eval")
    steps = numbers.get("steps")
    step = max((line["step"] for line in (*training, *evaluations)), default=0)
    # Before a divergence is seen, evaluations may have been no number.
    finite = [line for line in evaluations if math.isfinite(line["nll_nats_per_token"])]
    best = min(finite, key=lambda line: line["nll_nats_per_token"], default=None)
    evaluated = record.evaluation("best")
    metrics = record.folder.metrics_file
    running = record.status == "running" and metrics.exists()
    return RunLine(
        run=str(record.path),
        status=record.status,
        family=record.family,
        size=info.get("identity", {}).get("model.size"),
        params=numbers.get("params"),
        unique_tokens=numbers.get("unique_tokens"),
        epochs=numbers.get("epochs"),
        flops=numbers.get("flops"),
        progress=step / steps if steps else 0.0,
        step=step,
        best_nll=None if best is None else best["nll_nats_per_token"],
        best_step=None if best is None else best["step"],
        evaluated_nll=None if evaluated is None else evaluated.nll_nats_per_token,
        evaluated_error=None if evaluated is None else evaluated.standard_error,
        tokens_per_second=training[-1].get("tokens_per_second") if training else None,
        seconds=info.get("seconds"),
        quiet_seconds=time.time() - metrics.stat().st_mtime if running else None,
        differs=differs,
    )

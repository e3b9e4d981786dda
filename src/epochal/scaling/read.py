"""Run folders → points. One point per run: its last evaluation, at the end of its schedule.

Evaluations before the end of a decaying schedule are not points: a run that had been planned
shorter would have been better there. `at="best"` takes each run's best evaluation instead,
with the tokens seen by then, for runs whose rate does not decay (or who know what they do).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from epochal.errors import DataError, RecipeError, RunError
from epochal.recipe import recipe_tree
from epochal.runs import RunRecord
from epochal.runs.find import find_runs
from epochal.scaling.points import (
    COLUMNS,
    PAPER_N,
    Candidate,
    Dropped,
    Points,
    dominated_settings,
    setting_of,
)

At = Literal["final", "best"]


def read_points(
    places: Sequence[str | Path],
    at: At = "final",
    force: bool = False,
    all_settings: bool = False,
) -> Points:
    """The points of the runs among and below `places`.

    Runs that diverged, go on or were ended early are left out and listed, and so are runs that
    are not of the best setting at their size, length and unique tokens (settings.py), unless
    `all_settings`. Raises RunError for
    a place without runs, DataError for runs of several validation sets, tokenizers or sequence
    lengths unless `force`.
    """
    records = [RunRecord(path) for path in find_runs(places)]
    if not force:
        _check_alike(records)
    rows: list[_Row] = []
    dropped: list[Dropped] = []
    trunks = _trunks(records) if at == "final" else {}
    for record in records:
        made = _point(record, at, trunks)
        if isinstance(made, Dropped):
            dropped.append(made)
        else:
            rows.append(made)
    if not all_settings:
        left_out = dominated_settings([row.candidate for row in rows])
        dropped += [row.drop(left_out[i]) for i, row in enumerate(rows) if i in left_out]
        rows = [row for i, row in enumerate(rows) if i not in left_out]
    if not rows:
        reasons = "; ".join(f"{d.run}: {d.reason}" for d in dropped[:3])
        raise RunError(f"none of the {len(records)} runs gives a point ({reasons})")
    n, d, u, loss = (np.array([getattr(r, c) for r in rows], dtype=float) for c in COLUMNS)
    return Points(
        n,
        d,
        u,
        loss,
        family=[r.family for r in rows],
        run=[r.run for r in rows],
        seed=[r.seed for r in rows],
        n_convention=PAPER_N,
        dropped=dropped,
        notes=_notes(rows, at),
        sequence_length=_same(row.sequence_length for row in rows),
        vocabulary=_same(row.vocabulary for row in rows),
        recipes={row.run: row.recipe for row in rows if row.recipe is not None},
    )


def _trunks(records: Sequence[RunRecord]) -> dict[str, str]:
    """Identity of each run that others start from → the name of one of these."""
    starts = ((record.info.get("start"), record.path.name) for record in records)
    return {start["identity_sha256"]: name for start, name in starts if start}


@dataclass(frozen=True, slots=True)
class _Row:
    """One run's point."""

    params: float
    tokens: float
    unique_tokens: float
    val_loss: float
    family: str
    run: str
    seed: str
    sequence_length: int | None
    vocabulary: int | None
    recipe: Mapping[str, Any] | None
    evaluated: bool
    """Whether the loss is of `epochal eval`, not of the evaluation during training."""
    planned: float
    """Tokens of the whole run."""
    setting: Mapping[str, Any]

    @property
    def candidate(self) -> Candidate:
        """The run as one of several at its point."""
        unique, loss = self.unique_tokens, self.val_loss
        return Candidate(self.family, self.params, self.planned, unique, loss, self.setting)

    def drop(self, reason: str) -> Dropped:
        """What is to be said of a run that is left out."""
        n, d, u, loss = self.params, self.tokens, self.unique_tokens, self.val_loss
        return Dropped(self.run, self.family, n, d, u, loss, reason)


def _notes(rows: Sequence[_Row], at: At) -> list[str]:
    notes = []
    if at == "best":
        notes.append(
            "points are the best evaluations within runs; under a decaying learning rate they are "
            "not comparable with ends of shorter runs"
        )
    during = sum(not row.evaluated for row in rows)
    if during:
        notes.append(
            f"{during} of {len(rows)} losses are of the evaluation during training, which is "
            "coarser than `epochal eval`"
        )
    return notes


def _same(values: Iterable[int | None]) -> int | None:
    """What all have, or None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _check_alike(records: Sequence[RunRecord]) -> None:
    """Losses on other validation tokens, in other tokens or with less context do not compare."""
    first: dict[str, tuple[Any, str]] = {}
    for record in records:
        corpus = record.info.get("corpus") or {}
        validation = corpus.get("validation") or {}
        of_run = {
            "validation set": validation.get("content_sha256"),
            "vocabulary": record.numbers.get("vocabulary"),
            "sequence length": record.numbers.get("sequence_length"),
        }
        for what, value in of_run.items():
            if value is None:
                continue
            known, name = first.setdefault(what, (value, record.name))
            if value != known:
                both = f" ({known} and {value})" if isinstance(value, int) else ""
                raise DataError(
                    f"the runs {name} and {record.name} have not the same {what}{both}, so "
                    "their losses are not comparable; give runs of one corpus, tokenizer and "
                    "sequence length, or add --force"
                )


def _point(record: RunRecord, at: At, trunks: Mapping[str, str]) -> _Row | Dropped:
    numbers = record.numbers
    params, unique = float(numbers["params"]), float(numbers["unique_tokens"])
    tokens = float(numbers["flops"]) / (6 * params)
    lines = [line for line in record.metrics("eval") if _loss(line) < math.inf]

    def out(reason: str) -> Dropped:
        return Dropped(str(record.path), record.family, params, tokens, unique, None, reason)

    if record.status == "diverged":
        return out("diverged: its loss or gradient was not finite")
    if at == "final" and record.status != "finished":
        return out(f"is not at its end ({record.status}), so its rate has not decayed")
    if branch := trunks.get(str(record.info.get("identity_sha256"))):
        return out(f"its rate has not decayed: {branch} starts from it and decays")
    if not lines:
        return out("has no evaluation with a finite loss")
    chosen = min(lines, key=_loss) if at == "best" else lines[-1]
    step = int(chosen["step"])
    loss, evaluated = _loss(chosen), False
    for checkpoint in ("best", "last"):
        result = record.evaluation(checkpoint)
        if result is not None and result.step == step and result.estimator != "paper":
            loss, evaluated = result.nll_nats_per_token, True
    if not 0 < loss < math.inf:
        return out(f"its loss {loss:g} is not a positive number")
    return _Row(
        params,
        tokens * step / int(numbers["steps"]),
        unique,
        loss,
        record.family,
        str(record.path),
        str(record.info.get("identity", {}).get("seed", "")),
        record.numbers.get("sequence_length"),
        record.numbers.get("vocabulary"),
        _recipe(record),
        evaluated,
        tokens,
        setting_of(record.info.get("identity", {})),
    )


def _recipe(record: RunRecord) -> dict[str, Any] | None:
    """The run's recipe as plain tables; None if it knew other keys than today's."""
    try:
        return recipe_tree(record.recipe)
    except RecipeError:
        return None


def _loss(line: dict[str, Any]) -> float:
    value = line.get("nll_nats_per_token")
    return float(value) if value is not None and math.isfinite(float(value)) else math.inf

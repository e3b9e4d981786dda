"""Run folders → what the page needs of each run.

A report is also made of runs in progress, that were stopped or that nobody has evaluated, and of
records whose recipe has keys that are unknown today. So little is required here: family, status,
the numbers and the two hashes of the corpus; all else may be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from epochal.errors import RunError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.recipe.load import read_toml
from epochal.recipe.renames import rename_tree
from epochal.runs import NLLResult, RunRecord, Status
from epochal.runs.curves import Curve, validation_curve
from epochal.runs.find import find_runs
from epochal.runs.summary import RunSummary, summarise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One run as the page shows it: its record, its summary, and what is drawn of it."""

    record: RunRecord
    summary: RunSummary
    label: str
    """The folder's name, or its path where another run has the same name."""
    curve: Curve | None
    """Validation during training; None before the first evaluation."""
    loss: tuple[Floats, Floats]
    """(epochs, training loss) from the log."""
    result: NLLResult | None
    """`epochal eval` of the best checkpoint; None if that has not been done."""
    recipe: dict[str, Any]
    """recipe.toml as nested values, under today's keys."""
    samples: list[tuple[str, str]]
    """(prompt, text) that the trained model wrote."""

    @property
    def family(self) -> str:
        return self.summary.family

    @property
    def params(self) -> int:
        return int(self.record.numbers["params"])

    @property
    def unique_tokens(self) -> int:
        return int(self.record.numbers["unique_tokens"])

    @property
    def nll(self) -> float | None:
        """Best NLL: evaluated, else the lowest in training; None if there is neither."""
        return self.summary.nll

    @property
    def best(self) -> tuple[float, float] | None:
        """(epochs, FLOPs) at which `nll` was reached; None if there is none."""
        numbers, summary = self.record.numbers, self.summary
        if self.result is not None:
            share = self.result.step / numbers["steps"]
            return float(numbers["epochs"]) * share, float(numbers["flops"]) * share
        if summary.best_epoch is None or summary.best_flops is None:
            return None
        return summary.best_epoch, summary.best_flops

    @property
    def outdated(self) -> bool:
        """Whether training has found a better checkpoint since the evaluation."""
        best_step = self.summary.best_step
        return self.result is not None and best_step not in (None, self.result.step)


def read_runs(places: Sequence[str | Path]) -> list[Run]:
    """All runs, in the order of the table: by unique tokens, family, parameters and compute.

    Raises RunError or RecipeError for a place without runs and for a damaged record.
    """
    runs = [_read(path) for path in find_runs(places)]
    times = Counter(run.label for run in runs)
    runs = [r if times[r.label] == 1 else replace(r, label=str(r.record.path)) for r in runs]
    order = family_names().index
    return sorted(
        runs, key=lambda r: (r.unique_tokens, order(r.family), r.params, r.summary.flops_spent)
    )


def _read(path: Path) -> Run:
    record = RunRecord(path)
    try:
        return _run(record)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise RunError(
            f"the record of the run {path} is damaged ({type(error).__name__}: {error}); fix its "
            "run.json and metrics.jsonl or leave the run out"
        ) from error


def _run(record: RunRecord) -> Run:
    if record.family not in family_names() or record.status not in get_args(Status):
        raise ValueError(f"family {record.family!r}, status {record.status!r}")
    log = record.metrics("train")
    run = Run(
        record=record,
        summary=summarise(record),
        label=record.name,
        curve=validation_curve(record),
        loss=(
            np.array([line["epochs"] for line in log], dtype=float),
            np.array([line["loss"] for line in log], dtype=float),
        ),
        result=record.evaluation("best"),
        recipe=rename_tree(read_toml(record.folder.recipe_file), notice=False),
        samples=[(str(s["prompt"]), str(s["text"])) for s in record.samples()],
    )
    # Read here, so that what is missing is reported as damage of this run.
    _ = [float(record.numbers[key]) for key in ("steps", "params", "flops", "epochs")]
    _ = (run.unique_tokens, run.best)
    _ = [record.info["corpus"][role]["content_sha256"] for role in ("train", "validation")]
    return run

"""Scores of a run on tasks, how far they could be off, and where they are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from epochal import files
from epochal.downstream_tasks.options import RENAMED_FROM
from epochal.results import to_json
from epochal.runs import RunRecord

RESAMPLINGS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one task."""

    value: float
    standard_error: float | None
    """Over the task's documents: how far other questions would move it."""
    standard_error_draws: float | None
    """From the masks drawn: how far other masks would move it; 0 if none were drawn, None for
    metrics other than acc."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Scores of one checkpoint on one task. Accuracies are shares from 0 to 1."""

    task: str
    family: str
    checkpoint: str
    step: int
    mode: str
    """How texts were scored; for a BabyLM task exact, bound or pseudo."""
    draws: int | None
    """Masks per continuation, at most; None where no masks are drawn."""
    seed: int
    padded: bool
    """Whether rows were padded with masks to the sequence length."""
    metrics: dict[str, Score]
    chance: float | None
    """Accuracy of a blind guess, where known."""
    paper: dict[str, float] | None
    """The paper's accuracy for this family by unique tokens, where there is one."""
    documents: int
    truncated_contexts: int
    """Requests whose context was cut at the left, since it did not fit."""
    truncated_continuations: int
    """Requests whose continuation alone did not fit and was cut at the left."""
    harness: str | None
    """Version of lm-evaluation-harness; None for the BabyLM tasks, which do not need it."""
    data: str
    """local or hub; for a BabyLM task the name of its folder."""
    limit: int | None
    """Number of documents that were scored, the first ones; None: all."""
    seconds: float
    groups: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Accuracies of parts of a BabyLM task: subtask, and what else its files tell apart."""


def save(result: TaskResult, record: RunRecord) -> None:
    """Keep a result, in place of one under the mode's earlier name."""
    path = record.folder.downstream_file(result.task, result.checkpoint, result.mode)
    files.write_json(path, to_json(result))
    if result.mode in RENAMED_FROM:
        earlier = RENAMED_FROM[result.mode]
        record.folder.downstream_file(result.task, result.checkpoint, earlier).unlink(True)


def flip_variance(
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    right: int,
    random: np.random.Generator,
) -> float:
    """Variance of a question's being right that comes from the masks drawn.

    The [C] log-likelihoods of its choices are jittered by their own standard errors; its share p
    of right answers then has the variance p(1 − p). Choices share their masks, which the jitter
    ignores, so it is rather too large than too small.
    """
    jittered = values + errors * random.standard_normal((RESAMPLINGS, len(values)))
    share = float((jittered.argmax(axis=1) == right).mean())
    return share * (1 - share)

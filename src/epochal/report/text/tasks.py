"""Words about downstream tasks and the quality of generated texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from epochal.families import get_family

if TYPE_CHECKING:
    from epochal.downstream_tasks.downstream import TaskResult
    from epochal.evaluation.quality import Quality, QualityRow


def task_cells(result: TaskResult) -> list[list[str]]:
    """Per metric: task, metric, score, ± docs, ± draws, chance, the paper's at 100M and at 500M."""
    rows = []
    for name, score in result.metrics.items():
        is_share = name.startswith(("acc", "exact_match"))
        paper = result.paper if name == "acc" and result.paper else {}
        values = [
            score.value,
            score.standard_error,
            score.standard_error_draws,
            result.chance if is_share else None,
            paper.get("100M"),
            paper.get("500M"),
        ]
        rows.append([result.task, name, *(_score(value, is_share) for value in values)])
    return rows


def _score(value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if is_share else f"{value:.4g}"


def describe_scoring(result: TaskResult) -> str:
    """How a run was scored, on one line."""
    masks = f", up to {result.draws} masks" if result.draws else ""
    rows = ""
    if get_family(result.family).attention == "bidirectional":
        rows = ", rows padded with masks" if result.padded else ", short rows not padded"
    return (
        f"{result.family}, mode {result.mode}{masks}{rows}, checkpoint {result.checkpoint} "
        f"(step {result.step:,}), lm-eval {result.harness}"
    )


def describe_truncation(results: Sequence[TaskResult]) -> str:
    """How many requests did not fit; '' if all did."""
    contexts = sum(result.truncated_contexts for result in results)
    continuations = sum(result.truncated_continuations for result in results)
    if not contexts:
        return ""
    scored = f", {continuations:,} of them part of what is scored" if continuations else ""
    return (
        f"{contexts:,} requests were longer than the model's context and lost their beginning"
        f"{scored}"
    )


def quality_cells(row: QualityRow) -> list[str]:
    """Steps, NLL, ±, distinct-1, distinct-2, repetition, tokens, tokens per second."""
    return [
        "real text" if row.steps is None else f"{row.steps:,}",
        f"{row.nll_nats_per_token:.3f}",
        "–" if row.standard_error is None else f"{row.standard_error:.3f}",
        f"{row.distinct_1:.3f}",
        f"{row.distinct_2:.3f}",
        f"{row.repetition:.3f}",
        f"{row.tokens:,}",
        "–" if not row.seconds else f"{row.tokens / row.seconds:,.0f}",
    ]


def describe_quality(quality: Quality) -> str:
    """How texts were written and judged, on one line."""
    return (
        f"{quality.family} ({quality.order}, temperature {quality.temperature:g}), judged by "
        f"{quality.judge} ({quality.judge_family}), {quality.samples} texts each"
    )

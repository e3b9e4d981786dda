"""What was measured beside the loss: downstream tasks, and quality of texts against steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from epochal.report.collect import Run
from epochal.report.figures import MARKERS, family_keys, finish, logarithmic
from epochal.report.svg import Canvas, Cell, Plot, tip

_STYLES = {"confidence": "-", "ancestral": "--", "margin": "-.", "entropy": ":"}


@dataclass(frozen=True, slots=True)
class _Curve:
    """Quality of one run's texts, by one order of unmasking."""

    run: Run
    result: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One per number of steps, fewest first."""
        return sorted(self.result["rows"], key=lambda row: row["steps"])

    @property
    def about(self) -> str:
        """Order, checkpoint and judge in a few words."""
        result = self.result
        return f"{result['order']}, checkpoint {result['checkpoint']}, judged by {result['judge']}"


def task_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """(task, run, family, mode, metric, value ± error, chance, the paper's) of each result."""
    rows = []
    for run in runs:
        for result in run.record.downstream():
            chance, paper = result.get("chance"), result.get("paper") or {}
            known = ", ".join(f"{100 * share:.1f} ({size})" for size, share in paper.items())
            for metric, found in result["metrics"].items():
                shown = f"{100 * found['value']:.1f}"
                if found.get("standard_error") is not None:
                    shown += f" ± {100 * found['standard_error']:.1f}"
                rows.append(
                    (
                        result["task"],
                        run.label,
                        run.family,
                        f"{result['mode']}, {result['checkpoint']}",
                        metric,
                        shown,
                        "–" if chance is None else f"{100 * chance:.0f}",
                        known or "–",
                    )
                )
    return sorted(rows)


def steps_plot(runs: Sequence[Run]) -> Plot | None:
    """NLL of generated texts, by the run that judged them, against steps; None without any."""
    curves = [_Curve(run, result) for run in runs for result in run.record.quality()]
    if not curves:
        return None
    reference = next((c.result["reference"] for c in curves if c.result.get("reference")), None)
    steps = [row["steps"] for curve in curves for row in curve.rows]
    losses = [row["nll_nats_per_token"] for curve in curves for row in curve.rows]
    real = reference["nll_nats_per_token"] if reference else None

    def paint(axes: Axes, canvas: Canvas) -> None:
        for curve in curves:
            _draw(axes, canvas, curve)
        if real is not None:
            line = axes.axhline(real, color=canvas.palette.muted, linewidth=1)
            tip(line, "", f"real text: {real:.3f} nats per token by the same judge")
        left, right = min(steps), max(steps)
        if right > left:
            logarithmic(axes, canvas, left, right, lambda x, _: f"{x:g}")
        every = [*losses, real] if real is not None else losses
        finish(axes, min(every), max(every), "forward passes (steps)")

    families = [f for f in MARKERS if any(curve.run.family == f for curve in curves)]
    return Plot(
        name="steps",
        label="NLL of generated texts against the number of steps",
        title="NLL of its texts by the judge, nats per token",
        paint=paint,
        header=(
            "run",
            "family",
            "order",
            "judge",
            "steps",
            "nats_per_token",
            "distinct_2",
            "repetition",
        ),
        rows=[row for curve in curves for row in _csv_rows(curve)],
        keys=family_keys(families),
    )


def _draw(axes: Axes, canvas: Canvas, curve: _Curve) -> None:
    rows, family = curve.rows, curve.run.family
    x = [row["steps"] for row in rows]
    y = [row["nll_nats_per_token"] for row in rows]
    error = [row.get("standard_error") or 0.0 for row in rows]
    color = canvas.palette.families[family]
    style = _STYLES.get(curve.result["order"], "-")
    axes.errorbar(x, y, yerr=error, color=color, linestyle=style, linewidth=1.4)
    for row in rows:
        [mark] = axes.plot([row["steps"]], [row["nll_nats_per_token"]], MARKERS[family])
        mark.set(color=color, markersize=6)
        tip(
            mark,
            curve.run.label,
            f"{row['steps']} steps ({curve.about}): {row['nll_nats_per_token']:.3f} nats, "
            f"distinct-2 {row['distinct_2']:.2f}, repetition {row['repetition']:.2f}",
        )


def _csv_rows(curve: _Curve) -> list[list[Cell]]:
    named = [curve.run.label, curve.run.family, curve.result["order"], curve.result["judge"]]
    return [
        [
            *named,
            row["steps"],
            row["nll_nats_per_token"],
            row["distinct_2"],
            row["repetition"],
        ]
        for row in curve.rows
    ]

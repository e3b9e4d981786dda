"""Figures of searches: loss against compute by settings, and critical compute against U."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from epochal.families import get_family
from epochal.report.drawing import (
    DOTTED,
    Palette,
    Plot,
    add_legend,
    draw_point,
    log_axis,
    tip,
)
from epochal.report.evidence import TUNED, USUAL, Best, CriticalCompute, Evidence, TextEvidence
from epochal.report.text.evidence import text_title
from epochal.report.text.format import power_of_ten
from epochal.scaling.crossing import TRUSTED_FACTOR, paper_critical_compute
from epochal.units import format_count

_STYLES: dict[str, Any] = {TUNED: "solid", USUAL: (0, (5, 2))}
"""Of other settings: dotted."""


def evidence_plots(evidence: Evidence) -> list[Plot]:
    """Per text one figure for each U and size, and one of the critical computes."""
    plots: list[Plot] = []
    for number, text in enumerate(evidence.texts, start=1):
        for cell in dict.fromkeys((one.unique_tokens, one.params) for one in text.best):
            own = [one for one in text.best if (one.unique_tokens, one.params) == cell]
            plots.append(_frontier_plot(text, own, f"evidence-{number}-{cell[0]}-{cell[1]}"))
        if len({one.unique_tokens for one in text.critical}) > 1:
            plots.append(_critical_plot(text, f"evidence-{number}-critical"))
    return plots


def _frontier_plot(text: TextEvidence, best: Sequence[Best], name: str) -> Plot:
    """The lowest loss of any run of up to so many FLOPs, per family and settings."""
    steps = [step for one in best for step in one.frontier]
    left, right = min(f for f, _ in steps), max(f for f, _ in steps)
    losses = [nll for _, nll in steps]
    kinds = list(dict.fromkeys(one.settings for one in best))

    def paint(axes: Axes, palette: Palette) -> None:
        for one in best:
            color, style = palette.families[one.family], _STYLES.get(one.settings, DOTTED)
            x = [*(flops for flops, _ in one.frontier), right]
            y = [*(nll for _, nll in one.frontier), one.frontier[-1][1]]
            [line] = axes.step(x, y, where="post", color=color, linewidth=1.6, linestyle=style)
            about = (
                f"{get_family(one.family).title}, {one.settings}: {one.nll:.3f} ± {one.error:.3f} "
                f"with rate {one.lr:.3g}, decay {one.weight_decay:.3g}, {one.epochs:.4g} epochs"
            )
            tip(line, "", about)
            for point in one.frontier:
                draw_point(axes, one.family, point, "", about, color=color, markersize=4.5)
        for kind in kinds:
            add_legend(axes, kind, color=palette.ink, linestyle=_STYLES.get(kind, DOTTED))
        log_axis(axes, "x", left, right, power_of_ten)

    unique, params = format_count(best[0].unique_tokens), format_count(best[0].params)
    lowest = [
        f"{get_family(one.family).title}, {one.settings}: {one.frontier[-1][1]:.3f}" for one in best
    ]
    return Plot(
        name=name,
        label=f"Held-out loss against the compute of whole runs, {text_title(text)}, {unique} "
        f"unique tokens, {params} parameters. Lowest: {'; '.join(lowest)}.",
        title=f"nats per token – {text.tokenizer}, U = {unique}, N = {params}",
        x_title="compute of a run (FLOPs, 6·N·D)",
        paint=paint,
        families=[one.family for one in best],
        height=(min(losses), float(np.quantile(losses, 0.95))),
        header=("family", "settings", "unique_tokens", "params", "flops", "nats_per_token"),
        rows=[
            [one.family, one.settings, one.unique_tokens, one.params, *step]
            for one in best
            for step in one.frontier
        ],
    )


def _critical_plot(text: TextEvidence, name: str) -> Plot:
    """Critical compute against U: seen, by the laws, or more than the largest run; the paper's."""
    uniques = sorted({one.unique_tokens for one in text.critical})
    grid = np.geomspace(uniques[0], uniques[-1], 30)
    paper = [paper_critical_compute(float(unique)) for unique in grid]
    values = [_shown(one)[0] for one in text.critical]

    def paint(axes: Axes, palette: Palette) -> None:
        log_axis(axes, "x", uniques[0], uniques[-1], format_count)
        log_axis(axes, "y", min(*values, *paper), max(*values, *paper), power_of_ten)
        [line] = axes.plot(grid, paper, color=palette.muted, linewidth=1.2, linestyle=(0, (5, 3)))
        tip(line, "", "C = 2.12 × 10^1.956 × U^2.174, arXiv 2507.15857")
        line.set_label("the paper's")
        for one in text.critical:
            value, what = _shown(one)
            color = palette.ink if one.settings == TUNED else palette.muted
            marker = {"seen": "o", "by the laws": "s", "not up to here": "^"}[what]
            face = color if what == "seen" else palette.paper
            at = one.unique_tokens * (0.98 if one.settings == TUNED else 1.02)  # side by side
            [point] = axes.plot(at, value, marker, color=color, markersize=7)
            point.set_markerfacecolor(face)
            tip(point, "", f"{one.settings}, N = {format_count(one.params)}: {what}")
        if any(one.settings != TUNED for one in text.critical):
            add_legend(axes, "grey: not tuned", marker="o", color=palette.muted)
        for what, marker in (("seen", "o"), ("by the laws", "s"), ("not up to here", "^")):
            if any(_shown(one)[1] == what for one in text.critical):
                face = palette.ink if what == "seen" else palette.paper
                style = {"color": palette.ink, "markerfacecolor": face}
                add_legend(axes, what, marker=marker, **style)

    return Plot(
        name=name,
        label=f"Critical compute against unique tokens, {text_title(text)}, beside the paper's "
        "formula. "
        + " ".join(
            f"{format_count(one.unique_tokens)}, {one.settings}: {_shown(one)[1]} "
            f"{power_of_ten(_shown(one)[0])} FLOPs."
            for one in text.critical
        ),
        title=f"critical compute, FLOPs – {text.tokenizer}",
        x_title="unique tokens U",
        paint=paint,
        header=("unique_tokens", "params", "settings", "what", "flops", "paper"),
        rows=[
            [one.unique_tokens, one.params, one.settings, _shown(one)[1], _shown(one)[0], one.paper]
            for one in text.critical
        ],
    )


def _shown(one: CriticalCompute) -> tuple[float, str]:
    """(FLOPs, what they are) of the mark."""
    if one.seen is not None:
        return one.seen, "seen"
    if one.law is not None and one.law <= TRUSTED_FACTOR * one.largest:
        return one.law, "by the laws"
    return one.largest, "not up to here"

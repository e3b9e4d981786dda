"""Figures over compute: isoFLOP curves, and the best loss that each budget can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from epochal.estimates import Floats
from epochal.families import get_family
from epochal.report.drawing import (
    DOTTED,
    FONT,
    Palette,
    Plot,
    add_family_legend,
    add_legend,
    draw_point,
    log_axis,
    mark_flops,
    set_height,
    tip,
    update_layout,
)
from epochal.report.text import figures as text
from epochal.report.text.format import power_of_ten
from epochal.scaling.isoflop import Parabola
from epochal.scaling.optimum import optima
from epochal.scaling.planner import PlanReport
from epochal.scaling.result import FamilyFit
from epochal.units import format_count

_GRID = 60
_BUDGETS = 24
_SAMPLES = 60
"""Resamples of a law for the band around its line."""


def isoflop_plots(fits: Mapping[str, FamilyFit]) -> list[Plot]:
    """Per family its loss against size, where some compute was spent on several sizes."""
    isoflops = [(fit, fit.isoflop.parabolas) for fit in fits.values() if fit.isoflop]
    return [_isoflop_plot(fit, parabolas) for fit, parabolas in isoflops]


def _isoflop_plot(fit: FamilyFit, parabolas: Sequence[Parabola]) -> Plot:
    """Loss against size, a parabola per compute budget."""
    family = get_family(fit.family)
    sizes = [n for parabola in parabolas for n in parabola.params]
    losses = [loss for parabola in parabolas for loss in parabola.loss]

    def paint(axes: Axes, palette: Palette) -> None:
        color = palette.families[family.name]
        add_legend(axes, "a run", marker=family.marker, color=color)
        if any(parabola.optimal_params is not None for parabola in parabolas):
            add_legend(axes, "parabola of equal FLOPs", linestyle="-", color=color)
        if any(parabola.optimal_params is None for parabola in parabolas):
            add_legend(axes, "no minimum", linestyle=DOTTED, color=color)
        for number, parabola in enumerate(parabolas, start=1):
            _draw_parabola(
                axes, palette, family.name, parabola, 0.45 + 0.55 * number / len(parabolas)
            )
        log_axis(axes, "x", min(sizes), max(sizes) * 2.2, format_count)
        axes.set_xlabel("parameters N")
        set_height(axes, min(losses), max(losses))
        _label_budgets(axes, parabolas)

    return Plot(
        name=f"isoflop-{fit.family}",
        label=f"IsoFLOP curves, {family.title}. "
        f"{'; '.join(map(text.describe_parabola, parabolas))}.",
        title=f"loss, nats per token – {family.title}",
        paint=paint,
        header=("family", "flops", "params", "nats_per_token", "best_params", "best_loss"),
        rows=[
            [fit.family, parabola.flops, n, loss, parabola.optimal_params, parabola.optimal_loss]
            for parabola in parabolas
            for n, loss in zip(parabola.params, parabola.loss, strict=True)
        ],
    )


def _draw_parabola(
    axes: Axes, palette: Palette, family: str, parabola: Parabola, alpha: float
) -> None:
    """The runs of one budget and their parabola, or lines between them if it has no minimum."""
    color = palette.families[family]
    best, lowest = parabola.optimal_params, parabola.optimal_loss
    if best is not None and lowest is not None:
        x = np.geomspace(parabola.params[0], parabola.params[-1], _GRID)
        y = lowest + parabola.curvature * np.log(x / best) ** 2
        [line] = axes.plot(x, y, color=color, alpha=alpha, linewidth=1.5, zorder=3)
    else:
        [line] = axes.plot(parabola.params, parabola.loss, color=color, alpha=alpha, zorder=3)
        line.set(linewidth=1.3, linestyle=DOTTED)
    tip(line, "", text.describe_parabola(parabola))
    for n, loss in zip(parabola.params, parabola.loss, strict=True):
        point = draw_point(axes, family, n, loss, color=color, alpha=alpha, markersize=5, zorder=4)
        point.set(markeredgecolor=palette.paper, markeredgewidth=0.7)
        budget = text.budget(parabola)
        tip(point, "", f"{format_count(n)} parameters, {budget} FLOPs: {loss:.3f} nats")
    if best is not None and lowest is not None and not parabola.flags:
        [vertex] = axes.plot([best], [lowest], "|")
        vertex.set(color=palette.ink, markersize=9, markeredgewidth=1.3, zorder=5)


def _label_budgets(axes: Axes, parabolas: Sequence[Parabola]) -> None:
    """Each budget at the right end of its curve, moved up where another would cover it."""
    font, free = 0.88 * FONT, -np.inf
    update_layout(axes)  # so that positions are known
    for parabola in sorted(parabolas, key=lambda one: one.loss[-1]):
        end = (parabola.params[-1], parabola.loss[-1])
        y = float(axes.transData.transform(end)[1])
        at = max(y, free)
        free = at + 1.1 * font
        where: dict[str, Any] = {"textcoords": "offset points", "fontsize": font, "va": "center"}
        axes.annotate(text.budget(parabola), end, xytext=(8, at - y), **where)


def budget_plot(plan: PlanReport, fits: Mapping[str, FamilyFit], verdict: str) -> Plot:
    """The best loss that each family can have for a budget, by the laws."""
    unique = plan.unique_tokens
    ends = [fit.fitted_range["flops"] for fit in fits.values()]
    low = min([*(low for low, _ in ends), *(one.flops for one in plan.families)])
    high = max([*(high for _, high in ends), plan.flops])
    critical = [p.critical_flops for p in plan.pairs if p.critical_flops is not None]
    high = max([high, *(1.5 * flops for flops in critical if flops < 30 * high)])
    grid = np.geomspace(low, high, _BUDGETS)
    lines = {family: _best(fit, grid, unique) for family, fit in fits.items()}

    def paint(axes: Axes, palette: Palette) -> None:
        add_family_legend(axes, palette, list(fits))
        for family, (best, below, above) in lines.items():
            color = palette.families[family]
            axes.fill_between(grid, below, above, color=color, alpha=0.15, linewidth=0)
            [line] = axes.plot(grid, best, color=color, linewidth=1.7, zorder=3)
            tip(line, "", f"{get_family(family).title}: best loss by the law")
        for one in plan.families:
            style = {"color": palette.families[one.family], "markersize": 7, "zorder": 5}
            point = draw_point(axes, one.family, one.flops, one.loss, **style)
            point.set(markeredgecolor=palette.paper, markeredgewidth=1.1)
            tip(point, "", text.describe_plan(one))
        for flops in critical:
            if grid[0] < flops < grid[-1]:
                mark_flops(axes, palette, flops, "critical:")
        log_axis(axes, "x", grid[0], grid[-1], power_of_ten)
        axes.set_xlabel("budget (FLOPs, 6·N·D)")
        set_height(axes, *_visible_range(list(lines.values())))

    return Plot(
        name="budget",
        label=f"Best predicted loss against the budget. {verdict}",
        title="best predicted NLL, nats per token",
        paint=paint,
        header=("family", "flops", "best_nats_per_token", "low", "high"),
        rows=[
            [family, *map(float, values)]
            for family, line in lines.items()
            for values in zip(grid, *line, strict=True)
        ],
    )


def _visible_range(lines: Sequence[tuple[Floats, Floats, Floats]]) -> tuple[float, float]:
    """What the vertical axis shows: all lines, and of their bands up to as much again."""
    low, high = min(best.min() for best, _, _ in lines), max(best.max() for best, _, _ in lines)
    room = max(float(high - low), 0.02)
    bottom = max(low - room, min(below.min() for _, below, _ in lines))
    top = min(high + room, max(above.max() for _, _, above in lines))
    return float(bottom), float(top)


def _best(fit: FamilyFit, grid: Floats, unique: float) -> tuple[Floats, Floats, Floats]:
    """(best loss, both ends of its interval) at each budget of the grid."""
    best = optima(fit, grid, unique).loss
    if not fit.samples:
        return best, best, best
    ends = [
        fit.interval([optima(fit, float(c), unique, s[:_SAMPLES]).loss for s in fit.samples])
        for c in grid
    ]
    low, high = (np.array([float(end[side]) for end in ends]) for side in (0, 1))
    return best, np.minimum(low, best), np.maximum(high, best)

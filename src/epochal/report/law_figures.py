"""Figures of fitted laws: isoFLOP curves, contours, repetition, quality, the best for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from epochal.estimates import Floats
from epochal.families import get_family
from epochal.report.drawing import (
    DOTTED,
    FONT,
    Cell,
    Palette,
    Plot,
    add_legend,
    draw_band,
    draw_point,
    log_axis,
    mark_flops,
    tip,
    update_layout,
)
from epochal.report.laws import most_common_unique_tokens
from epochal.report.text.fit import describe_parabola, half_life, parabola_flops
from epochal.report.text.format import power_of_ten
from epochal.report.text.plan import verdict_sentence
from epochal.scaling.checks import Parabola
from epochal.scaling.fit import FamilyFit
from epochal.scaling.law import interval_of
from epochal.scaling.optimum import optima
from epochal.scaling.planner import PlanReport
from epochal.scaling.points import Points
from epochal.units import format_count, format_epochs

Fits = Mapping[str, FamilyFit]
Surface = tuple[Floats, Floats, Floats, float]
_GRID = 60
_LEVELS = 9
_FLAT = 0.02
"""Nats: a law that changes by less over what was run is nearly flat."""
_FEWEST_LEVELS = 4
"""Lines that each family's figure has at least if all show the same levels."""
_BUDGETS = 24
_SAMPLES = 60
"""Resamples of a law for the band around its line."""


def law_plots(fits: Fits, plan: PlanReport | None = None) -> dict[str, list[Plot]]:
    """The figures of each section; sections without data have none."""
    return {
        "isoflop": [
            _isoflop_plot(fit, fit.isoflop.parabolas) for fit in fits.values() if fit.isoflop
        ],
        "contours": _contour_plots(fits),
        "repetition": _repetition_plots(fits),
        "quality": _quality_plots(fits) if fits else [],
        "plan": [_budget_plot(plan, fits)] if plan is not None and fits else [],
    }


def _tip(points: Points, index: int) -> tuple[str, str]:
    """A point's run, as the other figures call it, and what is known of it."""
    n, d, u = points.params[index], points.tokens[index], points.unique_tokens[index]
    run = Path(points.run[index]).name
    return run, (
        f"{run}: {format_count(n)} parameters, {d / u:.3g} epochs over {format_count(u)} unique "
        f"tokens, {power_of_ten(6 * n * d)} FLOPs, {points.loss[index]:.3f} nats"
    )


def _contour_plots(fits: Fits) -> list[Plot]:
    """Per family the fitted loss over size and epochs, with the runs it comes from."""
    drawn = [
        (fit, _surface(fit))
        for fit in fits.values()
        if len(np.unique(fit.points.params)) > 2 and np.ptp(fit.points.epochs) > 0
    ]
    if not drawn:
        return []
    losses = [surface[2] for _, surface in drawn]
    levels = [_levels(losses)] * len(drawn)
    crossed = [((own.min() < levels[0]) & (levels[0] < own.max())).sum() for own in losses]
    if min(crossed) < _FEWEST_LEVELS:
        levels = [_levels([own]) for own in losses]
    return [_contour_plot(*both, own) for both, own in zip(drawn, levels, strict=True)]


def _surface(fit: FamilyFit) -> Surface:
    """(sizes [S], epochs [E], loss [E, S], U)."""
    points = fit.points
    unique = most_common_unique_tokens(points)
    sizes = np.geomspace(points.params.min() / 1.15, points.params.max() * 1.15, _GRID)
    epochs = np.geomspace(points.epochs.min() / 1.15, points.epochs.max() * 1.15, _GRID)
    grid_n, grid_e = np.meshgrid(sizes, epochs)
    return sizes, epochs, fit.predict(grid_n, grid_e * unique, unique), unique


def _levels(surfaces: Sequence[Floats]) -> Floats:
    """Losses whose lines are drawn, closer together where the loss is low."""
    low = min(float(losses.min()) for losses in surfaces)
    high = max(float(np.quantile(losses, 0.9)) for losses in surfaces)
    levels: Floats = low + max(high - low, _FLAT) * np.linspace(0, 1, _LEVELS) ** 1.7
    return levels


def _contour_plot(fit: FamilyFit, surface: Surface, levels: Floats) -> Plot:
    sizes, epochs, losses, unique = surface
    family = get_family(fit.family)

    def paint(axes: Axes, palette: Palette) -> None:
        color = palette.families[family.name]
        add_legend(axes, "a run", marker=family.marker, color=palette.ink)
        add_legend(axes, "equal loss, nats", linestyle="-", color=color)
        log_axis(axes, "x", sizes[0], sizes[-1], format_count)
        log_axis(axes, "y", epochs[0], epochs[-1])
        low, high = np.quantile(losses, [0.05, 0.95])
        if high - low < _FLAT:
            note = f"nearly flat: {low:.3f} to {high:.3f} nats"
            axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", fontsize=0.9 * FONT)
        else:
            lines = axes.contour(sizes, epochs, losses, levels=levels[1:], colors=[color])
            lines.set(linewidth=np.linspace(1.8, 0.7, len(levels) - 1))
            update_layout(axes)  # labels cut gaps into the lines
            digits = "%.3f" if levels[2] - levels[1] < 0.01 else "%.2f"
            axes.clabel(lines, fmt=digits, fontsize=0.88 * FONT, inline_spacing=4)
        style: dict[str, Any] = {"color": palette.ink, "markersize": 4, "markeredgewidth": 0}
        for index in np.flatnonzero(fit.points.unique_tokens == unique).tolist():
            at = float(fit.points.params[index]), float(fit.points.epochs[index])
            draw_point(
                axes, family.name, at, *_tip(fit.points, index), alpha=0.75, zorder=4, **style
            )

    return Plot(
        name=f"contours-{fit.family}",
        label=f"Loss of the fitted law over size and epochs, {family.title}, for "
        f"{format_count(unique)} unique tokens; lowest {losses.min():.3f}, highest "
        f"{losses.max():.3f} nats.",
        title=f"epochs – {family.title}",
        x_title="parameters N",
        paint=paint,
        header=("family", "unique_tokens", "params", "epochs", "predicted_nats_per_token"),
        rows=[
            [fit.family, float(unique), float(sizes[j]), float(epochs[i]), float(losses[i, j])]
            for i in range(0, _GRID, 3)
            for j in range(0, _GRID, 3)
        ],
    )


def _repetition_plots(fits: Fits) -> list[Plot]:
    """How many fresh tokens repeated ones are worth, per unique token, against epochs."""
    known = {f: fit for f, fit in fits.items() if fit.constants.get("R_D") is not None}
    if not known:
        return []
    most = max(float(fit.points.epochs.max()) for fit in known.values())
    epochs = np.geomspace(1, max(4.0, 1.5 * most), _GRID)
    worth = {f: [_worth(fit, epochs, end) for end in (None, 0, 1)] for f, fit in known.items()}
    told = {f: f"{get_family(f).title}: {half_life(fit)}" for f, fit in known.items()}

    def paint(axes: Axes, palette: Palette) -> None:
        log_axis(axes, "x", 1.0, epochs[-1])
        log_axis(axes, "y", 1.0, 1.3 * max(float(value.max()) for value, _, _ in worth.values()))
        [fresh] = axes.plot(epochs, epochs, color=palette.muted, label="if all were fresh")
        fresh.set(linestyle=(0, (5, 3)), linewidth=1.2, zorder=4)  # seen also below a curve
        tip(fresh, "", "every token fresh")
        for family, fit in known.items():
            color = palette.families[family]
            draw_band(axes, color, epochs, worth[family], told[family])
            if fit.half_life is not None and 1 + fit.half_life < epochs[-1]:
                at = 1 + fit.half_life, float(_worth(fit, np.array([1 + fit.half_life]))[0])
                style = {"color": color, "markeredgecolor": palette.paper, "markersize": 7}
                draw_point(axes, family, at, "", told[family], zorder=4, **style)

    return [
        Plot(
            name="repetition",
            label="Unique-equivalent tokens per unique token against epochs. "
            + " ".join(f"{text}." for text in told.values()),
            title="unique-equivalent tokens per unique token",
            x_title="epochs (passes over the unique tokens)",
            paint=paint,
            families=list(known),
            header=("family", "epochs", "worth", "low", "high"),
            rows=[
                [family, float(e), *map(float, values)]
                for family in known
                for e, *values in zip(epochs, *worth[family], strict=True)
            ],
        )
    ]


def _worth(fit: FamilyFit, epochs: Floats, end: int | None = None) -> Floats:
    """D'/U at these epochs; with `end` 0 or 1 at that end of R_D's interval (open: all fresh)."""
    star = None if end is None else fit.intervals.get("R_D", (None, None))[end]
    if star is not None:
        theta = fit.theta.copy()
        theta[fit.form.index("R_D")] = np.log(star)
        fit = replace(fit, theta=theta)
    elif end == 1:
        return epochs
    worth: Floats = fit.unique_equivalent(epochs * 1e6, 1e6) / 1e6
    return worth


def _quality_plots(fits: Fits) -> list[Plot]:
    """Predicted against seen loss, and residuals against epochs."""
    losses = np.concatenate([[*fit.points.loss, *fit.predicted] for fit in fits.values()])
    ends = float(losses.min()), float(losses.max())
    worst = 100 * max(float(np.abs(fit.residuals).max()) for fit in fits.values())
    titles = {get_family(name).title: fit for name, fit in fits.items()}
    quality = [f"{title}: {len(fit.points)} runs, R² {fit.r2:.3f}" for title, fit in titles.items()]

    def draw_points(axes: Axes, palette: Palette, fit: FamilyFit, x: Floats, y: Floats) -> None:
        style: dict[str, Any] = {"color": palette.families[fit.family], "markersize": 5}
        style |= {"markeredgecolor": palette.paper, "markeredgewidth": 0.7, "alpha": 0.85}
        for i in range(len(fit.points)):
            run, about = _tip(fit.points, i)
            about += f", predicted {fit.predicted[i]:.3f}"
            draw_point(axes, fit.family, (x[i], y[i]), run, about, zorder=3, **style)

    def paint_predicted(axes: Axes, palette: Palette) -> None:
        axes.plot(ends, ends, color=palette.muted, linewidth=1)
        for fit in fits.values():
            draw_points(axes, palette, fit, fit.points.loss, fit.predicted)
        axes.margins(x=0.05)

    def paint_residuals(axes: Axes, palette: Palette) -> None:
        axes.axhline(0, color=palette.muted, linewidth=1)
        for fit in fits.values():
            draw_points(axes, palette, fit, fit.points.epochs, 100 * fit.residuals)
        epochs = np.concatenate([fit.points.epochs for fit in fits.values()])
        log_axis(axes, "x", epochs.min(), epochs.max() * 1.01)

    rows: list[list[Cell]] = []
    for family, fit in fits.items():
        p = fit.points
        values = zip(p.run, p.params, p.tokens, p.unique_tokens, p.loss, fit.predicted, strict=True)
        rows += [[Path(run).name, family, *map(float, row)] for run, *row in values]
    predicted = Plot(
        name="predicted",
        label=f"Predicted against seen loss. {'; '.join(quality)}.",
        title="predicted, nats per token",
        x_title="seen, nats per token",
        paint=paint_predicted,
        families=list(fits),
        height=ends,
        header=("run", "family", "params", "tokens", "unique_tokens", "seen", "predicted"),
        rows=rows,
    )
    residuals = replace(
        predicted,
        name="residuals",
        label=f"Residuals of the fit in percent against epochs, at most {worst:.2g} %.",
        title="predicted over seen − 1, %",
        x_title="epochs",
        paint=paint_residuals,
        height=(-worst, worst),
    )
    return [predicted, residuals]


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
            alpha = 0.45 + 0.55 * number / len(parabolas)
            _draw_parabola(axes, palette, family.name, parabola, alpha)
        log_axis(axes, "x", min(sizes), max(sizes) * 2.2, format_count)
        # Each budget at the right end of its curve, moved up where another would cover it.
        update_layout(axes)  # so that positions are known
        font, free = 0.88 * FONT, -np.inf
        for parabola in sorted(parabolas, key=lambda one: one.loss[-1]):
            end = (parabola.params[-1], parabola.loss[-1])
            y = float(axes.transData.transform(end)[1])
            at = max(y, free)
            free = at + 1.1 * font
            where: dict[str, Any] = {"textcoords": "offset points", "va": "center"}
            where |= {"xytext": (8, at - y), "fontsize": font}
            axes.annotate(parabola_flops(parabola), end, **where)

    return Plot(
        name=f"isoflop-{fit.family}",
        label=f"IsoFLOP curves, {family.title}. {'; '.join(map(describe_parabola, parabolas))}.",
        title=f"loss, nats per token – {family.title}",
        x_title="parameters N",
        paint=paint,
        height=(min(losses), max(losses)),
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
    style: dict[str, Any] = {"color": palette.families[family], "alpha": alpha}
    best, lowest = parabola.optimal_params, parabola.optimal_loss
    if best is not None and lowest is not None:
        x = np.geomspace(parabola.params[0], parabola.params[-1], _GRID)
        y = lowest + parabola.curvature * np.log(x / best) ** 2
        [line] = axes.plot(x, y, linewidth=1.5, zorder=3, **style)
        if not parabola.flags:
            [vertex] = axes.plot([best], [lowest], "|", color=palette.ink, zorder=5)
            vertex.set(markersize=9, markeredgewidth=1.3)
    else:
        [line] = axes.plot(parabola.params, parabola.loss, zorder=3, **style)
        line.set(linewidth=1.3, linestyle=DOTTED)
    tip(line, "", describe_parabola(parabola))
    style |= {"markersize": 5, "markeredgecolor": palette.paper, "markeredgewidth": 0.7}
    for n, loss in zip(parabola.params, parabola.loss, strict=True):
        about = f"{format_count(n)} parameters, {parabola_flops(parabola)} FLOPs: {loss:.3f} nats"
        draw_point(axes, family, (n, loss), "", about, zorder=4, **style)


def _budget_plot(plan: PlanReport, fits: Fits) -> Plot:
    """The best loss that each family can have for a budget, by the laws."""
    unique = plan.unique_tokens
    ends = [fit.fitted_range["flops"] for fit in fits.values()]
    low = min([*(low for low, _ in ends), *(one.flops for one in plan.families)])
    high = max([*(high for _, high in ends), plan.flops])
    critical = [p.critical_flops for p in plan.pairs if p.critical_flops is not None]
    high = max([high, *(1.5 * flops for flops in critical if flops < 30 * high)])
    grid = np.geomspace(low, high, _BUDGETS)
    lines = {family: _best(fit, grid, unique) for family, fit in fits.items()}
    # All lines are shown, and of their bands up to as much again.
    least, most = ([f(line[0]) for line in lines.values()] for f in (np.min, np.max))
    room = max(float(max(most) - min(least)), 0.02)
    bottom = max(min(least) - room, min(below.min() for _, below, _ in lines.values()))
    top = min(max(most) + room, max(above.max() for _, _, above in lines.values()))

    def paint(axes: Axes, palette: Palette) -> None:
        for family, line in lines.items():
            about = f"{get_family(family).title}: best loss by the law"
            draw_band(axes, palette.families[family], grid, line, about)
        for one in plan.families:
            about = (
                f"{get_family(one.family).title}: {one.loss:.3f} nats with "
                f"{format_count(one.params)} parameters and {format_epochs(one.epochs)} "
                f"({power_of_ten(one.flops)} FLOPs)"
            )
            edge = {"markeredgecolor": palette.paper, "markeredgewidth": 1.1}
            style = {"color": palette.families[one.family], "markersize": 7, **edge}
            draw_point(axes, one.family, (one.flops, one.loss), "", about, zorder=5, **style)
        for flops in critical:
            if grid[0] < flops < grid[-1]:
                mark_flops(axes, palette, flops, "critical:")
        log_axis(axes, "x", grid[0], grid[-1], power_of_ten)

    return Plot(
        name="budget",
        label=f"Best predicted loss against the budget. {verdict_sentence(plan)}",
        title="best predicted NLL, nats per token",
        x_title="budget (FLOPs, 6·N·D)",
        paint=paint,
        families=list(fits),
        height=(float(bottom), float(top)),
        header=("family", "flops", "best_nats_per_token", "low", "high"),
        rows=[
            [family, *map(float, values)]
            for family, line in lines.items()
            for values in zip(grid, *line, strict=True)
        ],
    )


def _best(fit: FamilyFit, grid: Floats, unique: float) -> tuple[Floats, Floats, Floats]:
    """(best loss, both ends of its interval) at each budget of the grid."""
    best = optima(fit, grid, unique).loss
    if not fit.samples:
        return best, best, best
    losses = [[optima(fit, float(c), unique, s[:_SAMPLES]).loss for s in fit.samples] for c in grid]
    ends = [interval_of(draws, fit.whole_range) for draws in losses]
    low, high = np.array(ends, dtype=float).T
    return best, np.minimum(low, best), np.maximum(high, best)

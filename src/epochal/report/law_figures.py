"""Figures of a fitted law: contours, the value of repetition, quality of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from epochal.estimates import Floats
from epochal.families import get_family
from epochal.report.budget_figures import isoflop_plots
from epochal.report.drawing import (
    FONT,
    Palette,
    Plot,
    add_family_legend,
    add_legend,
    draw_point,
    log_axis,
    set_height,
    tip,
    update_layout,
)
from epochal.report.laws import most_common_unique_tokens
from epochal.report.text import figures as text
from epochal.scaling.result import FamilyFit
from epochal.units import format_count

Fits = Mapping[str, FamilyFit]
_GRID = 60
_LEVELS = 9
_FLAT = 0.02
"""Nats: a law that changes by less over what was run is nearly flat."""
_FEWEST_LEVELS = 4
"""Lines that each family's figure has at least if all show the same levels."""
_EPOCHS = "epochs (passes over the unique tokens)"


def law_plots(fits: Fits) -> dict[str, list[Plot]]:
    """The figures of each section; sections without data have none."""
    repetition = _repetition_plot(fits)
    return {
        "isoflop": isoflop_plots(fits),
        "contours": contour_plots(fits),
        "repetition": [repetition] if repetition else [],
        "quality": _quality_plots(fits) if fits else [],
    }


Surface = tuple[Floats, Floats, Floats, float]
"""(sizes [S], epochs [E], loss [E, S], U)."""


def contour_plots(fits: Fits) -> list[Plot]:
    """Per family the fitted loss over size and epochs, with the runs it comes from."""
    drawn = [
        (fit, _surface(fit))
        for fit in fits.values()
        if len(np.unique(fit.points.params)) > 2 and np.ptp(fit.points.epochs) > 0
    ]
    if not drawn:
        return []
    common = _levels([losses for _, (_, _, losses, _) in drawn])
    if any(_crossed(losses, common) < _FEWEST_LEVELS for _, (_, _, losses, _) in drawn):
        return [_contour_plot(fit, surface, _levels([surface[2]])) for fit, surface in drawn]
    return [_contour_plot(fit, surface, common) for fit, surface in drawn]


def _surface(fit: FamilyFit) -> Surface:
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


def _crossed(losses: Floats, levels: Floats) -> int:
    """How many of the levels have a line on this surface."""
    return int(((losses.min() < levels) & (levels < losses.max())).sum())


def _contour_plot(fit: FamilyFit, surface: Surface, levels: Floats) -> Plot:
    sizes, epochs, losses, unique = surface
    family = get_family(fit.family)
    here = np.flatnonzero(fit.points.unique_tokens == unique).tolist()

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
        for index in here:
            n, e = float(fit.points.params[index]), float(fit.points.epochs[index])
            style = {"color": palette.ink, "markersize": 4, "alpha": 0.75, "zorder": 4}
            point = draw_point(axes, family.name, n, e, markeredgewidth=0, **style)
            tip(point, text.run_name(fit.points, index), text.describe_point(fit.points, index))
        axes.set_xlabel("parameters N")

    return Plot(
        name=f"contours-{fit.family}",
        label=f"Loss of the fitted law over size and epochs, {family.title}, for "
        f"{format_count(unique)} unique tokens; lowest {losses.min():.3f}, highest "
        f"{losses.max():.3f} nats.",
        title=f"epochs – {family.title}",
        paint=paint,
        header=("family", "unique_tokens", "params", "epochs", "predicted_nats_per_token"),
        rows=[
            [fit.family, float(unique), float(sizes[j]), float(epochs[i]), float(losses[i, j])]
            for i in range(0, _GRID, 3)
            for j in range(0, _GRID, 3)
        ],
    )


def _repetition_plot(fits: Fits) -> Plot | None:
    """How many fresh tokens repeated ones are worth, per unique token, against epochs."""
    known = {f: fit for f, fit in fits.items() if fit.constants.get("R_D") is not None}
    if not known:
        return None
    most = max(float(fit.points.epochs.max()) for fit in known.values())
    epochs = np.geomspace(1, max(4.0, 1.5 * most), _GRID)
    worth = {f: [_worth(fit, epochs, end) for end in (None, 0, 1)] for f, fit in known.items()}

    def paint(axes: Axes, palette: Palette) -> None:
        add_family_legend(axes, palette, list(known))
        log_axis(axes, "x", 1.0, epochs[-1])
        top = 1.3 * max(float(value.max()) for value, _, _ in worth.values())
        log_axis(axes, "y", 1.0, top)
        [fresh] = axes.plot(epochs, epochs, color=palette.muted, label="if all were fresh")
        fresh.set(linestyle=(0, (5, 3)), linewidth=1.2, zorder=4)  # seen also below a curve
        tip(fresh, "", "every token fresh")
        for family, fit in known.items():
            color, (value, low, high) = palette.families[family], worth[family]
            axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
            [line] = axes.plot(epochs, value, color=color, linewidth=1.7, zorder=3)
            artists: list[Artist] = [line]
            if fit.half_life is not None and 1 + fit.half_life < epochs[-1]:
                at = 1 + fit.half_life
                there = float(_worth(fit, np.array([at]))[0])
                point = draw_point(axes, family, at, there, color=color, markersize=7, zorder=4)
                point.set(markeredgecolor=palette.paper)
                artists.append(point)
            for artist in artists:
                tip(artist, "", f"{get_family(family).title}: {text.half_life(fit)}")
        axes.set_xlabel(_EPOCHS)

    half_lives = " ".join(f"{get_family(f).title}: {text.half_life(k)}." for f, k in known.items())
    return Plot(
        name="repetition",
        label=f"Unique-equivalent tokens per unique token against epochs. {half_lives}",
        title="unique-equivalent tokens per unique token",
        paint=paint,
        header=("family", "epochs", "worth", "low", "high"),
        rows=[
            [family, float(e), *map(float, values)]
            for family in known
            for e, *values in zip(epochs, *worth[family], strict=True)
        ],
    )


def _worth(fit: FamilyFit, epochs: Floats, end: int | None = None) -> Floats:
    """D'/U at these epochs; with `end` 0 or 1 at that end of R_D's interval (open: all fresh)."""
    law = fit
    if end is not None:
        star = fit.intervals.get("R_D", (None, None))[end]
        if star is None:
            return epochs if end else _worth(fit, epochs)
        changed = fit.theta.copy()
        changed[fit.form.index("R_D")] = np.log(star)
        law = replace(fit, theta=changed)
    worth: Floats = law.unique_equivalent(epochs * 1e6, 1e6) / 1e6
    return worth


def _quality_plots(fits: Fits) -> list[Plot]:
    """Predicted against seen loss, and residuals against epochs."""
    losses = np.concatenate([[*fit.points.loss, *fit.predicted] for fit in fits.values()])
    ends = float(losses.min()), float(losses.max())
    worst = 100 * max(float(np.abs(fit.residuals).max()) for fit in fits.values())
    quality = "; ".join(
        f"{get_family(f).title}: {len(fit.points)} runs, R² {fit.r2:.3f}" for f, fit in fits.items()
    )

    def draw_points(axes: Axes, palette: Palette, fit: FamilyFit, x: Floats, y: Floats) -> None:
        style = {"color": palette.families[fit.family], "markersize": 5, "alpha": 0.85}
        for i in range(len(fit.points)):
            point = draw_point(axes, fit.family, x[i], y[i], zorder=3, **style)
            point.set(markeredgecolor=palette.paper, markeredgewidth=0.7)
            about = f"{text.describe_point(fit.points, i)}, predicted {fit.predicted[i]:.3f}"
            tip(point, text.run_name(fit.points, i), about)

    def paint_predicted(axes: Axes, palette: Palette) -> None:
        add_family_legend(axes, palette, list(fits))
        axes.plot(ends, ends, color=palette.muted, linewidth=1)
        for fit in fits.values():
            draw_points(axes, palette, fit, fit.points.loss, fit.predicted)
        axes.margins(x=0.05)
        axes.set_xlabel("seen, nats per token")
        set_height(axes, *ends)

    def paint_residuals(axes: Axes, palette: Palette) -> None:
        add_family_legend(axes, palette, list(fits))
        axes.axhline(0, color=palette.muted, linewidth=1)
        for fit in fits.values():
            draw_points(axes, palette, fit, fit.points.epochs, 100 * fit.residuals)
        epochs = np.concatenate([fit.points.epochs for fit in fits.values()])
        log_axis(axes, "x", epochs.min(), epochs.max() * 1.01)
        axes.set_xlabel("epochs")
        set_height(axes, -worst, worst)

    points = {f: fit.points for f, fit in fits.items()}
    table: dict[str, Any] = {
        "header": ("run", "family", "params", "tokens", "unique_tokens", "seen", "predicted"),
        "rows": [
            [text.run_name(p, i), f, *map(float, values), float(fits[f].predicted[i])]
            for f, p in points.items()
            for i, values in enumerate(
                zip(p.params, p.tokens, p.unique_tokens, p.loss, strict=True)
            )
        ],
    }
    return [
        Plot(
            name="predicted",
            label=f"Predicted against seen loss. {quality}.",
            title="predicted, nats per token",
            paint=paint_predicted,
            **table,
        ),
        Plot(
            name="residuals",
            label=f"Residuals of the fit in percent against epochs, at most {worst:.2g} %.",
            title="predicted over seen − 1, %",
            paint=paint_residuals,
            **table,
        ),
    ]

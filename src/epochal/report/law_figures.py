"""Figures of a sweep: isoFLOP curves, contours, the value of repetition, quality of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from epochal.estimates import Floats
from epochal.families import get_family
from epochal.report.figures import MARKERS, family_keys, finish, logarithmic
from epochal.report.isoflop_figures import isoflop_plots
from epochal.report.law_section import most_common_unique_tokens
from epochal.report.svg import Canvas, Cell, Plot, tip
from epochal.report.text.format import power_of_ten
from epochal.scaling.points import Points
from epochal.scaling.result import FamilyFit
from epochal.units import format_count

Families = Mapping[str, FamilyFit]
_GRID = 60
_LEVELS = 9
_FLAT = 0.02
"""Nats: a law that changes by less over what was run is said to be flat."""
_FEWEST_LEVELS = 4
"""Lines that each family's figure has at least if both show the same levels."""


def name_of(points: Points, index: int) -> str:
    """A point's run, as the other figures call it."""
    return Path(points.run[index]).name


def _about(points: Points, index: int) -> str:
    """A point in one line."""
    n, d, u = points.params[index], points.tokens[index], points.unique_tokens[index]
    return (
        f"{name_of(points, index)}: {format_count(n)} parameters, {d / u:.3g} epochs over "
        f"{format_count(u)} unique tokens, {power_of_ten(6 * n * d)} FLOPs, "
        f"{points.loss[index]:.3f} nats"
    )


def _point_rows(fit: FamilyFit) -> list[list[Cell]]:
    points = fit.points
    return [
        [
            name_of(points, i),
            fit.family,
            float(points.params[i]),
            float(points.tokens[i]),
            float(points.unique_tokens[i]),
            float(points.loss[i]),
            float(fit.predicted[i]),
        ]
        for i in range(len(points))
    ]


_POINT_HEADER = ("run", "family", "params", "tokens", "unique_tokens", "seen", "predicted")


def contour_plots(families: Families) -> list[Plot]:
    """Per family the fitted loss over size and epochs, with the runs it comes from."""
    drawn = [
        fit
        for fit in families.values()
        if len(np.unique(fit.points.params)) > 2 and np.ptp(fit.points.epochs) > 0
    ]
    surfaces = [_surface(fit) for fit in drawn]
    if not surfaces:
        return []
    levels = _levels([losses for _, _, losses, _ in surfaces])
    found = [_levels([losses]) for _, _, losses, _ in surfaces]
    if all(_crossed(losses, levels) >= _FEWEST_LEVELS for _, _, losses, _ in surfaces):
        found = [levels] * len(surfaces)
    return [
        _contours(fit, *surface, own)
        for fit, surface, own in zip(drawn, surfaces, found, strict=True)
    ]


def _levels(surfaces: Sequence[Floats]) -> Floats:
    """Losses whose lines are drawn, closer together where the loss is low."""
    low = min(float(losses.min()) for losses in surfaces)
    high = max(float(np.quantile(losses, 0.9)) for losses in surfaces)
    levels: Floats = low + max(high - low, _FLAT) * np.linspace(0, 1, _LEVELS) ** 1.7
    return levels


def _crossed(losses: Floats, levels: Floats) -> int:
    """How many of the levels have a line on this surface."""
    return int(((losses.min() < levels) & (levels < losses.max())).sum())


Surface = tuple[Floats, Floats, Floats, float]


def _surface(fit: FamilyFit) -> Surface:
    """(sizes [S], epochs [E], loss [E, S], U)."""
    points = fit.points
    unique = most_common_unique_tokens(points)
    sizes = np.geomspace(points.params.min() / 1.15, points.params.max() * 1.15, _GRID)
    epochs = np.geomspace(points.epochs.min() / 1.15, points.epochs.max() * 1.15, _GRID)
    grid_n, grid_e = np.meshgrid(sizes, epochs)
    return sizes, epochs, fit.predict(grid_n, grid_e * unique, unique), unique


def _contours(
    fit: FamilyFit, sizes: Floats, epochs: Floats, losses: Floats, unique: float, levels: Floats
) -> Plot:
    here = np.flatnonzero(fit.points.unique_tokens == unique).tolist()

    def paint(axes: Axes, canvas: Canvas) -> None:
        colour = canvas.palette.families[fit.family]
        axes.set_yscale("log")
        low, high = np.quantile(losses, [0.05, 0.95])
        if high - low < _FLAT:
            words = f"nearly flat: {low:.3f} to {high:.3f} nats"
            where = axes.transAxes
            axes.text(0.5, 0.5, words, transform=where, ha="center", fontsize=0.9 * canvas.font)
        else:
            lines = axes.contour(sizes, epochs, losses, levels=levels[1:], colors=[colour])
            lines.set(linewidth=np.linspace(2.0, 0.7, len(levels) - 1))
            digits = "%.3f" if levels[2] - levels[1] < 0.01 else "%.2f"
            axes.clabel(lines, fmt=digits, fontsize=0.8 * canvas.font, inline_spacing=4)
        for index in here:
            [mark] = axes.plot(
                [fit.points.params[index]], [fit.points.epochs[index]], MARKERS[fit.family]
            )
            mark.set(color=canvas.palette.ink, markersize=4.5, alpha=0.75, zorder=4)
            mark.set(markeredgewidth=0)
            tip(mark, name_of(fit.points, index), _about(fit.points, index))
        logarithmic(axes, canvas, sizes[0], sizes[-1], lambda x, _: format_count(x))
        logarithmic(axes, canvas, epochs[0], epochs[-1], lambda x, _: f"{x:g}", vertical=True)
        axes.set_xlabel("parameters N", labelpad=6)

    step = slice(None, None, 3)
    rows: list[list[Cell]] = [
        [fit.family, float(unique), float(n), float(e), float(losses[i, j])]
        for i, e in list(enumerate(epochs))[step]
        for j, n in list(enumerate(sizes))[step]
    ]
    title = get_family(fit.family).title
    return Plot(
        name=f"contours-{fit.family}",
        label=f"Loss of the fitted law over size and epochs, {title}, for {format_count(unique)} "
        f"unique tokens; lowest {losses.min():.3f}, highest {losses.max():.3f} nats.",
        title=f"epochs – {title}",
        paint=paint,
        header=("family", "unique_tokens", "params", "epochs", "predicted_nats_per_token"),
        rows=rows,
        half=True,
        keys=[("", MARKERS[fit.family], "a run"), (fit.family, "-", "equal loss, nats")],
    )


def repetition_plot(families: Families) -> Plot | None:
    """How many fresh tokens repeated ones are worth, per unique token, against epochs."""
    known = {f: fit for f, fit in families.items() if fit.constants.get("R_D") is not None}
    if not known:
        return None
    most = max(float(fit.points.epochs.max()) for fit in known.values())
    epochs = np.geomspace(1, max(4.0, 1.5 * most), _GRID)
    values = {f: _worth(fit, epochs) for f, fit in known.items()}
    lows = {f: _worth(fit, epochs, 0) for f, fit in known.items()}
    highs = {f: _worth(fit, epochs, 1) for f, fit in known.items()}

    def paint(axes: Axes, canvas: Canvas) -> None:
        axes.set_yscale("log")
        top = 1.3 * max(float(value.max()) for value in values.values())
        [fresh] = axes.plot(epochs, epochs, color=canvas.palette.muted, linestyle=(0, (5, 3)))
        fresh.set(linewidth=1.2, zorder=4)  # seen also where a curve lies on it
        tip(fresh, "", "every token fresh")
        for family, fit in known.items():
            colour = canvas.palette.families[family]
            axes.fill_between(
                epochs, lows[family], highs[family], color=colour, alpha=0.15, linewidth=0
            )
            [line] = axes.plot(epochs, values[family], color=colour, linewidth=2, zorder=3)
            tip(line, "", f"{get_family(family).title}: {half_life_text(fit)}")
            if fit.half_life is not None and 1 + fit.half_life < epochs[-1]:
                at = 1 + fit.half_life
                [mark] = axes.plot([at], _worth(fit, np.array([at])), MARKERS[family], color=colour)
                mark.set(markersize=8, markeredgecolor=canvas.palette.paper, zorder=4)
                tip(mark, "", f"{get_family(family).title}: {half_life_text(fit)}")
        logarithmic(axes, canvas, 1.0, epochs[-1], lambda x, _: f"{x:g}")
        logarithmic(axes, canvas, 1.0, top, lambda x, _: f"{x:g}", vertical=True)
        axes.set_xlabel("epochs (passes over the unique tokens)", labelpad=6)

    rows: list[list[Cell]] = [
        [family, float(e), float(v), float(low), float(high)]
        for family in known
        for e, v, low, high in zip(epochs, values[family], lows[family], highs[family], strict=True)
    ]
    told = " ".join(f"{get_family(f).title}: {half_life_text(fit)}." for f, fit in known.items())
    return Plot(
        name="repetition",
        label=f"Unique-equivalent tokens per unique token against epochs. {told}",
        title="unique-equivalent tokens per unique token",
        paint=paint,
        header=("family", "epochs", "worth", "low", "high"),
        rows=rows,
        keys=[*family_keys(list(known)), ("", "--", "if all were fresh")],
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


def half_life_text(fit: FamilyFit) -> str:
    """ "half-life 11 repetitions (95 %: 8 to 17)", or what can be said of it."""
    if fit.half_life is None:
        return "the half-life of data is not determined by these runs"
    low, high = fit.intervals.get("R_D", (None, None))
    longest = float(fit.points.epochs.max())
    if high is None and fit.half_life > longest:
        ends = "" if low is None else f"at least {np.log(2) * low:.3g} repetitions (95 %); "
        return f"half-life {ends}too long to be seen in runs of up to {longest:.3g} epochs"
    ends = ""
    if low is not None:
        below, above = np.log(2) * low, None if high is None else np.log(2) * high
        ends = (
            f" (95 %: at least {below:.3g})"
            if above is None
            else f" (95 %: {below:.3g} to {above:.3g})"
        )
    return f"half-life {fit.half_life:.3g} repetitions{ends}"


def quality_plots(families: Families) -> list[Plot]:
    """Predicted against seen, and residuals against epochs."""
    if not families:
        return []
    rows = [row for fit in families.values() for row in _point_rows(fit)]
    keys = family_keys(list(families))
    losses = np.concatenate([[*fit.points.loss, *fit.predicted] for fit in families.values()])
    ends = float(losses.min()), float(losses.max())
    worst = max(float(np.abs(fit.residuals).max()) for fit in families.values())
    told = "; ".join(
        f"{get_family(f).title}: {len(fit.points)} runs, R² {fit.r2:.3f}"
        for f, fit in families.items()
    )

    def against(axes: Axes, canvas: Canvas) -> None:
        axes.plot(ends, ends, color=canvas.palette.muted, linewidth=1)
        for fit in families.values():
            _points(axes, canvas, fit, fit.points.loss, fit.predicted)
        room = 0.05 * (ends[1] - ends[0])
        axes.set_xlim(ends[0] - room, ends[1] + room)
        axes.xaxis.set_major_locator(MaxNLocator(canvas.ticks))
        finish(axes, *ends, "seen, nats per token")

    def left(axes: Axes, canvas: Canvas) -> None:
        axes.axhline(0, color=canvas.palette.muted, linewidth=1)
        for fit in families.values():
            _points(axes, canvas, fit, fit.points.epochs, 100 * fit.residuals)
        epochs = np.concatenate([fit.points.epochs for fit in families.values()])
        logarithmic(axes, canvas, epochs.min(), epochs.max() * 1.01, lambda x, _: f"{x:g}")
        finish(axes, -100 * worst, 100 * worst, "epochs")

    return [
        Plot(
            name="predicted",
            label=f"Predicted against seen loss. {told}.",
            title="predicted, nats per token",
            paint=against,
            header=_POINT_HEADER,
            rows=rows,
            half=True,
            keys=keys,
        ),
        Plot(
            name="residuals",
            label=f"Residuals of the fit in percent against epochs, at most {100 * worst:.2g} %.",
            title="predicted over seen − 1, %",
            paint=left,
            header=_POINT_HEADER,
            rows=rows,
            half=True,
            keys=keys,
        ),
    ]


def _points(axes: Axes, canvas: Canvas, fit: FamilyFit, x: Floats, y: Floats) -> None:
    for index in range(len(fit.points)):
        [mark] = axes.plot([x[index]], [y[index]], MARKERS[fit.family])
        mark.set(color=canvas.palette.families[fit.family], markersize=5.5, alpha=0.85, zorder=3)
        mark.set(markeredgecolor=canvas.palette.paper, markeredgewidth=0.8)
        text = f"{_about(fit.points, index)}, predicted {fit.predicted[index]:.3f}"
        tip(mark, name_of(fit.points, index), text)


def law_plots(families: Families) -> dict[str, list[Plot]]:
    """The figures of each section; sections without data have none."""
    repetition = repetition_plot(families)
    return {
        "isoflop": isoflop_plots(families),
        "contours": contour_plots(families),
        "repetition": [repetition] if repetition else [],
        "quality": quality_plots(families),
    }


def constants_rows(families: Families) -> list[Sequence[str]]:
    """Per constant its name and each family's value with interval, or what is said of it."""
    names = list(dict.fromkeys(name for fit in families.values() for name in fit.constants))
    return [(name, *(_constant(fit, name) for fit in families.values())) for name in names]


def _constant(fit: FamilyFit, name: str) -> str:
    value, said = fit.constants.get(name), fit.constant_status.get(name)
    low, high = fit.intervals.get(name, (None, None))
    if said is None and low is not None and high is not None:
        said = f"{_short(low)} to {_short(high)}"
    if value is None:
        return said or "–"
    return _short(value) + (f" ({said})" if said else "")


def _short(value: float) -> str:
    return power_of_ten(float(f"{value:.4g}")) if value >= 1000 else f"{value:.4g}"

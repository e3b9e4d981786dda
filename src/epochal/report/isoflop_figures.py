"""Figures of equal compute: the loss against size, a curve per budget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from epochal.families import get_family
from epochal.report.figures import MARKERS, finish, logarithmic
from epochal.report.svg import Canvas, Cell, Plot, tip
from epochal.report.text.format import power_of_ten
from epochal.scaling.isoflop import Parabola
from epochal.scaling.result import FamilyFit
from epochal.units import format_count

_GRID = 60
_LINE = 1.1  # height of a label, in its letters


def isoflop_plots(families: Mapping[str, FamilyFit]) -> list[Plot]:
    """Per family the loss against size, a parabola per compute budget."""
    return [_isoflop_plot(fit) for fit in families.values() if fit.isoflop is not None]


def _isoflop_plot(fit: FamilyFit) -> Plot:
    assert fit.isoflop is not None
    parabolas = fit.isoflop.parabolas
    sizes = [n for parabola in parabolas for n in parabola.params]
    losses = [loss for parabola in parabolas for loss in parabola.loss]

    def paint(axes: Axes, canvas: Canvas) -> None:
        for number, parabola in enumerate(parabolas):
            _draw(axes, canvas, fit.family, parabola, 0.45 + 0.55 * (number + 1) / len(parabolas))
        logarithmic(axes, canvas, min(sizes), max(sizes) * 2.2, lambda x, _: format_count(x))
        finish(axes, min(losses), max(losses), "parameters N")
        _name_budgets(axes, canvas, parabolas)

    rows: list[list[Cell]] = [
        [fit.family, parabola.flops, n, loss, parabola.optimal_params, parabola.optimal_loss]
        for parabola in parabolas
        for n, loss in zip(parabola.params, parabola.loss, strict=True)
    ]
    keys = [(fit.family, MARKERS[fit.family], "a run")]
    if any(parabola.optimal_params is not None for parabola in parabolas):
        keys.append((fit.family, "-", "parabola of equal FLOPs"))
    if any(parabola.optimal_params is None for parabola in parabolas):
        keys.append((fit.family, ":", "no minimum"))
    return Plot(
        name=f"isoflop-{fit.family}",
        label=f"IsoFLOP curves, {get_family(fit.family).title}. "
        f"{'; '.join(map(_told, parabolas))}.",
        title=f"loss, nats per token – {get_family(fit.family).title}",
        paint=paint,
        header=("family", "flops", "params", "nats_per_token", "best_params", "best_loss"),
        rows=rows,
        half=True,
        keys=keys,
    )


def _draw(axes: Axes, canvas: Canvas, family: str, parabola: Parabola, alpha: float) -> None:
    """The runs of one budget and their parabola, or lines between them if it has no minimum."""
    colour = canvas.palette.families[family]
    best, lowest = parabola.optimal_params, parabola.optimal_loss
    if best is not None and lowest is not None:
        x = np.geomspace(parabola.params[0], parabola.params[-1], _GRID)
        y = lowest + parabola.curvature * np.log(x / best) ** 2
        [line] = axes.plot(x, y, color=colour, alpha=alpha, linewidth=1.6, zorder=3)
    else:
        [line] = axes.plot(parabola.params, parabola.loss, color=colour, alpha=alpha, zorder=3)
        line.set(linewidth=1.3, linestyle=(0, (1, 1.6)))
    tip(line, "", _told(parabola))
    for n, loss in zip(parabola.params, parabola.loss, strict=True):
        [mark] = axes.plot([n], [loss], MARKERS[family], color=colour, alpha=alpha)
        mark.set(markersize=5.5, markeredgecolor=canvas.palette.paper, markeredgewidth=0.8)
        mark.set(zorder=4)
        budget = _budget(parabola)
        tip(mark, "", f"{format_count(n)} parameters, {budget} FLOPs: {loss:.3f} nats")
    if best is not None and lowest is not None and not parabola.flags:
        [vertex] = axes.plot([best], [lowest], "|")
        vertex.set(color=canvas.palette.ink, markersize=9, markeredgewidth=1.4, zorder=5)


def _name_budgets(axes: Axes, canvas: Canvas, parabolas: list[Parabola]) -> None:
    """Each budget at the right end of its curve, moved up where another would cover it."""
    font = 0.8 * canvas.font
    taken = -np.inf
    for parabola in sorted(parabolas, key=lambda one: one.loss[-1]):
        end = (parabola.params[-1], parabola.loss[-1])
        x, y = axes.transData.transform(end)
        taken = max(float(y), taken + _LINE * font)
        axes.annotate(
            _budget(parabola),
            end,
            xytext=(float(x) + 9, taken),
            textcoords="figure pixels",
            fontsize=font,
            va="center",
        )


def _budget(parabola: Parabola) -> str:
    return power_of_ten(float(f"{parabola.flops:.2g}"))


def _told(parabola: Parabola) -> str:
    """ "10¹⁵ FLOPs: best size 2.1M"."""
    best = parabola.optimal_params
    size = "none" if best is None else format_count(best)
    if best is not None and not parabola.params[0] <= best <= parabola.params[-1]:
        size = "outside of those that were run"
    return f"{_budget(parabola)} FLOPs: best size {size}"


def isoflop_notes(families: Mapping[str, FamilyFit]) -> list[str]:
    """What the parabolas say of the best size, and what makes them doubtful."""
    notes = []
    for family, fit in families.items():
        if fit.isoflop is None:
            continue
        title = get_family(family).title.capitalize()
        if fit.isoflop.params_exponent is not None:
            notes.append(
                f"{title}: best size ∝ C^{fit.isoflop.params_exponent:.2f}, tokens ∝ "
                f"C^{fit.isoflop.tokens_exponent:.2f}."
            )
        notes += [
            f"{title} at {_budget(parabola)} FLOPs: {'; '.join(parabola.flags)}."
            for parabola in fit.isoflop.parabolas
            if parabola.flags
        ]
    return notes

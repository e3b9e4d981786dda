"""The plan on the page: a table, what a budget buys, and recipes ready to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from epochal.recipe import FAMILY_TITLES, recipe_toml
from epochal.report.figures import MARKERS, family_keys, finish, logarithmic
from epochal.report.svg import Canvas, Cell, Plot, tip
from epochal.report.text import power_of_ten
from epochal.scaling import FamilyFit
from epochal.scaling.optimum import optima
from epochal.scaling.plan_recipes import plan_recipe
from epochal.scaling.planner import FamilyPlan, PlanReport
from epochal.tally import Floats
from epochal.units import format_count

_GRID = 24
_SAMPLES = 60


def plan_rows(plan: PlanReport) -> list[list[str]]:
    """A line per family: best size, epochs, tokens, FLOPs and loss with its interval."""
    return [
        [
            FAMILY_TITLES[one.family],
            format_count(one.params) + (f" (ladder: {one.size.name})" if one.size else ""),
            f"{one.epochs:.3g}",
            format_count(one.tokens),
            power_of_ten(one.flops),
            f"{one.loss:.3f}{_interval(one)}",
        ]
        for one in plan.families
    ]


def _interval(plan: FamilyPlan) -> str:
    return "" if plan.interval is None else f" ({plan.interval[0]:.3f} to {plan.interval[1]:.3f})"


def plan_sentences(plan: PlanReport) -> list[str]:
    """What else is to be said: what lies outside of the runs, cheaper ways, the critical budget."""
    found = []
    for one in plan.families:
        title = FAMILY_TITLES[one.family].capitalize()
        found += [f"{title}: {text}." for text in one.extrapolates]
        if one.saturated:
            found.append(
                f"{title}: the budget is more than these tokens can use; "
                f"{power_of_ten(one.saturation_flops)} FLOPs come within 0.001 nats of the floor, "
                f"{one.floor:.3f}."
            )
        found += [
            f"{title}, {cheaper.what}: {format_count(cheaper.params)} parameters for "
            f"{cheaper.epochs:.3g} epochs ({power_of_ten(cheaper.flops)} FLOPs) reach "
            f"{cheaper.loss:.3f}."
            for cheaper in one.alternatives
        ]
    return [*found, *(f"{note[:1].upper()}{note[1:]}." for note in plan.notes)]


def plan_recipes(plan: PlanReport, vocabulary: int, corpus: str) -> list[tuple[str, str]]:
    """(family's title, recipe as TOML) of every family's best, the recommended one first."""
    order = sorted(plan.families, key=lambda one: (one.family != plan.winner, one.loss))
    return [
        (
            FAMILY_TITLES[one.family],
            recipe_toml(plan_recipe(one, plan.unique_tokens, vocabulary, corpus)).strip(),
        )
        for one in order
    ]


def budget_plot(plan: PlanReport, families: Mapping[str, FamilyFit]) -> Plot:
    """The best loss that each family can have for a budget, by the laws."""
    unique = plan.unique_tokens
    ends = [fit.fitted["flops"] for fit in families.values()]
    low, high = min(low for low, _ in ends), max(*(high for _, high in ends), plan.flops)
    if plan.critical_flops is not None and plan.critical_flops < 30 * high:
        high = max(high, 1.5 * plan.critical_flops)
    grid = np.geomspace(low, high, _GRID)
    lines = {family: _best(fit, grid, unique) for family, fit in families.items()}

    def paint(axes: Axes, canvas: Canvas) -> None:
        for family, (best, below, above) in lines.items():
            colour = canvas.palette.families[family]
            axes.fill_between(grid, below, above, color=colour, alpha=0.15, linewidth=0)
            [line] = axes.plot(grid, best, color=colour, linewidth=2, zorder=3)
            tip(line, "", f"{FAMILY_TITLES[family]}: best loss by the law")
        for one in plan.families:
            [mark] = axes.plot([one.flops], [one.loss], MARKERS[one.family])
            mark.set(color=canvas.palette.families[one.family], markersize=8, zorder=5)
            mark.set(markeredgecolor=canvas.palette.paper, markeredgewidth=1.2)
            tip(mark, "", f"{FAMILY_TITLES[one.family]}: {_told(one)}")
        if plan.critical_flops is not None and grid[0] < plan.critical_flops < grid[-1]:
            axes.axvline(plan.critical_flops, color=canvas.palette.muted, linewidth=1)
            axes.annotate(
                f"critical: {power_of_ten(plan.critical_flops)}",
                (plan.critical_flops, 0.99),
                xycoords=("data", "axes fraction"),
                xytext=(-5, 0),
                textcoords="offset points",
                ha="right",
                va="top",
            )
        values = np.concatenate([best for best, _, _ in lines.values()])
        logarithmic(axes, canvas, grid[0], grid[-1], lambda x, _: power_of_ten(x))
        finish(axes, float(values.min()), float(values.max()), "budget (FLOPs, 6·N·D)")

    rows: list[list[Cell]] = [
        [family, float(c), float(best), float(low), float(high)]
        for family, line in lines.items()
        for c, best, low, high in zip(grid, *line, strict=True)
    ]
    return Plot(
        name="budget",
        label=f"Best predicted loss against the budget. {plan.verdict}",
        title="best predicted NLL, nats per token",
        paint=paint,
        header=("family", "flops", "best_nats_per_token", "low", "high"),
        rows=rows,
        keys=family_keys(list(families)),
    )


def _told(plan: FamilyPlan) -> str:
    return (
        f"{plan.loss:.3f} nats with {format_count(plan.params)} parameters and {plan.epochs:.3g} "
        f"epochs ({power_of_ten(plan.flops)} FLOPs)"
    )


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


def plan_content(
    plan: PlanReport | None, recipe: Mapping[str, Any], vocabulary: int
) -> dict[str, Any] | None:
    """What the template takes; None without a plan. `recipe` is one of the runs'."""
    if plan is None:
        return None
    corpus = str(recipe.get("data", {}).get("corpus", "corpus"))
    recipes: Sequence[tuple[str, str]] = plan_recipes(plan, vocabulary, corpus)
    return {
        "verdict": plan.verdict,
        "budget": power_of_ten(plan.flops),
        "tokens": format_count(plan.unique_tokens),
        "rows": plan_rows(plan),
        "sentences": plan_sentences(plan),
        "recipes": recipes,
    }

"""The plan on the page: a table, what a budget buys, and recipes ready to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from epochal.errors import EpochalError
from epochal.estimates import Floats
from epochal.families import get_family
from epochal.recipe import recipe_toml
from epochal.report.collect import Run
from epochal.report.figures import MARKERS, family_keys, finish, logarithmic
from epochal.report.svg import Canvas, Cell, Plot, tip
from epochal.report.text.format import power_of_ten, printable, sentence
from epochal.scaling.optimum import optima
from epochal.scaling.plan_recipes import like_run, plan_recipe
from epochal.scaling.planner import FamilyPlan, PlanReport, row_notes
from epochal.scaling.result import FamilyFit
from epochal.units import format_count, format_epochs

_GRID = 24
_SAMPLES = 60


def plan_rows(plan: PlanReport) -> list[list[str]]:
    """A line per family: best size, epochs, tokens, FLOPs and loss with its interval."""
    return [
        [
            get_family(one.family).title,
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
        title = get_family(one.family).title.capitalize()
        found += [f"{title}: {text}." for text in one.extrapolation_warnings]
        if one.saturated:
            found.append(
                f"{title}: the budget is more than these tokens can use; "
                f"{power_of_ten(one.saturation_flops)} FLOPs come within 0.001 nats of the floor, "
                f"{one.floor:.3f}."
            )
        found += [
            f"{title}, {cheaper.what}: {format_count(cheaper.params)} parameters for "
            f"{format_epochs(cheaper.epochs)} ({power_of_ten(cheaper.flops)} FLOPs) reach "
            f"{cheaper.loss:.3f}."
            for cheaper in one.alternatives
        ]
    # The page's recipes have the rows of a run, so nothing is to be said of those.
    rows = row_notes(plan.families, plan.unique_tokens)
    return [*found, *(f"{sentence(note)}." for note in plan.notes if note not in rows)]


def plan_recipes(plan: PlanReport, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(family's title, recipe as TOML) of every family's best, the recommended one first.

    Settings other than size and length are those of the family's run of the nearest size, the
    best one of several.
    """
    order = sorted(plan.families, key=lambda one: (one.family != plan.winner, one.loss))
    return [(get_family(one.family).title, _recipe(one, plan, runs)) for one in order]


def _recipe(one: FamilyPlan, plan: PlanReport, runs: Sequence[Run]) -> str:
    vocabularies = [int(run.record.numbers.get("vocabulary") or 0) for run in runs]
    corpus = str(runs[0].recipe.get("data", {}).get("corpus", "corpus"))
    recipe = plan_recipe(one, plan.unique_tokens, max(vocabularies), corpus)
    alike = [run for run in runs if run.family == one.family and run.nll is not None]
    alike.sort(key=lambda run: (abs(np.log(run.params / one.params)), run.nll))
    for run in alike:
        try:
            recipe = like_run(recipe, run.record.recipe)
        except EpochalError:  # a record whose recipe knew other keys than today's
            continue
        label = " ".join(printable(run.label).split())  # one line, whatever a folder is called
        head = f"# All but size and length as in the run {label}.\n"
        return head + recipe_toml(recipe).strip()
    return recipe_toml(recipe).strip()


def budget_plot(plan: PlanReport, families: Mapping[str, FamilyFit]) -> Plot:
    """The best loss that each family can have for a budget, by the laws."""
    unique = plan.unique_tokens
    ends = [fit.fitted_range["flops"] for fit in families.values()]
    low = min(*(low for low, _ in ends), *(one.flops for one in plan.families))
    high = max(*(high for _, high in ends), plan.flops)
    if plan.critical_flops is not None and plan.critical_flops < 30 * high:
        high = max(high, 1.5 * plan.critical_flops)
    grid = np.geomspace(low, high, _GRID)
    lines = {family: _best(fit, grid, unique) for family, fit in families.items()}

    def paint(axes: Axes, canvas: Canvas) -> None:
        for family, (best, below, above) in lines.items():
            colour = canvas.palette.families[family]
            axes.fill_between(grid, below, above, color=colour, alpha=0.15, linewidth=0)
            [line] = axes.plot(grid, best, color=colour, linewidth=2, zorder=3)
            tip(line, "", f"{get_family(family).title}: best loss by the law")
        for one in plan.families:
            [mark] = axes.plot([one.flops], [one.loss], MARKERS[one.family])
            mark.set(color=canvas.palette.families[one.family], markersize=8, zorder=5)
            mark.set(markeredgecolor=canvas.palette.paper, markeredgewidth=1.2)
            tip(mark, "", f"{get_family(one.family).title}: {_told(one)}")
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
        logarithmic(axes, canvas, grid[0], grid[-1], lambda x, _: power_of_ten(x))
        finish(axes, *_height(list(lines.values())), "budget (FLOPs, 6·N·D)")

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


def _height(lines: Sequence[tuple[Floats, Floats, Floats]]) -> tuple[float, float]:
    """What the vertical axis shows: all lines, and of their bands up to as much again."""
    low, high = min(best.min() for best, _, _ in lines), max(best.max() for best, _, _ in lines)
    room = max(float(high - low), 0.02)
    bottom = max(low - room, min(below.min() for _, below, _ in lines))
    top = min(high + room, max(above.max() for _, _, above in lines))
    return float(bottom), float(top)


def _told(plan: FamilyPlan) -> str:
    return (
        f"{plan.loss:.3f} nats with {format_count(plan.params)} parameters and "
        f"{format_epochs(plan.epochs)} ({power_of_ten(plan.flops)} FLOPs)"
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


def plan_content(plan: PlanReport | None, runs: Sequence[Run]) -> dict[str, Any] | None:
    """What the template takes; None without a plan."""
    if plan is None:
        return None
    return {
        "verdict": plan.verdict,
        "budget": power_of_ten(plan.flops),
        "tokens": format_count(plan.unique_tokens),
        "rows": plan_rows(plan),
        "sentences": plan_sentences(plan),
        "recipes": plan_recipes(plan, runs),
    }

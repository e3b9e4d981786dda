"""Curves of runs: NLL against epochs and compute, and quality of texts against steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from epochal.estimates import Floats, Integers
from epochal.families import families, get_family
from epochal.report.collect import Group, Run, curve_crossings, frontier_leads, frontiers
from epochal.report.drawing import (
    DOTTED,
    Cell,
    Palette,
    Plot,
    add_legend,
    draw_point,
    log_axis,
    mark_flops,
    tip,
)
from epochal.report.text.format import power_of_ten
from epochal.units import format_count

_NLL = "validation NLL, nats per token"
_NLL_LABEL = "Validation NLL in nats per token"
_HEADER = ("run", "family", "params", "unique_tokens", "what", "epochs", "flops", "nats_per_token")
_DASHES: list[Any] = ["solid", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2))]
"""One per group; further ones are drawn as the last."""
_ORDER_STYLES = {"confidence": "-", "ancestral": "--", "margin": "-.", "entropy": ":"}
_MOST_LOSSES = 4
"""Training losses are drawn for up to this many runs: more would hide the curves."""
_MANY = 12
"""With more runs curves are drawn thinner, so that they can be distinguished."""
MOST_POINTS = 20_000
"""Points of curves on a page; more would make it too large to be mailed."""
_FEWEST_POINTS = 40
"""Of one run."""
_FEW = 6
"""Up to this many runs each curve is described in a figure's label, else each family's best."""


def curve_plots(groups: Sequence[Group]) -> dict[str, list[Plot]]:
    """The figures of each section; sections without data have none."""
    runs = [run for group in groups for run in group.runs]
    steps = _steps_plot(runs)
    validated = any(run.curve is not None for run in runs)
    return {
        "epochs": [_epochs_plot(groups)] if validated else [],
        "flops": [_flops_plot(groups)] if validated else [],
        "steps": [steps] if steps else [],
    }


def _epochs_plot(groups: Sequence[Group]) -> Plot:
    """Validation NLL (and, with few runs, training loss) against epochs."""
    runs = [run for group in groups for run in group.runs]
    curves = [run.curve for run in runs if run.curve is not None]
    low, high = _nll_range(runs)
    if show_losses(runs):
        least = min((run.loss[1].min() for run in runs if len(run.loss[1])), default=low)
        # A memorised text has a loss near 0, which must not flatten the curves.
        low = max(min(low, float(least)), low - 0.6 * (high - low))

    def paint(axes: Axes, palette: Palette) -> None:
        if show_losses(runs):
            for run in runs:
                kept = _thinned(run.loss[1], points_per_curve(runs))
                x, y = (values[kept] for values in run.loss)
                [line] = axes.plot(x, y, color=palette.families[run.family], alpha=0.35)
                line.set_linewidth(1)
                tip(line, run.label, f"{run.label}: training loss")
            add_legend(axes, "thin: training loss", color=palette.ink, linestyle="-", linewidth=1)
        _draw_curves(axes, palette, groups, "epochs")
        ends = [float(curve.epochs[-1]) for curve in curves]
        if max(ends) > 4 * min(ends):
            log_axis(axes, "x", min(float(curve.epochs[0]) for curve in curves), max(ends))
        else:
            axes.set_xlim(0, 1.02 * max(ends))

    return Plot(
        name="epochs",
        label=f"{_NLL_LABEL} against epochs. {_describe_curves(runs)}",
        title=_NLL,
        x_title="epochs (passes over the unique tokens)",
        paint=paint,
        families=[run.family for run in runs],
        height=(low, high),
        header=_HEADER,
        **_tables(runs, losses=True),
    )


def _flops_plot(groups: Sequence[Group]) -> Plot:
    """Validation NLL against compute, with frontiers and where the curves or they cross."""
    runs = [run for group in groups for run in group.runs]
    crossings, shown = curve_crossings(groups), frontiers(groups)

    def paint(axes: Axes, palette: Palette) -> None:
        curves = [run.curve for run in runs if run.curve is not None]
        left = min(float(curve.flops[0]) for curve in curves)
        ends = [float(curve.flops[-1]) for curve in curves]
        right = max([*ends, *(crossing.interval[1] for crossing in crossings)])
        _draw_curves(axes, palette, groups, "flops")
        for family, frontier in shown.items():
            _draw_frontier(axes, palette, family, frontier, right)
        if shown:
            add_legend(axes, "frontier", color=palette.ink, linestyle=DOTTED, linewidth=1.4)
        for crossing in crossings:
            axes.axvspan(*crossing.interval, color=palette.muted, alpha=0.15, linewidth=0)
            mark_flops(axes, palette, crossing.flops, "cross at")
        for lead in frontier_leads(groups):
            if lead.since is not None and not crossings:
                mark_flops(axes, palette, lead.since, "frontiers cross at", linestyle=(0, (4, 3)))
        log_axis(axes, "x", left, right, power_of_ten)

    most = power_of_ten(max(run.summary.flops_spent for run in runs))
    cross = [f"The curves cross at {power_of_ten(found.flops)} FLOPs." for found in crossings]
    about = f"{_NLL_LABEL} against training compute, up to {most} FLOPs."
    return Plot(
        name="flops",
        label=" ".join([about, _describe_curves(runs), *cross]),
        title=_NLL,
        x_title="training compute (FLOPs, 6·N·D)",
        paint=paint,
        families=[run.family for run in runs],
        height=_nll_range(runs),
        header=_HEADER,
        **_tables(runs, losses=False),
    )


def show_losses(runs: Sequence[Run]) -> bool:
    """Whether training losses are drawn."""
    return len(runs) <= _MOST_LOSSES and any(len(run.loss[0]) > 1 for run in runs)


def _nll_range(runs: Sequence[Run]) -> tuple[float, float]:
    """What the vertical axis shows: all but the first steep fall, with room for the errors."""
    nll = np.concatenate([run.curve.nll for run in runs if run.curve is not None])
    low, most = float(nll.min()), float(np.quantile(nll, 0.9))
    high = min(float(nll.max()), low + 1.6 * (most - low))
    for run in runs:
        if run.result is not None:
            value, error = run.result.nll_nats_per_token, run.result.standard_error
            low, high = min(low, value - error), max(high, value + error)
    return low, max(high, low + 0.02)


def _draw_curves(
    axes: Axes, palette: Palette, groups: Sequence[Group], along: Literal["epochs", "flops"]
) -> None:
    """Each run's curve and its best checkpoint: filled, with its error, if evaluated."""
    runs = [run for group in groups for run in group.runs]
    many, most = len(runs) > _MANY, points_per_curve(runs)
    width, alpha, size = (1.0, 0.45, 4.0) if many else (1.7, 1.0, 6.0)
    style: dict[str, Any] = {"linewidth": width, "alpha": alpha, "zorder": 3}
    for number, group in enumerate(groups):
        dashes = _DASHES[min(number, len(_DASHES) - 1)]
        for run in group.runs:
            if run.curve is None or run.best is None or run.nll is None:
                continue
            color, kept = palette.families[run.family], _thinned(run.curve.nll, most)
            x = (run.curve.epochs if along == "epochs" else run.curve.flops)[kept]
            [line] = axes.plot(x, run.curve.nll[kept], color=color, linestyle=dashes, **style)
            at, filled = run.best[0 if along == "epochs" else 1], run.result is not None
            if run.result is not None:
                axes.errorbar(at, run.nll, run.result.standard_error, color=color, zorder=5)
            about = _describe_run(run)
            tip(line, run.label, about)
            face, edge = (color, palette.paper) if filled else (palette.paper, color)
            colors = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": 1.1}
            marker = colors | {"markersize": size, "zorder": 6}
            draw_point(axes, run.family, (at, run.nll), run.label, about, **marker)


def _draw_frontier(
    axes: Axes, palette: Palette, family: str, frontier: tuple[Floats, Floats], right: float
) -> None:
    """A family's frontier, extended to the right: what was reached stays reached."""
    flops, nll = np.append(frontier[0], right), np.append(frontier[1], frontier[1][-1])
    [line] = axes.step(flops, nll, where="post", color=palette.ink, linewidth=1.4, zorder=4)
    line.set_linestyle(DOTTED)
    title = get_family(family).title
    tip(line, "", f"{title}: lowest loss by each compute, {nll[-1]:.3f} at last")


def _describe_run(run: Run) -> str:
    """A run in one line."""
    facts = [
        get_family(run.family).title,
        f"{format_count(run.params)} parameters",
        f"{format_count(run.unique_tokens)} unique tokens",
        f"{run.summary.epochs_seen:.3g} epochs",
        f"{power_of_ten(run.summary.flops_spent)} FLOPs",
    ]
    if run.nll is not None and run.best is not None:
        error = "" if run.result is None else f" ± {run.result.standard_error:.3f}"
        facts.append(f"best {run.nll:.3f}{error} at epoch {run.best[0]:.3g}")
    return f"{run.label}: {', '.join(facts)}"


def _describe_curves(runs: Sequence[Run]) -> str:
    sentences = []
    drawn = [run for run in runs if run.nll is not None and run.best is not None]
    for family in families():
        members = [run for run in drawn if run.family == family.name]
        if len(drawn) > _FEW and members:
            sentences.append(f"{len(members)} {family.title} runs, the best of which:")
            members = [min(members, key=lambda run: run.nll or 0.0)]
        for run in members:
            at = f" at epoch {run.best[0]:.1f}" if run.best is not None else ""
            text = f"{run.label} ({family.title}): best {run.nll:.3f}{at}"
            if run.curve is not None:
                text += f", {run.curve.nll[-1]:.3f} at the end, epoch {run.curve.epochs[-1]:.1f}"
            sentences.append(f"{text}.")
    return " ".join(sentences)


def _tables(runs: Sequence[Run], losses: bool) -> dict[str, Any]:
    """`rows` of all points, and `page_rows` if that is more than the page can carry."""
    most = points_per_curve(runs)
    fewer = None if most is None else _curve_rows(runs, losses, most)
    return {"rows": _curve_rows(runs, losses, None), "page_rows": fewer}


def _curve_rows(runs: Sequence[Run], losses: bool, most: int | None) -> list[list[Cell]]:
    """At most `most` points of each curve, and the evaluated best checkpoints."""
    rows: list[list[Cell]] = []
    for run in runs:
        head: list[Cell] = [run.label, run.family, run.params, run.unique_tokens]
        curve = run.curve
        if curve is not None:
            for at in _thinned(curve.nll, most).tolist():
                point = (float(curve.epochs[at]), float(curve.flops[at]), float(curve.nll[at]))
                rows.append([*head, "validation", *point])
        if losses and len(run.loss[0]):
            per_epoch = float(run.record.numbers["flops"]) / float(run.record.numbers["epochs"])
            for at in _thinned(run.loss[1], most).tolist():
                epoch, loss = float(run.loss[0][at]), float(run.loss[1][at])
                rows.append([*head, "training", epoch, epoch * per_epoch, loss])
        if run.result is not None and run.best is not None and run.nll is not None:
            rows.append([*head, "best, evaluated", *run.best, run.nll])
    return rows


def points_per_curve(runs: Sequence[Run]) -> int | None:
    """How many points of each curve a page carries; None where it carries all."""
    lengths = [len(run.curve.nll) for run in runs if run.curve is not None]
    lengths += [len(run.loss[0]) for run in runs if len(run.loss[0])]
    if sum(lengths) <= MOST_POINTS:
        return None
    return max(_FEWEST_POINTS, MOST_POINTS // len(lengths))


def _thinned(values: Floats, most: int | None) -> Integers:
    """Indices of about `most` of the values, rising: the first, the last, and of each of as many
    equal parts the lowest and the highest, so that no turn and no spike is lost."""
    if most is None or len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), max(2, most // 2) + 1).astype(int)
    kept = {0, len(values) - 1}
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[low:high]
        kept |= {low + int(part.argmin()), low + int(part.argmax())}
    return np.array(sorted(kept))


def _steps_plot(runs: Sequence[Run]) -> Plot | None:
    """NLL of generated texts by their judge against forward passes; None without any."""
    results = [(run, result) for run in runs for result in run.record.quality()]
    for _, result in results:
        result["rows"].sort(key=lambda row: row["steps"])
    if not results:
        return None
    reference = next((r["reference"] for _, r in results if r.get("reference")), None)
    real = [reference["nll_nats_per_token"]] if reference else []
    steps = [row["steps"] for _, result in results for row in result["rows"]]
    losses = [row["nll_nats_per_token"] for _, result in results for row in result["rows"]]

    def paint(axes: Axes, palette: Palette) -> None:
        for run, result in results:
            _draw_quality(axes, palette, run, result)
        for nll in real:
            line = axes.axhline(nll, color=palette.muted, linewidth=1)
            tip(line, "", f"real text: {nll:.3f} nats per token by the same judge")
        if max(steps) > min(steps):
            log_axis(axes, "x", min(steps), max(steps))

    columns = ("steps", "nll_nats_per_token", "distinct_2", "repetition")
    return Plot(
        name="steps",
        label="NLL of generated texts against the number of steps",
        title="NLL of its texts by the judge, nats per token",
        x_title="forward passes (steps)",
        paint=paint,
        families=[run.family for run, _ in results],
        height=(min([*losses, *real]), max([*losses, *real])),
        header=("run", "family", "order", "judge", *columns),
        rows=[
            [run.label, run.family, result["order"], result["judge"], *(row[c] for c in columns)]
            for run, result in results
            for row in result["rows"]
        ],
    )


def _draw_quality(axes: Axes, palette: Palette, run: Run, result: dict[str, Any]) -> None:
    """Quality of one run's texts, written in one order of unmasking."""
    rows, color = result["rows"], palette.families[run.family]
    x = [row["steps"] for row in rows]
    y = [row["nll_nats_per_token"] for row in rows]
    error = [row.get("standard_error") or 0.0 for row in rows]
    style: dict[str, Any] = {"linestyle": _ORDER_STYLES.get(result["order"], "-"), "linewidth": 1.4}
    axes.errorbar(x, y, yerr=error, color=color, **style)
    about = f"{result['order']}, checkpoint {result['checkpoint']}, judged by {result['judge']}"
    for row, steps, nll in zip(rows, x, y, strict=True):
        variety = f"distinct-2 {row['distinct_2']:.2f}, repetition {row['repetition']:.2f}"
        text = f"{steps} steps ({about}): {nll:.3f} nats, {variety}"
        draw_point(axes, run.family, (steps, nll), run.label, text, color=color, markersize=5)

"""Validation NLL against epochs and against training compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from epochal.comparison import Curve, Meeting
from epochal.estimates import Floats
from epochal.families import family_names, get_family
from epochal.report.collect import Run
from epochal.report.curve_table import HEADER, curve_rows, fewer_rows, points_of_a_curve, thinned
from epochal.report.svg import Canvas, Plot, tip
from epochal.report.text.format import power_of_ten
from epochal.report.verdicts import Group
from epochal.runs.curves import pareto_frontier
from epochal.units import format_count

Axis = Literal["epochs", "flops"]
MARKERS = {"ar": "o", "mdm": "D"}
NLL = "validation NLL, nats per token"
DASHES: list[str | tuple[int, tuple[float, ...]]] = [
    "solid",
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (7, 2, 1.5, 2)),
]
"""One per number of unique tokens; further ones are drawn as the last."""
MOST_LOSSES = 4
"""Training losses are drawn for up to so many runs: more would hide the curves."""
FEW = 6
"""Up to so many runs a curve is told one by one in the figure's description."""


def family_keys(families: Sequence[str]) -> list[tuple[str, str, str]]:
    """What explains the marks of the families that there are."""
    return [(f, MARKERS[f], get_family(f).title) for f in family_names() if f in families]


def epochs_figure(groups: Sequence[Group]) -> Plot:
    """Validation NLL (and, of a few runs, training loss) against epochs."""
    runs = [run for group in groups for run in group.runs]

    def paint(axes: Axes, canvas: Canvas) -> None:
        low, high = nll_range(runs)
        if show_losses(runs):
            least = min((run.loss[1].min() for run in runs if len(run.loss[1])), default=low)
            # A memorised text has a loss near 0, which must not flatten the curves.
            low = max(min(low, float(least)), low - 0.6 * (high - low))
            for run in runs:
                colour = canvas.palette.families[run.family]
                kept = thinned(run.loss[1], points_of_a_curve(runs))
                [line] = axes.plot(
                    *(values[kept] for values in run.loss), color=colour, linewidth=1, alpha=0.35
                )
                tip(line, run.label, f"{run.label}: training loss")
        _curves(axes, canvas, groups, "epochs")
        ends = [run.epochs for run in runs if run.curve is not None]
        if max(ends) > 4 * min(ends):
            starts = [float(run.curve.epochs[0]) for run in runs if run.curve is not None]
            logarithmic(axes, canvas, min(starts), max(ends), lambda x, _: f"{x:g}")
        else:
            axes.set_xlim(0, 1.02 * max(ends))
            axes.xaxis.set_major_locator(MaxNLocator(canvas.ticks, integer=max(ends) > 3))
        finish(axes, low, high, "epochs (passes over the unique tokens)")

    keys = family_keys([run.family for run in runs])
    if show_losses(runs):
        keys.append(("", "-", "thin: training loss"))
    return Plot(
        name="epochs",
        label=_epochs_label(runs),
        title=NLL,
        paint=paint,
        header=HEADER,
        rows=curve_rows(runs, losses=True),
        fewer=fewer_rows(runs, losses=True),
        keys=keys,
    )


def flops_figure(groups: Sequence[Group]) -> Plot:
    """Validation NLL against compute, with the frontier and the meeting point, if any."""
    runs = [run for group in groups for run in group.runs]
    meeting = the_meeting(groups)
    crossing = frontier_crossing(groups) if meeting is None else None

    def paint(axes: Axes, canvas: Canvas) -> None:
        curves = [run.curve for run in runs if run.curve is not None]
        low, high = nll_range(runs)
        left = min(float(curve.flops[0]) for curve in curves)
        right = max(float(curve.flops[-1]) for curve in curves)
        if meeting is not None:
            right = max(right, meeting.interval[1])
        _curves(axes, canvas, groups, "flops")
        if comparable(groups):
            for family, reached in frontiers(runs).items():
                if family in several(runs):
                    _frontier(axes, canvas, family, reached, right)
        if crossing is not None:
            axes.axvline(crossing, color=canvas.palette.muted, linewidth=1, linestyle=(0, (4, 3)))
            _note(axes, crossing, f"frontiers cross at {power_of_ten(crossing)}")
        if meeting is not None:
            _mark_meeting(axes, canvas, meeting)
        logarithmic(axes, canvas, left, right, lambda x, _: power_of_ten(x))
        finish(axes, low, high, "training compute (FLOPs, 6·N·D)")

    keys = family_keys([run.family for run in runs])
    if comparable(groups) and several(runs):
        keys.append(("", ":", "frontier"))
    return Plot(
        name="flops",
        label=_flops_label(runs, meeting),
        title=NLL,
        paint=paint,
        header=HEADER,
        rows=curve_rows(runs, losses=False),
        fewer=fewer_rows(runs, losses=False),
        keys=keys,
    )


def several(runs: Sequence[Run]) -> list[str]:
    """Families with more than one curve: of a single one the frontier is the curve."""
    curves = [run.family for run in runs if run.curve is not None]
    return [family for family in family_names() if curves.count(family) > 1]


def frontiers(runs: Sequence[Run]) -> dict[str, tuple[Floats, Floats]]:
    """Per family (flops, nll): the lowest NLL that any of its runs had by each compute."""
    found: dict[str, tuple[Floats, Floats]] = {}
    for family in family_names():
        curves = [run.curve for run in runs if run.family == family and run.curve is not None]
        if curves:
            found[family] = pareto_frontier(curves)
    return found


def frontier_crossing(groups: Sequence[Group]) -> float | None:
    """FLOPs from which diffusion's frontier lies below AR's; None if it does not to the end.

    Only of one group with several runs of each family: with one of each, the verdict tells
    where the two curves meet, with an interval.
    """
    runs = [run for group in groups for run in group.runs]
    found = frontiers(runs)
    if len(groups) != 1 or len(several(runs)) < len(family_names()):
        return None
    (ar_flops, ar_nll), (mdm_flops, mdm_nll) = found["ar"], found["mdm"]
    grid = np.union1d(ar_flops, mdm_flops)
    grid = grid[grid >= max(ar_flops[0], mdm_flops[0])]
    # A frontier is a staircase: what was reached by a compute stays reached.
    ar = ar_nll[np.searchsorted(ar_flops, grid, side="right") - 1]
    mdm = mdm_nll[np.searchsorted(mdm_flops, grid, side="right") - 1]
    behind = np.flatnonzero(mdm >= ar)
    if not len(behind) or behind[-1] + 1 >= len(grid):
        return None
    return float(grid[behind[-1] + 1])


def critical_words(groups: Sequence[Group]) -> str:
    """What the figure against compute shows of the critical point; empty where none is sought."""
    if the_meeting(groups) is not None:
        return "The grey line is where the two curves meet, the band its 90 % interval."
    if frontier_crossing(groups) is not None:
        return "The grey line is the critical compute: from there on diffusion's frontier is lower."
    runs = [run for group in groups for run in group.runs]
    if len(groups) != 1 or len(several(runs)) < len(family_names()):
        return ""
    last = {family: nll[-1] for family, (_, nll) in frontiers(runs).items()}
    if last["mdm"] < last["ar"]:
        return "Diffusion's frontier is the lower one at every compute that both families have."
    return "Diffusion's frontier stays above AR's: no critical compute within these runs."


def _frontier(
    axes: Axes, canvas: Canvas, family: str, reached: tuple[Floats, Floats], right: float
) -> None:
    """A family's frontier, carried on to the right: what was reached stays reached."""
    flops, nll = np.append(reached[0], right), np.append(reached[1], reached[1][-1])
    [line] = axes.step(flops, nll, where="post", color=canvas.palette.ink, linewidth=1.4, zorder=4)
    line.set_linestyle((0, (1, 1.6)))
    tip(line, "", f"{get_family(family).title}: lowest loss by each compute, {nll[-1]:.3f} at last")


def show_losses(runs: Sequence[Run]) -> bool:
    """Whether training losses are drawn."""
    return len(runs) <= MOST_LOSSES and any(len(run.loss[0]) > 1 for run in runs)


def comparable(groups: Sequence[Group]) -> bool:
    """Whether all runs were judged on the same tokens, so that a common frontier makes sense."""
    return len({run.corpus[1] for group in groups for run in group.runs}) == 1


def the_meeting(groups: Sequence[Group]) -> Meeting | None:
    """The meeting point, if all runs are one group and it is known."""
    comparison = groups[0].comparison
    return comparison.meeting if comparison is not None and len(groups) == 1 else None


def nll_range(runs: Sequence[Run]) -> tuple[float, float]:
    """What the vertical axis shows: all but the first steep fall, with room for the errors."""
    nll = np.concatenate([run.curve.nll for run in runs if run.curve is not None])
    low, most = float(nll.min()), float(np.quantile(nll, 0.9))
    high = min(float(nll.max()), low + 1.6 * (most - low))
    for run in runs:
        if run.result is not None:
            value, error = run.result.nll_nats_per_token, run.result.standard_error
            low, high = min(low, value - error), max(high, value + error)
    return low, max(high, low + 0.02)


def _curves(axes: Axes, canvas: Canvas, groups: Sequence[Group], axis: Axis) -> None:
    # Many curves are drawn thinner, so that they can be told apart.
    runs = [run for group in groups for run in group.runs]
    many, most = len(runs) > 12, points_of_a_curve(runs)
    for number, group in enumerate(groups):
        dashes = DASHES[min(number, len(DASHES) - 1)]
        for run in group.runs:
            if run.curve is None:
                continue
            kept = thinned(run.curve.nll, most)
            [line] = axes.plot(
                _along(run.curve, axis)[kept],
                run.curve.nll[kept],
                color=canvas.palette.families[run.family],
                linewidth=1.2 if many else 2,
                alpha=0.45 if many else 1,
                linestyle=dashes,
                solid_joinstyle="round",
                zorder=3,
            )
            tip(line, run.label, described(run))
            _mark_best(axes, canvas, run, axis, 5.5 if many else 8)


def described(run: Run) -> str:
    """A run in one line, as it is shown under the pointer."""
    facts = [
        get_family(run.family).title,
        f"{format_count(run.params)} parameters",
        f"{format_count(run.unique_tokens)} unique tokens",
        f"{run.epochs:.3g} epochs",
        f"{power_of_ten(run.flops)} FLOPs",
    ]
    if run.nll is not None and run.best is not None:
        error = "" if run.result is None else f" ± {run.result.standard_error:.3f}"
        facts.append(f"best {run.nll:.3f}{error} at epoch {run.best[0]:.3g}")
    return f"{run.label}: {', '.join(facts)}"


def _along(curve: Curve, axis: Axis) -> Floats:
    return curve.epochs if axis == "epochs" else curve.flops


def _mark_best(axes: Axes, canvas: Canvas, run: Run, axis: Axis, size: float) -> None:
    """A filled point with its error where the best checkpoint was evaluated, else a hollow one."""
    assert run.best is not None
    assert run.nll is not None
    paper, colour = canvas.palette.paper, canvas.palette.families[run.family]
    x = run.best[0 if axis == "epochs" else 1]
    if run.result is not None:
        error = run.result.standard_error
        ends = [run.nll - error, run.nll + error]
        axes.plot([x, x], ends, color=colour, linewidth=1.4, zorder=5, solid_capstyle="butt")
    [mark] = axes.plot(
        [x],
        [run.nll],
        marker=MARKERS[run.family],
        markersize=size * (0.85 if MARKERS[run.family] == "D" else 1),
        markerfacecolor=paper if run.result is None else colour,
        markeredgecolor=colour if run.result is None else paper,
        markeredgewidth=1.5,
        zorder=6,
    )
    tip(mark, run.label, described(run))


def _mark_meeting(axes: Axes, canvas: Canvas, meeting: Meeting) -> None:
    muted = canvas.palette.muted
    axes.axvspan(*meeting.interval, color=muted, alpha=0.15, linewidth=0)
    axes.axvline(meeting.flops, color=muted, linewidth=1)
    _note(axes, meeting.flops, f"meet at {power_of_ten(meeting.flops)}")


def _note(axes: Axes, flops: float, text: str) -> None:
    """A word beside a vertical line."""
    axes.annotate(
        text,
        (flops, 0.99),
        xycoords=("data", "axes fraction"),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        va="top",
    )


def logarithmic(
    axes: Axes,
    canvas: Canvas,
    left: float,
    right: float,
    label: Callable[[float, int], str],
    vertical: bool = False,
) -> None:
    """Make the horizontal (or vertical) axis logarithmic, with a few round numbers."""
    margin = max((right / left) ** 0.03, 1.05)
    left, right = left / margin, right * margin
    axis = axes.yaxis if vertical else axes.xaxis
    (axes.set_yscale if vertical else axes.set_xscale)("log")
    (axes.set_ylim if vertical else axes.set_xlim)(left, right)
    axis.set_major_locator(FixedLocator(round_numbers(left, right, canvas.ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(label))


def round_numbers(left: float, right: float, most: int) -> list[float]:
    """Round numbers between `left` and `right`: as many as there can be, but not above `most`."""
    decades = range(int(np.floor(np.log10(left))), int(np.ceil(np.log10(right))) + 1)
    for leading in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [n * 10.0**d for d in decades for n in leading if left <= n * 10.0**d <= right]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def finish(axes: Axes, low: float, high: float, title: str) -> None:
    """The ends of the vertical axis, and what the horizontal one measures."""
    room = 0.06 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(title, labelpad=6)


def _epochs_label(runs: Sequence[Run]) -> str:
    return f"Validation NLL in nats per token against epochs. {_told(runs)}"


def _flops_label(runs: Sequence[Run], meeting: Meeting | None) -> str:
    ends = f"up to {power_of_ten(max(run.flops for run in runs))} FLOPs"
    met = f" The curves meet at {power_of_ten(meeting.flops)} FLOPs." if meeting else ""
    return f"Validation NLL in nats per token against training compute, {ends}. {_told(runs)}{met}"


def _told(runs: Sequence[Run]) -> str:
    """The main numbers of the curves, in words."""
    drawn = [run for run in runs if run.nll is not None]
    sentences = []
    for family in family_names():
        members = [run for run in drawn if run.family == family]
        if len(drawn) > FEW and members:
            members = [min(members, key=lambda run: run.nll or 0.0)]
            count = sum(run.family == family for run in drawn)
            sentences.append(f"{count} {get_family(family).title} runs, the best of which:")
        for run in members:
            assert run.curve is not None or run.result is not None
            assert run.best is not None
            sentence = f"{run.label} ({get_family(family).title}): best {run.nll:.3f}"
            sentence += f" at epoch {run.best[0]:.1f}"
            if run.curve is not None:
                sentence += (
                    f", {run.curve.nll[-1]:.3f} at the end, epoch {run.curve.epochs[-1]:.1f}"
                )
            sentences.append(f"{sentence}.")
    return " ".join(sentences)

"""The plot of `epochal memorise`: gap and extraction by epoch, extraction by prefix,
exposure by repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epochal import files
from epochal.families import get_family
from epochal.memorisation.analysis import best_of
from epochal.memorisation.results import CHANCE_EXPOSURE, CheckpointResult, Extraction

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def write_plot(
    folder: Path,
    measured: Sequence[CheckpointResult],
    logged: Mapping[str, Sequence[tuple[float, float]]],
    length: int,
) -> None:
    """memorise.svg and memorise.png in `folder`. `logged`: (epochs, gap) by the runs' logs."""
    runs: dict[str, list[CheckpointResult]] = {}
    for one in measured:
        runs.setdefault(one.run, []).append(one)
    canaries = any(one.canaries for one in measured)
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "epochal", "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.5, 7.2) if canaries else (12, 3.8), layout="constrained")
        panels = list(figure.subplots(2, 2).flat if canaries else figure.subplots(1, 3))
        styles = run_styles([checkpoints[0].family for checkpoints in runs.values()])
        for (name, checkpoints), style in zip(runs.items(), styles, strict=True):
            _gap(panels[0], name, checkpoints, style)
            if logged.get(name):
                epochs, gaps = zip(*logged[name], strict=True)
                panels[0].plot(epochs, gaps, color=style["color"], linewidth=0.9, linestyle="--")
            best = best_of(checkpoints)
            _extraction_by_epoch(panels[1], checkpoints, best, style)
            last = checkpoints[-1].extraction
            _rates(panels[2], [one.prefix for one in last], last, style)
            if canaries:
                _exposure(panels[3], checkpoints[-1], {"mfc": style["color"]} | style)
                if best is not checkpoints[-1]:
                    _exposure(panels[3], best, {"mfc": "none", "alpha": 0.7} | style)
        _titles(panels, measured[0].extraction[-1].prefix, length, canaries)
        for suffix in ("svg", "png"):
            path = folder / f"memorise.{suffix}"
            with files.atomic_path(path) as temporary, temporary.open("wb") as file:
                more = {"metadata": {"Date": None}} if suffix == "svg" else {"dpi": 150}
                figure.savefig(file, format=suffix, **more)


def run_styles(names: Sequence[str]) -> list[dict[str, Any]]:
    """Colour and marker of each run, given the runs' families: the family's own marker for its
    first run, then one that no run has yet (they repeat with more than eight runs)."""
    styles: list[dict[str, Any]] = []
    for family in map(get_family, names):
        used = [style["marker"] for style in styles]
        marker = min((family.marker, *_MARKERS), key=used.count)
        styles.append({"color": family.color, "marker": marker})
    return styles


def _gap(axes: Axes, name: str, checkpoints: list[CheckpointResult], style: dict[str, Any]) -> None:
    epochs = [one.epochs for one in checkpoints]
    errors = [one.gap_error for one in checkpoints]
    axes.errorbar(
        epochs, [one.gap for one in checkpoints], yerr=errors, label=name, capsize=2, **style
    )


def _extraction_by_epoch(
    axes: Axes, checkpoints: list[CheckpointResult], best: CheckpointResult, style: dict[str, Any]
) -> None:
    """At the longest prefix; a line stands at the epoch of the best checkpoint."""
    epochs = [one.epochs for one in checkpoints]
    found = [one.extraction[-1] for one in checkpoints]
    _rates(axes, epochs, found, style)
    axes.axvline(best.epochs, color=style["color"], linewidth=0.8, linestyle="-.")


def _rates(
    axes: Axes, at: Sequence[float], found: Sequence[Extraction], style: dict[str, Any]
) -> None:
    rates = np.array([one.train_rate for one in found])
    low, high = np.array([one.train_interval for one in found]).T
    axes.errorbar(
        at, 100 * rates, yerr=100 * np.array([rates - low, high - rates]), capsize=2, **style
    )
    control = [
        (x, 100 * one.validation_rate)
        for x, one in zip(at, found, strict=True)
        if one.validation_rate is not None
    ]
    if control:
        axes.plot(*zip(*control, strict=True), linestyle=":", mfc="none", **style)


def _exposure(axes: Axes, one: CheckpointResult, style: dict[str, Any]) -> None:
    """Each canary, and a line through the means by copies."""
    axes.plot(
        [canary.seen for canary in one.canaries],
        [canary.exposure_fitted for canary in one.canaries],
        linestyle="none",
        markersize=4,
        **style,
    )
    groups = one.exposure_by_copies
    means = [((group.min_copies + group.max_copies) / 2, group.mean) for group in groups]
    axes.plot(*zip(*means, strict=True), color=style["color"], linewidth=0.9)


def _titles(panels: Sequence[Axes], prefix: int, length: int, canaries: bool) -> None:
    panels[0].set(
        title="Validation minus training NLL",
        xlabel="epochs (dashed: by the log of training)",
        ylabel="nats per token",
    )
    panels[0].axhline(0, color="0.7", linewidth=0.8)
    panels[0].legend(frameon=False)
    panels[1].set(
        title=f"Next {length} tokens verbatim after {prefix}",
        xlabel="epochs (dotted: validation text; upright: best)",
        ylabel="% of prefixes",
    )
    panels[2].set(
        title=f"Next {length} tokens verbatim, last checkpoint",
        xlabel="prefix, tokens (dotted: validation text)",
        ylabel="% of prefixes",
    )
    panels[2].set_xscale("log", base=2)
    panels[2].xaxis.set_major_formatter("{x:.0f}")
    for axes in panels[1:3]:
        axes.set_ylim(bottom=-1)
    if canaries:
        panels[3].set(
            title="Canary exposure",
            xlabel="copies in the training text (open: best checkpoint)",
            ylabel="bits",
        )
        panels[3].axhline(CHANCE_EXPOSURE, color="0.7", linewidth=0.8, linestyle="--")
    for axes in panels:
        axes.spines[["right", "top"]].set_visible(False)

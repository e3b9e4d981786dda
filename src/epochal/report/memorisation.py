"""The plot of `epochal memorise`: gap by epoch, extraction by prefix, exposure by repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epochal import files
from epochal.analysis.memorisation import CHANCE_EXPOSURE, Measured

_COLOURS = {"ar": "#b3541e", "mdm": "#1f6f8b"}
_MARKS = ("o", "s", "^", "D", "v", "P")


def write_plot(
    folder: Path,
    measured: Sequence[Measured],
    logged: Mapping[str, Sequence[tuple[float, float]]],
    length: int,
) -> None:
    """memorise.svg and memorise.png in `folder`. `logged`: (epochs, gap) by the runs' logs."""
    runs: dict[str, list[Measured]] = {}
    for one in measured:
        runs.setdefault(one.run, []).append(one)
    canaries = any(one.canaries for one in measured)
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "epochal", "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(12 if canaries else 8.5, 3.8), layout="constrained")
        panels = figure.subplots(1, 3 if canaries else 2)
        for number, (name, checkpoints) in enumerate(runs.items()):
            style = {
                "color": _COLOURS.get(checkpoints[0].family, "0.3"),
                "marker": _MARKS[number % len(_MARKS)],
            }
            _gap(panels[0], name, checkpoints, style)
            if logged.get(name):
                epochs, gaps = zip(*logged[name], strict=True)
                panels[0].plot(epochs, gaps, color=style["color"], linewidth=0.9, linestyle="--")
            _extraction(panels[1], checkpoints[-1], style)
            if canaries:
                _exposure(panels[2], checkpoints[-1], style)
        _titles(panels, length, canaries)
        for suffix in ("svg", "png"):
            path = folder / f"memorise.{suffix}"
            with files.atomic_path(path) as temporary, temporary.open("wb") as file:
                more = {"metadata": {"Date": None}} if suffix == "svg" else {"dpi": 150}
                figure.savefig(file, format=suffix, **more)


def _gap(axes: Axes, name: str, checkpoints: list[Measured], style: dict[str, Any]) -> None:
    epochs = [one.epochs for one in checkpoints]
    errors = [float(np.hypot(one.train_error, one.validation_error)) for one in checkpoints]
    axes.errorbar(
        epochs, [one.gap for one in checkpoints], yerr=errors, label=name, capsize=2, **style
    )


def _extraction(axes: Axes, last: Measured, style: dict[str, Any]) -> None:
    found = last.extraction
    prefixes = [one.prefix for one in found]
    rates = np.array([one.train for one in found])
    low, high = np.array([one.train_interval for one in found]).T
    axes.errorbar(
        prefixes, 100 * rates, yerr=100 * np.array([rates - low, high - rates]), capsize=2, **style
    )
    control = [(one.prefix, 100 * one.validation) for one in found if one.validation is not None]
    if control:
        axes.plot(*zip(*control, strict=True), linestyle=":", mfc="none", **style)


def _exposure(axes: Axes, last: Measured, style: dict[str, Any]) -> None:
    seen = [one.seen for one in last.canaries]
    axes.plot(seen, [one.exposure_fitted for one in last.canaries], linestyle="none", **style)


def _titles(panels: Sequence[Axes], length: int, canaries: bool) -> None:
    panels[0].set(
        title="Validation minus training NLL",
        xlabel="epochs (dashed: by the log of training)",
        ylabel="nats per token",
    )
    panels[0].axhline(0, color="0.7", linewidth=0.8)
    panels[0].legend(frameon=False)
    panels[1].set(
        title=f"Next {length} tokens word for word",
        xlabel="prefix, tokens (dotted: validation text)",
        ylabel="% of places",
    )
    panels[1].set_xscale("log", base=2)
    panels[1].xaxis.set_major_formatter("{x:.0f}")
    panels[1].set_ylim(bottom=-1)
    if canaries:
        panels[2].set(title="Canary exposure", xlabel="copies in the training text", ylabel="bits")
        panels[2].axhline(CHANCE_EXPOSURE, color="0.7", linewidth=0.8, linestyle="--")
    for axes in panels:
        axes.spines[["right", "top"]].set_visible(False)

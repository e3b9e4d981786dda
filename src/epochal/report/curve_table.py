"""The numbers behind the curves, as a table: all of them, or as many as a page can carry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epochal.estimates import Floats, Integers
from epochal.report.collect import Run
from epochal.report.svg import Cell

HEADER = ("run", "family", "params", "unique_tokens", "what", "epochs", "flops", "nats_per_token")
MOST_POINTS = 20_000
"""Points of curves on a page; more would make it too large to be mailed."""
FEWEST_OF_A_RUN = 40


def curve_rows(runs: Sequence[Run], losses: bool, most: int | None = None) -> list[list[Cell]]:
    """The points of all curves, and the evaluated best checkpoints.

    `losses`: the training losses, too. `most`: points of one curve at most.
    """
    rows: list[list[Cell]] = []
    for run in runs:
        head: list[Cell] = [run.label, run.family, run.params, run.unique_tokens]
        curve = run.curve
        if curve is not None:
            for at in thinned(curve.nll, most).tolist():
                point = (float(curve.epochs[at]), float(curve.flops[at]), float(curve.nll[at]))
                rows.append([*head, "validation", *point])
        if losses and len(run.loss[0]):
            per_epoch = float(run.record.numbers["flops"]) / float(run.record.numbers["epochs"])
            for at in thinned(run.loss[1], most).tolist():
                epoch, loss = float(run.loss[0][at]), float(run.loss[1][at])
                rows.append([*head, "training", epoch, epoch * per_epoch, loss])
        if run.result is not None and run.best is not None and run.nll is not None:
            rows.append([*head, "best, evaluated", *run.best, run.nll])
    return rows


def points_of_a_curve(runs: Sequence[Run]) -> int | None:
    """How many points of each curve a page carries; None where it carries all."""
    lengths = [len(run.curve.nll) for run in runs if run.curve is not None]
    lengths += [len(run.loss[0]) for run in runs if len(run.loss[0])]
    if sum(lengths) <= MOST_POINTS:
        return None
    return max(FEWEST_OF_A_RUN, MOST_POINTS // len(lengths))


def fewer_rows(runs: Sequence[Run], losses: bool) -> list[list[Cell]] | None:
    """The table of a page that cannot carry all points; None where it can."""
    most = points_of_a_curve(runs)
    return None if most is None else curve_rows(runs, losses, most)


def thinned(values: Floats, most: int | None) -> Integers:
    """Places of at most about `most` of the values, in order: first, last, and of each of as
    many equal parts the lowest and the highest, so that no turn and no spike is lost."""
    if most is None or len(values) <= most:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), max(2, most // 2) + 1).astype(int)
    kept = {0, len(values) - 1}
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[low:high]
        kept |= {low + int(part.argmin()), low + int(part.argmax())}
    return np.array(sorted(kept))

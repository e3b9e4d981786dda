"""A run's validation curve: its best point and its shape."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from epochal.estimates import Floats
from epochal.runs.record import RunRecord

OVERFIT_NATS = 0.01
"""Nats above the best from which a curve counts as overfitted. Chosen by us: the estimate in
training uses the same rows and masks each time, so its steps are far smaller than this."""
FALL = 0.005
"""Nats gained over the last fifth of the run from which a curve counts as still falling."""


class CurveShape(StrEnum):
    """How a validation curve ends."""

    OVERFITTED = "overfitted"
    FALLING = "falling"
    FLAT = "flat"


@dataclass(frozen=True, slots=True)
class Curve:
    """Validation NLL during training; arrays of one length, in order of steps."""

    steps: Floats
    epochs: Floats
    flops: Floats
    nll: Floats

    @property
    def best(self) -> int:
        """Index of the lowest NLL (the first, if several)."""
        return int(self.nll.argmin())

    @property
    def rise(self) -> float:
        """Nats from the lowest NLL to the last."""
        return float(self.nll[-1] - self.nll.min())

    @property
    def overfits(self) -> bool:
        """Whether the NLL has risen since its best."""
        return self.rise > OVERFIT_NATS

    @property
    def still_falling(self) -> bool:
        """Whether the NLL still fell over the last fifth of the run."""
        early = self.nll[self.steps <= 0.8 * self.steps[-1]]
        return len(early) > 0 and float(early.min() - self.nll[-1]) > FALL

    @property
    def shape(self) -> CurveShape:
        """How the curve ends."""
        if self.overfits:
            return CurveShape.OVERFITTED
        return CurveShape.FALLING if self.still_falling else CurveShape.FLAT

    def best_so_far(self) -> Floats:
        """Lowest NLL up to each point, as one would have by stopping at the best."""
        return np.minimum.accumulate(self.nll)


def validation_curve(record: RunRecord) -> Curve | None:
    """The curve in a run's metrics.jsonl; None before the first finite evaluation.

    Evaluations that were not finite, as before a divergence, are left out.
    """
    lines = record.finite_evaluations()
    if not lines:
        return None
    columns = (
        np.array([line[key] for line in lines], dtype=float)
        for key in ("step", "epochs", "flops", "nll_nats_per_token")
    )
    return Curve(*columns)


def pareto_frontier(curves: list[Curve]) -> tuple[Floats, Floats]:
    """(flops, nll): the lowest NLL that any of the runs had by each compute."""
    flops = np.concatenate([curve.flops for curve in curves])
    nll = np.concatenate([curve.nll for curve in curves])
    order = np.lexsort((nll, flops))
    lowest = np.minimum.accumulate(nll[order])
    improves = np.concatenate(([True], lowest[1:] < lowest[:-1]))
    return flops[order][improves], lowest[improves]


def turned_up(record: RunRecord) -> bool:
    """Whether the held-out loss of a run had risen again by its end."""
    curve = validation_curve(record)
    return curve is not None and curve.overfits

"""What becomes of a step whose gradient is not finite, or far larger than those before it.

A fault is known before the update, so nothing has been spoilt: "stop" ends the run, "skip" goes
on without the update, "rewind" goes back to the weights and moments of the last checkpoint and
on with the rows after those that led here, as PaLM's authors did (Chowdhery et al., arXiv
2204.02311 §5.1). Steps go on being counted, so neither the schedule nor the rows shift.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Literal, Protocol

from epochal.errors import TrainingDiverged
from epochal.recipe.schema import Train

Fault = Literal["nan", "spike"]

WINDOW = 100
"""Norms that a spike is measured against; chosen by us."""
LEAST = 20
"""So many are needed before anything is called a spike; chosen by us."""
MOST_IN_A_ROW = 10
"""Faults in a row that end a run whatever was asked for: it does not recover."""


class Norms(Protocol):
    """What the guard keeps in the state of a run, and so in its checkpoints."""

    norms: list[float]
    faults: int
    faults_in_a_row: int


def norm_limit(settings: Train, state: Norms) -> float:
    """Gradient norm beyond which the next step is a spike: `spike_factor` medians of the last
    steps' norms; infinite while there are too few of them, or where spikes are ignored."""
    if settings.on_spike == "ignore" or len(state.norms) < LEAST:
        return math.inf
    return settings.spike_factor * median(state.norms)


def find_fault(settings: Train, step: int, loss: float, norm: float, limit: float) -> Fault | None:
    """What is wrong with step number `step`, counted from 1, if it is not to be taken.

    Raises TrainingDiverged where the recipe says to stop at it.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        if settings.on_nan == "stop":
            raise TrainingDiverged(
                f"step {step}: the loss is {loss} and the gradient's norm {norm}, so the update "
                'was not made; go on and pass over such steps with train.on_nan="skip", or train '
                "anew (--restart) with a lower `train.lr`, a longer `train.warmup` or a lower "
                "`train.grad_clip`"
            )
        return "nan"
    if norm <= limit:
        return None
    if settings.on_spike == "stop":
        raise TrainingDiverged(
            f"step {step}: the gradient's norm is {norm:g}, more than `train.spike_factor` = "
            f"{settings.spike_factor:g} times that of the steps before, so the update was not "
            'made; go on with train.on_spike="skip", or train anew (--restart) with a lower '
            "`train.lr`"
        )
    return "spike"


def note_taken(state: Norms, norm: float) -> None:
    """Keep the norm of a step that was taken."""
    state.norms = [*state.norms[-(WINDOW - 1) :], norm]
    state.faults_in_a_row = 0


def note_fault(state: Norms, step: int, fault: Fault) -> None:
    """Count a fault of step number `step`, counted from 1. Raises TrainingDiverged when they do
    not end."""
    state.faults += 1
    state.faults_in_a_row += 1
    if state.faults_in_a_row >= MOST_IN_A_ROW:
        other = " or a higher `train.spike_factor`" if fault == "spike" else ""
        raise TrainingDiverged(
            f"step {step}: the {MOST_IN_A_ROW}th step in a row whose gradient is not finite or far "
            "too large; train anew (--restart) with a lower `train.lr` or a longer "
            f"`train.warmup`{other}"
        )

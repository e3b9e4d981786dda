"""Faults: steps whose gradient is not finite, or far larger than those before it.

A fault is found before the update, so no weight has changed: "stop" ends the run, "skip"
continues without the update, "rewind" returns to the weights and moments of the last checkpoint
and continues with the rows after the fault, as PaLM's authors did (Chowdhery et al., arXiv
2204.02311 §5.1). The step is counted all the same, so neither the schedule nor the rows shift.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Literal

from epochal.errors import TrainingDiverged
from epochal.recipe.schema import Train
from epochal.training.checkpoint import TrainState

Fault = Literal["nan", "spike"]

WINDOW = 100
"""Number of recent norms that a spike is measured against; chosen by us."""
MIN_NORMS = 20
"""Number of norms needed before anything counts as a spike; chosen by us."""
MAX_IN_A_ROW = 10
"""Faults in a row that end a run whatever the recipe says: it does not recover."""


def norm_limit(settings: Train, state: TrainState) -> float:
    """Gradient norm above which the next step is a spike: `spike_factor` times the median of the
    last norms; infinite while there are too few of them, or if spikes are ignored."""
    if settings.on_spike == "ignore" or len(state.norms) < MIN_NORMS:
        return math.inf
    return settings.spike_factor * median(state.norms)


def find_fault(settings: Train, step: int, loss: float, norm: float, limit: float) -> Fault | None:
    """The fault of step number `step`, counted from 1; None if the update is to be made.

    Raises TrainingDiverged if the recipe stops at this fault.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        if settings.on_nan == "stop":
            raise TrainingDiverged(
                f"step {step}: the loss is {loss} and the gradient's norm {norm}, so the update "
                'was not made; resume and skip such steps with train.on_nan="skip", or start '
                "over (--restart) with a lower `train.lr`, a longer `train.warmup` or a lower "
                "`train.grad_clip`"
            )
        return "nan"
    if norm <= limit:
        return None
    if settings.on_spike == "stop":
        raise TrainingDiverged(
            f"step {step}: the gradient's norm is {norm:g}, more than `train.spike_factor` = "
            f"{settings.spike_factor:g} times that of the steps before, so the update was not "
            'made; resume with train.on_spike="skip", or start over (--restart) with a lower '
            "`train.lr`"
        )
    return "spike"


def count_taken(state: TrainState, norm: float) -> None:
    """Add the norm of a step whose update was made."""
    state.norms = [*state.norms[-(WINDOW - 1) :], norm]
    state.faults_in_a_row = 0


def count_fault(state: TrainState, step: int, fault: Fault) -> None:
    """Count a fault of step number `step`, counted from 1. Raises TrainingDiverged after
    MAX_IN_A_ROW in a row."""
    state.faults += 1
    state.faults_in_a_row += 1
    if state.faults_in_a_row >= MAX_IN_A_ROW:
        other = " or a higher `train.spike_factor`" if fault == "spike" else ""
        raise TrainingDiverged(
            f"step {step}: the {MAX_IN_A_ROW}th step in a row whose gradient is not finite or far "
            "too large; start over (--restart) with a lower `train.lr` or a longer "
            f"`train.warmup`{other}"
        )

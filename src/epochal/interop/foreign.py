"""A model that another program trained, in our terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from epochal.recipe import Recipe

Tensors = dict[str, Tensor]
"""Our parameter names → tensors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignModel:
    """What was read, ready to become a run."""

    recipe: Recipe
    """As far as the other program's settings have a place in it."""
    weights: Tensors
    """float32 or the dtype that was stored, under our names."""
    vocabulary: int
    """Tokens of the tokenizer, without mask id and padding."""
    step: int
    """Optimizer steps done; 0 if not known."""
    moments: dict[str, Tensors] | None = None
    """AdamW's exp_avg, exp_avg_sq and step, each by our names; None if they were not read."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is worth keeping, for run.json."""

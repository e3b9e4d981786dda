"""Objectives: clean tokens in, a weighted prediction problem out."""

from __future__ import annotations

from collections.abc import Callable

from epochal.objectives.autoregressive import Autoregressive
from epochal.objectives.head import linear_nll, token_nll
from epochal.objectives.masked_diffusion import MaskedDiffusion
from epochal.objectives.problem import Attention, Draw, Objective, Problem, Rows, weighted_nll
from epochal.recipe import Recipe

OBJECTIVES: dict[str, Callable[[Recipe, int], Objective]] = {
    "ar": lambda recipe, mask: Autoregressive(
        recipe.ar, sequence_length=recipe.data.sequence_length, seed=recipe.seed
    ),
    "mdm": lambda recipe, mask: MaskedDiffusion(recipe.mdm, mask),
}


def objective(recipe: Recipe, mask: int) -> Objective:
    """The objective that `recipe.family` names; `mask` is the tokenizer's mask id."""
    return OBJECTIVES[recipe.family](recipe, mask)


__all__ = [
    "OBJECTIVES",
    "Attention",
    "Autoregressive",
    "Draw",
    "MaskedDiffusion",
    "Objective",
    "Problem",
    "Rows",
    "linear_nll",
    "objective",
    "token_nll",
    "weighted_nll",
]

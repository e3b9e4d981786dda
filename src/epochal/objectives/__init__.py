"""Objectives: clean tokens in, a weighted prediction problem out."""

from __future__ import annotations

import importlib

from epochal.families import get_family
from epochal.objectives.autoregressive import Autoregressive
from epochal.objectives.cross_entropy import linear_nll, mean_logit_nll, token_nll
from epochal.objectives.masked_diffusion import MaskedDiffusion
from epochal.objectives.problem import Attention, Draw, Objective, Problem, Rows
from epochal.recipe import Recipe


def objective(recipe: Recipe, mask: int) -> Objective:
    """The objective of `recipe.family`; `mask` is the tokenizer's mask id."""
    module, _, name = get_family(recipe.family).objective.partition(":")
    built: Objective = getattr(importlib.import_module(module), name).from_recipe(recipe, mask)
    return built


__all__ = [
    "Attention",
    "Autoregressive",
    "Draw",
    "MaskedDiffusion",
    "Objective",
    "Problem",
    "Rows",
    "linear_nll",
    "mean_logit_nll",
    "objective",
    "token_nll",
]

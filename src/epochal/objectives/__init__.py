"""Objectives: clean tokens in, a weighted prediction problem out."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from epochal.families import get_family
from epochal.objectives.autoregressive import Autoregressive
from epochal.objectives.cross_entropy import linear_nll, mean_logit_nll, token_nll
from epochal.objectives.masked_diffusion import MaskedDiffusion
from epochal.objectives.problem import (
    Attention,
    Draw,
    Likelihood,
    Objective,
    Problem,
    Rows,
    to_device,
)
from epochal.recipe import Recipe


def objective(recipe: Recipe, mask: int, epochs: float | None = None) -> Objective:
    """The objective of `recipe.family`; `mask` is the tokenizer's mask id. Training says how many
    `epochs` the run has, since rules may depend on it; likelihoods do not."""
    family = get_family(recipe.family)
    if epochs is not None:
        options = {recipe.family: family.in_run(recipe.options, epochs)}
        recipe = replace(recipe, objectives=recipe.objectives | options)
    built: Objective = _named(family.objective).from_recipe(recipe, mask)
    return built


def masked_reading(family: str, mask: int) -> Likelihood | None:
    """The likelihood with masks of a family that is also exact; None if it has none."""
    named = get_family(family).masked_reading
    return None if named is None else _named(named)(mask)


def _named(name: str) -> Any:
    module, _, found = name.partition(":")
    return getattr(importlib.import_module(module), found)


__all__ = [
    "Attention",
    "Autoregressive",
    "Draw",
    "Likelihood",
    "MaskedDiffusion",
    "Objective",
    "Problem",
    "Rows",
    "linear_nll",
    "masked_reading",
    "mean_logit_nll",
    "objective",
    "to_device",
    "token_nll",
]

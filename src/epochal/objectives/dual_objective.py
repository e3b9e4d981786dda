"""Dual objective: next-token and masked next-token prediction in one network.

Charpentier & Samuel, "GPT or BERT: why not both?", arXiv 2410.24159, and "Dual-objective language
models", arXiv 2512.14549. A row is either causal, as in `autoregressive`, or masked: some of its
tokens are hidden, attention is bidirectional, and the state at position i predicts token i + 1,
if that is hidden, so that both kinds of rows share one output convention.

Training: of the B rows of step s, ⌊(s+1)·α·B⌋ − ⌊s·α·B⌋ are causal, the first ones of the batch,
so that over the run their share is α. In a masked row of L tokens K of the m = L − 1 tokens
after the first are hidden, with weight m/K and K uniform on 1 … m, stratified over the batch:
the bound of `masked_diffusion` in its discrete form, given the first token. The loss is the
sum of both over the tokens that are predicted, L in a causal row and m in a masked one.

Likelihood: exact, from left to right; or, read with masks, the bound of `masked_diffusion`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from epochal.families.dual_objective import DualOptions as Options
from epochal.families.masked_diffusion import MaskedDiffusionOptions
from epochal.objectives import noise
from epochal.objectives.attention_mask import CausalRows
from epochal.objectives.autoregressive import Autoregressive
from epochal.objectives.masked_diffusion import MaskedDiffusion
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe import Recipe


class MaskedNextToken:
    """The same network read with masks: an upper bound on −log p(x)."""

    exact = False
    shift = 1

    def __init__(self, mask: int) -> None:
        """`mask` is the id of a masked token."""
        self._same_place = MaskedDiffusion(MaskedDiffusionOptions(), mask)

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → mask exactly K of the m scored ones, with weight m/K, and predict each
        at the position before it. Position 0 is never scored."""
        problem = self._same_place.likelihood_problem(tokens, scored, draw)
        return replace(
            problem, targets=tokens.roll(-1, dims=1), weights=problem.weights.roll(-1, dims=1)
        )


class DualObjective(Autoregressive):
    """−log p(x) exactly, from left to right, of a network that also learns with masks."""

    def __init__(self, options: Options, mask: int) -> None:
        """`mask` is the id of a masked token."""
        super().__init__()
        self.share = options.causal_share
        self.masked = MaskedNextToken(mask)

    @classmethod
    def from_recipe(cls, recipe: Recipe, mask: int) -> DualObjective:
        """The recipe's objective, with the tokenizer's mask id."""
        return cls(recipe.options, mask)

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → tokens 1 … L of the causal rows, hidden ones among tokens 1 … L−1 of
        the others. Raises ValueError where the share is a rule that nobody worked out."""
        if isinstance(self.share, str):
            raise ValueError(f"the share {self.share} needs the run's epochs")
        problem = super().training_problem(tokens, rows)
        first = math.floor((rows.step + 1) * self.share * rows.global_batch_size)
        causal = torch.from_numpy(
            rows.place < first - math.floor(rows.step * self.share * rows.global_batch_size)
        )
        if causal.all():
            return problem
        inputs = problem.inputs
        scored = torch.ones(inputs.shape, dtype=torch.bool)
        scored[:, 0] = False
        draw = Draw(noise.stratified_levels(rows), rows.keys)
        masked = self.masked.likelihood_problem(inputs, scored, draw)
        here = causal[:, None]
        count = int(np.count_nonzero(causal))
        return replace(
            problem,
            inputs=torch.where(here, inputs, masked.inputs),
            weights=torch.where(here, problem.weights, masked.weights),
            denominator=count * inputs.shape[1] + (len(inputs) - count) * (inputs.shape[1] - 1),
            attention=CausalRows(causal, inputs.shape[1]) if causal.any() else "bidirectional",
        )

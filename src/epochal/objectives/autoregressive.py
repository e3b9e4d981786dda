"""Autoregressive objective: predict the next token from the previous ones (arXiv 2507.15857 §2.1).

Two ablations of the paper's §3.5, in training only:

- Order perturbation: a row is read in one of K fixed orders. Positions move with their tokens;
  the target is the next token in that order, and the model is not given its position.
- Token masking: for a share of the positions each earlier token is hidden with a probability
  drawn for that position, p = (1−ε)·t + ε. A position always sees itself. This is what the
  original's code does; its text describes masking the same input tokens for all positions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from epochal import rng
from epochal.families.autoregressive import AutoregressiveOptions as Options
from epochal.objectives.attention_mask import RandomCausalMask, masking_probability
from epochal.objectives.orders import order_lists, row_orders
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe import Recipe

TOKEN_MASKING_EPS = 1e-3
"""ε of token masking, a constant in the original's code."""


class Autoregressive:
    """−log p(x) = Σ_i −log p(x_i | x_<i), exactly."""

    family = "ar"
    exact = True
    shift = 1

    def __init__(
        self, options: Options | None = None, *, sequence_length: int = 0, seed: int = 0
    ) -> None:
        """`sequence_length` and `seed` are only needed for reading orders."""
        self.options = options or Options()
        self._orders = (
            order_lists(self.options.orders, sequence_length, self.options.order_kind, seed)
            if self.options.orders > 1
            else None
        )

    @classmethod
    def from_recipe(cls, recipe: Recipe, mask: int) -> Autoregressive:
        """The recipe's objective; it needs no mask."""
        length, seed = recipe.data.sequence_length, recipe.seed
        return cls(recipe.options, sequence_length=length, seed=seed)

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → predict tokens 1 … L from tokens 0 … L−1, all with weight 1."""
        positions = attention = None
        if self._orders is not None:
            places = torch.from_numpy(row_orders(self._orders, rows))
            tokens, positions = tokens.gather(1, places), places[:, :-1]
        if self.options.token_masking:
            # Separate keys: the row's first number chose its order.
            keys = rng.row_keys(rng.stream_key(0, "token masking"), rows.keys)
            probability = masking_probability(
                keys, tokens.shape[1] - 1, self.options.token_masking, TOKEN_MASKING_EPS
            )
            attention = RandomCausalMask.drawn(rng.outputs(keys, np.array(2**40)), probability)
        return self._next_token(tokens, attention or "causal", positions)

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → the exact NLL of the scored ones; `draw` is not used."""
        # The last input has no target. The row is not shortened, so that all families have the same
        # compiled shapes.
        targets = tokens.roll(-1, dims=1)
        weights = torch.zeros(tokens.shape)
        weights[:, :-1] = scored[:, 1:].float()
        return Problem(
            inputs=tokens,
            targets=targets,
            weights=weights,
            denominator=int(scored.sum()),
            attention="causal",
        )

    def paper_problem(self, tokens: Tensor, draw: Draw) -> Problem:
        """[B, L+1] tokens → the mean over L targets per row, as the original reports it."""
        return self._next_token(tokens)

    def _next_token(
        self,
        tokens: Tensor,
        attention: RandomCausalMask | Literal["causal"] = "causal",
        positions: Tensor | None = None,
    ) -> Problem:
        inputs = tokens[:, :-1]
        return Problem(
            inputs=inputs,
            targets=tokens[:, 1:],
            weights=torch.ones(inputs.shape),
            denominator=inputs.numel(),
            attention=attention,
            positions=positions,
        )

"""Any-order autoregressive objective: the next token of an order, by a network told its place.

As in sigma-GPT (Pannatier et al., arXiv 2404.09562) a row is read in a random order π of its own,
and the state of a token knows both its own place and the place of the token that comes next in π.
There each input has two codes; here, where places are rotations, keys are rotated by the place of
their token, and queries by the place before the one that is predicted. So attention knows how far
each token is from the target; and from left to right, where both are the same, it is AR.

Token 0 of a row stays first, as it does in evaluation.

    exact     −log p(x) = Σ_i −log p(x_i | x_<i), from left to right
    a bound   −log E_π p_π(x) ≤ E_π [ Σ_k −log p(x_π(k) | x_π(<k)) ], one π per row and draw

They are two models: the first is what `generate` continues texts with, the second the mixture of
all orders. Training is the second, except for a share of rows from left to right.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal import rng
from epochal.families.order_agnostic import AnyOrderOptions as Options
from epochal.objectives.attention_mask import OrderMask
from epochal.objectives.autoregressive import Autoregressive
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe import Recipe
from epochal.rng import Keys


def random_orders(keys: Keys, given: NDArray[np.bool_]) -> Tensor:
    """[B] keys → [B, L] places in the order in which they are read: the `given` ones from left to
    right, then the others in a uniformly random order."""
    own = rng.row_keys(rng.stream_key(0, "any order"), keys)
    drawn = rng.uniforms(own, given.shape[1])
    place = np.arange(given.shape[1]) - given.shape[1]  # negative, so before all that are drawn
    return torch.from_numpy(np.argsort(np.where(given, place, drawn), axis=1, kind="stable"))


class RandomOrders:
    """An upper bound on −log p(x) of the mixture of all orders; no draw has masks."""

    exact = False
    shift = 0

    def __init__(self, mask: int) -> None:
        """`mask`, the id of a masked token, is not used."""

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → the scored ones in a random order after the others, each of weight 1.

        Position i has the token that is read before token i, and predicts token i. Levels are not
        used: each draw scores all tokens.
        """
        order = random_orders(draw.keys, ~scored.numpy())
        length = tokens.shape[1]
        # Nothing comes before the first: its position, not scored, has the last token of the order.
        before = torch.empty_like(order).scatter_(1, order, order.roll(1, dims=1))
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(length).expand_as(order))
        rank = rank.masked_fill(rank == 0, length)
        asked = torch.arange(length).expand_as(order) - 1
        return Problem(
            inputs=tokens.gather(1, before),
            targets=tokens,
            weights=scored.float(),
            denominator=int(scored.sum()),
            attention=OrderMask(rank),
            positions=torch.stack((before, asked.clamp(min=0))),
        )


class AnyOrder(Autoregressive):
    """−log p(x) exactly, from left to right, of a network that learns random orders."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.share = options.left_to_right

    @classmethod
    def from_recipe(cls, recipe: Recipe, mask: int) -> AnyOrder:
        """The recipe's objective; the mask is not used."""
        return cls(recipe.options)

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → tokens 1 … L, each from those before it in its row's order."""
        given = np.zeros(tokens.shape, dtype=np.bool_)
        given[:, 0] = True
        places = random_orders(rows.keys, given)
        own = rng.row_keys(rng.stream_key(0, "left to right"), rows.keys)
        straight = torch.from_numpy(rng.uniforms(own, 1) < self.share)
        places = torch.where(straight, torch.arange(tokens.shape[1]), places)
        problem = self._next_token(tokens.gather(1, places))
        return replace(problem, positions=torch.stack((places[:, :-1], places[:, 1:] - 1)))

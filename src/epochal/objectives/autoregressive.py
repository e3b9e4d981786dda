"""Autoregressive objective: predict the next token from the previous ones (arXiv 2507.15857 §2.1).

Two ablations of the paper's §3.5 and augmentations, in training only:

- Order perturbation: a row is read in one of K fixed orders. Positions move with their tokens;
  the target is the next token in that order, and the model is not given its position.
- Token masking: for a share of the positions each earlier token is hidden with a probability
  drawn for that position, p = (1−ε)·t + ε. A position always sees itself. This is what the
  original's code does; its text describes masking the same input tokens for all positions.
- Replacement: a share of the input tokens is replaced by tokens drawn from the vocabulary
  (arXiv 2606.16246); targets are those of the text.
- Direction and offset (arXiv 2606.16246 and its code): a row is read from right to left, or
  predicts the i-th next token, P(i) ∝ exp(−i). Markers before it say so, at the cost of as many
  tokens at its end; a row without markers is read as in evaluation.
- Masked copy (MIR; arXiv 2606.06888 and its code): each row is read twice, the second time with
  masked inputs, causally and with the same targets; this loss has a weight of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal import rng
from epochal.errors import RecipeError
from epochal.families.autoregressive import AutoregressiveOptions as Options
from epochal.objectives.attention_mask import RandomCausalMask, masking_probability
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe import Recipe
from epochal.sizes import padded_vocabulary

Orders = NDArray[np.int64]


def order_lists(
    count: int, length: int, kind: Literal["noise_sorted", "random"], seed: int
) -> Orders:
    """[count, length] orders, determined by `seed`; the first is left to right.

    An order is a permutation π of 0 … L−1 for the tokens 1 … L of a row; token 0 stays first.

    noise_sorted: order i sorts position + i·N(0, 1), so a token moves by about i positions (the
    paper's algorithm 2). random: uniform permutations (its algorithm 1).
    """
    lists = [np.arange(length)]
    for number in range(1, count):
        key = np.array([rng.stream_key(seed, "reading order", number)], dtype=np.uint64)
        if kind == "random":
            scores = rng.uniforms(key, length)[0]
        else:
            scores = np.arange(length) + number * _normals(key, length)
        lists.append(np.argsort(scores, kind="stable"))
    return np.stack(lists)


def row_orders(lists: Orders, rows: Rows) -> Orders:
    """[B, L+1] positions of a window in each row's reading order; position 0 is first.

    Each row draws one of the lists, every list equally likely.
    """
    number = np.floor(rng.uniforms(rows.keys, 1)[:, 0] * len(lists)).astype(np.int64)
    places = np.zeros((len(number), lists.shape[1] + 1), dtype=np.int64)
    places[:, 1:] = lists[number] + 1
    return places


def drawn_offsets(drawn: NDArray[np.float64], largest: int) -> NDArray[np.int64]:
    """Numbers in [0, 1) → offsets 1 … `largest`, with P(i) ∝ exp(−i)."""
    ends = np.cumsum(np.exp(-np.arange(largest)))
    return np.minimum(np.searchsorted(ends / ends[-1], drawn, side="right") + 1, largest)


def _check(options: Options) -> None:
    """Raise RecipeError for two options that exclude each other."""
    named = {"right_to_left": 0, "largest_offset": 1, "masked_copy": 0}
    given = [key for key, off in named.items() if getattr(options, key) != off]
    if options.token_masking and given:
        one, other = "token_masking", given[0]
    elif options.orders > 1 and set(given) - {"masked_copy"}:
        one, other = "orders", given[0]
    else:
        return
    raise RecipeError(
        f"`ar.{one}` = {getattr(options, one):g} and `ar.{other}` = {getattr(options, other):g} "
        "cannot be combined; leave one of them out"
    )


def _normals(key: rng.Keys, count: int) -> NDArray[np.float64]:
    """[count] standard normals by Box and Muller, the same with any version of NumPy."""
    pairs = rng.uniforms(key, 2 * count)[0].reshape(2, count)
    normals: NDArray[np.float64] = np.sqrt(-2 * np.log1p(-pairs[0])) * np.cos(2 * np.pi * pairs[1])
    return normals


TOKEN_MASKING_EPS = 1e-3
"""ε of token masking, a constant in the original's code."""
COPY_MASKED, COPY_KEPT = 0.5, 8
"""A copy's largest masked share, and its first tokens, which stay: constants of MIR's code."""


class Autoregressive:
    """−log p(x) = Σ_i −log p(x_i | x_<i), exactly."""

    exact = True
    shift = 1

    def __init__(
        self,
        options: Options | None = None,
        *,
        sequence_length: int = 0,
        seed: int = 0,
        vocabulary: int = 0,
    ) -> None:
        """`sequence_length` and `seed` are only needed for reading orders, `vocabulary`, the number
        of tokens, for replacement, markers and masks; the id after them is the mask, then come
        the markers. Raises RecipeError for options that exclude each other."""
        self.options = options or Options()
        self.vocabulary = vocabulary
        _check(self.options)
        self._marks = self.options.right_to_left > 0 or self.options.largest_offset > 1
        self._orders = (
            order_lists(self.options.orders, sequence_length, self.options.order_kind, seed)
            if self.options.orders > 1
            else None
        )

    @classmethod
    def from_recipe(cls, recipe: Recipe, mask: int) -> Autoregressive:
        """The recipe's objective. The mask's id is the number of tokens. Raises RecipeError if the
        embedding has no rows for markers."""
        length, seed = recipe.data.sequence_length, recipe.seed
        made = cls(recipe.options, sequence_length=length, seed=seed, vocabulary=mask)
        needed = made.ids()
        if needed > mask and (there := recipe.model.architecture().rows(mask)) < needed:
            raise RecipeError(
                f"`model.padded_vocab_size` = {there:,} rows have no place for masks and markers "
                f"after {mask:,} tokens; set it to {padded_vocabulary(needed):,}"
            )
        return made

    def ids(self) -> int:
        """Ids that training needs: tokens, mask and markers."""
        most = 1 + self.options.largest_offset
        return self.vocabulary + (most if self._marks else self.options.masked_copy > 0)

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → predict tokens 1 … L from tokens 0 … L−1, all with weight 1.

        With a masked copy the rows are 2·B, each followed by its copy.
        """
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
        problem = self._next_token(tokens, attention or "causal", positions)
        if self._marks:
            problem = self._marked(tokens, rows)
        if self.options.replacement:
            keys = rng.row_keys(rng.stream_key(0, "replacement"), rows.keys)
            coins, drawn = np.split(rng.uniforms(keys, 2 * problem.inputs.shape[1]), 2, axis=1)
            others = torch.from_numpy(np.floor(drawn * self.vocabulary).astype(np.int64))
            replaced = torch.from_numpy(coins < self.options.replacement)
            if self._marks:
                replaced &= problem.inputs < self.vocabulary
            problem = replace(problem, inputs=torch.where(replaced, others, problem.inputs))
        return self._with_copy(problem, rows) if self.options.masked_copy else problem

    def _marked(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → rows in both directions and with several offsets, after their markers.

        The first marker of a row that has two predicts nothing, nor do the last positions of one
        with an offset.
        """
        keys = rng.row_keys(rng.stream_key(0, "direction and offset"), rows.keys)
        coins, drawn = rng.uniforms(keys, 2).T[:, :, None]
        backwards = torch.from_numpy(coins < self.options.right_to_left)
        offset = torch.from_numpy(drawn_offsets(drawn, self.options.largest_offset))
        read, last = torch.where(backwards, tokens.flip(1), tokens), tokens.shape[1] - 1
        # The place in `read` of each input; those of markers are negative.
        place = torch.arange(last) - backwards.long() - (offset > 1).long()
        own = (place == -1) & (offset > 1)
        marker = self.vocabulary + torch.where(own, offset, 1)
        target = place + offset
        scored = (place >= -1) & (target <= last)
        return Problem(
            inputs=torch.where(place < 0, marker, read.gather(1, place.clamp(min=0))),
            targets=read.gather(1, target.clamp(0, last)),
            weights=scored.float(),
            denominator=int(scored.sum()),
            attention="causal",
        )

    def _with_copy(self, problem: Problem, rows: Rows) -> Problem:
        """Each row followed by itself with masked inputs."""
        keys = rng.row_keys(rng.stream_key(0, "masked copy"), rows.keys)
        share, coins = np.split(rng.uniforms(keys, problem.inputs.shape[1] + 1), [1], axis=1)
        masked = torch.from_numpy(coins < share * COPY_MASKED)
        masked[:, :COPY_KEPT] = False
        copy = problem.inputs.masked_fill(masked, self.vocabulary)
        weights = problem.weights, problem.weights * self.options.masked_copy
        positions = problem.positions
        return replace(
            problem,
            inputs=torch.stack((problem.inputs, copy), dim=1).flatten(0, 1),
            targets=problem.targets.repeat_interleave(2, dim=0),
            weights=torch.stack(weights, dim=1).flatten(0, 1),
            positions=None if positions is None else positions.repeat_interleave(2, dim=0),
        )

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

"""Masked diffusion objective: predict the masked tokens from the visible ones.

Training (arXiv 2507.15857 §2.2 and its code): t ~ U(0, 1) per row, p = (1−ε)·t + ε, tokens
masked independently with p, cross-entropy of the masked tokens weighted 1/p, divided by all
B·L positions. Targets are not shifted, attention is bidirectional, there is no time input.
docs/ablations.md has the formula of each option; other distributions of t, rare tokens, words and
spans are in `masking`.

Likelihood: with m scored tokens in a row,

    −log p(x) ≤ E_{K ~ U{1…m}} E_{|M| = K} [ m/K · Σ_{i∈M} −log p(x_i | x outside M) ],

the exact discrete form of the same bound (Hoogeboom et al., arXiv 2110.02037, eq. 6; Ou et
al., arXiv 2406.03736). The original's estimate with t and independent masks has the same
mean as ε → 0 and far more variance.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal import rng
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.objectives import masking, noise
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe import Recipe
from epochal.rng import Keys


class MaskedDiffusion:
    """An upper bound on −log p(x), the mean over all orders of unmasking."""

    exact = False
    shift = 0

    def __init__(self, options: Options, mask: int) -> None:
        """`mask` is the id of a masked token."""
        self.options = options
        self.mask = mask

    @classmethod
    def from_recipe(cls, recipe: Recipe, mask: int) -> MaskedDiffusion:
        """The recipe's objective, with the tokenizer's mask id."""
        return cls(recipe.options, mask)

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → predict the masked ones among tokens 0 … L−1.

        The last token of a window is dropped: it is the first of another row.
        """
        options = self.options
        tokens = tokens[:, : self._length(tokens.shape[1] - 1, rows)]
        levels, importance = self._levels(rows)
        masked, weight = self._masks(levels, tokens, rows)
        if options.loss_weight != "unweighted":
            weight = weight * importance
        if options.ar_ratio:
            moved = noise.row_uniforms(rows.keys, "left to right") < options.ar_ratio
            masked = noise.ends(masked, moved)
        return self._problem(
            tokens,
            masked,
            weight,
            denominator=int(masked.sum())
            if options.loss_weight == "unweighted"
            else tokens.numel(),
            levels=levels,
        )

    def _length(self, length: int, rows: Rows) -> int:
        """Tokens per row in this step: L, or a random length (`random_length`), for all rows."""
        if not self.options.random_length:
            return length
        coin, share = rng.uniforms(rng.row_keys(rows.step_key, np.array([2**40])), 2)[0]
        return 1 + int(share * length) if coin < self.options.random_length else length

    def _levels(self, rows: Rows) -> tuple[noise.Levels, NDArray[np.float64]]:
        """[B] noise levels t, and [B] the weights of their rows (`masking.mask_rates`)."""
        options = self.options
        draw = noise.stratified_levels if options.noise == "stratified" else noise.iid_levels
        levels, importance = masking.mask_rates(options, draw(rows), rows)
        low = options.low_noise_start and rows.step < options.low_noise_iters
        return levels * (options.low_noise_ratio if low else 1.0), importance

    def _masks(
        self, levels: noise.Levels, tokens: Tensor, rows: Rows
    ) -> tuple[noise.Masks, NDArray[np.float64]]:
        """Masks [B, L] at levels t, and the weight [B] of a masked token."""
        options, keys, length = self.options, rows.keys, tokens.shape[1]
        exactly = options.noise == "stratified" or options.loss_weight == "mask_count"
        if options.frequency_power or options.mask_unit != "token":
            masked, weight = self._chosen(levels, tokens.numpy(), rows, exactly)
        elif exactly:
            # Here the number m of masked tokens is fixed, so 1/p, L/m and L/K are the same.
            masked, weight = _exactly(levels, keys, np.ones((len(keys), length), dtype=np.bool_))
        else:
            masked, weight = self._independently(levels, keys, length)
        if options.loss_weight == "mask_fraction":
            masked = noise.at_least_one(masked, keys)
            weight = length / masked.sum(axis=1)
        if options.loss_weight == "unweighted":
            weight = np.ones(len(keys))
        return masked, weight

    def _chosen(
        self, levels: noise.Levels, tokens: NDArray[np.int64], rows: Rows, exactly: bool
    ) -> tuple[noise.Masks, NDArray[np.float64]]:
        """Masks [B, L] of rare tokens or whole units, with 1/p of the row's mean rate p."""
        length = tokens.shape[1]
        if exactly:
            rates = noise.exact_counts(levels, np.full(len(levels), length)) / length
        else:
            rates = self._rates(levels)
        units = masking.units(self.options, tokens, rows)
        probability = masking.inclusion(self.options, tokens, units, rates, rows)
        choose = masking.evenly if exactly else masking.independent
        with np.errstate(divide="ignore"):  # t = 0 at ε = 0 masks nothing
            return choose(rows.keys, probability, units), 1 / rates

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → mask exactly K of the m scored ones, with weight m/K."""
        masked, weight = _exactly(draw.levels, draw.keys, scored.numpy())
        return self._problem(tokens, masked, weight, denominator=int(scored.sum()))

    def paper_problem(self, tokens: Tensor, draw: Draw) -> Problem:
        """[B, L+1] tokens → independent masks with p = (1−ε)·t + ε and weight 1/p."""
        tokens = tokens[:, :-1]
        masked, weight = self._independently(draw.levels, draw.keys, tokens.shape[1])
        return self._problem(tokens, masked, weight, denominator=tokens.numel())

    def _independently(
        self, levels: noise.Levels, keys: Keys, length: int
    ) -> tuple[noise.Masks, NDArray[np.float64]]:
        mask_prob = self._rates(levels)
        masked = noise.independent_masks(keys, mask_prob, length)
        with np.errstate(divide="ignore"):  # t = 0 at ε = 0 masks nothing
            return masked, 1 / mask_prob

    def _rates(self, levels: noise.Levels) -> NDArray[np.float64]:
        """[B] masking probabilities p = (1−ε)·t + ε."""
        rates: NDArray[np.float64] = (1 - self.options.eps) * levels + self.options.eps
        return rates

    def _problem(
        self,
        tokens: Tensor,
        masked: noise.Masks,
        weight: NDArray[np.float64],
        denominator: int,
        levels: noise.Levels | None = None,
    ) -> Problem:
        hidden = torch.from_numpy(masked)
        weights = torch.from_numpy(np.where(masked, weight[:, None], 0).astype(np.float32))
        return Problem(
            inputs=tokens.masked_fill(hidden, self.mask),
            targets=tokens,
            weights=weights,
            denominator=denominator,
            attention="bidirectional",
            noise=levels,
        )


def _exactly(
    levels: noise.Levels, keys: Keys, candidates: noise.Masks
) -> tuple[noise.Masks, NDArray[np.float64]]:
    """Masks of exactly K of each row's m candidates, and the weights m/K."""
    total = candidates.sum(axis=1)
    counts = noise.exact_counts(levels, total)
    return noise.exact_masks(keys, counts, candidates), total / np.maximum(counts, 1)

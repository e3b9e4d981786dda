"""Masked diffusion objective: the masked tokens, from those left in sight.

Training (arXiv 2507.15857 §2.2 and its code): t ~ U(0, 1) per row, p = (1−ε)·t + ε, tokens
masked independently with p, cross-entropy of the masked tokens weighted 1/p, divided by all
B·L positions. Targets are not shifted, attention is bidirectional, there is no time input.

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

from epochal.objectives import noise
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe.schema import MaskedDiffusion as Options
from epochal.rng import Keys


class MaskedDiffusion:
    """An upper bound on −log p(x), from any order in which tokens may come to light."""

    family = "mdm"
    exact = False
    shift = 0

    def __init__(self, options: Options, mask: int) -> None:
        """`mask` is the id that stands for a masked token."""
        self.options = options
        self.mask = mask

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → restore the masked ones among tokens 0 … L−1.

        The last token of a window is dropped: it is the first of another row.
        """
        tokens = tokens[:, :-1]
        if self.options.noise == "stratified":
            everywhere = np.ones(tokens.shape, dtype=np.bool_)
            masked, weight = _exactly(noise.stratified_levels(rows), rows.keys, everywhere)
        else:
            masked, weight = self._independently(noise.iid_levels(rows), rows.keys, tokens.shape[1])
        return self._problem(tokens, masked, weight, denominator=tokens.numel())

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → mask exactly K of the scored ones at weight m/K."""
        masked, weight = _exactly(draw.levels, draw.keys, scored.numpy())
        return self._problem(tokens, masked, weight, denominator=int(scored.sum()))

    def paper_problem(self, tokens: Tensor, draw: Draw) -> Problem:
        """[B, L+1] tokens → independent masks at p = (1−ε)·t + ε and weight 1/p."""
        tokens = tokens[:, :-1]
        masked, weight = self._independently(draw.levels, draw.keys, tokens.shape[1])
        return self._problem(tokens, masked, weight, denominator=tokens.numel())

    def _independently(
        self, levels: noise.Levels, keys: Keys, length: int
    ) -> tuple[noise.Masks, NDArray[np.float64]]:
        mask_prob = (1 - self.options.eps) * levels + self.options.eps
        masked = noise.independent_masks(keys, mask_prob, length)
        with np.errstate(divide="ignore"):  # t = 0 at ε = 0 masks nothing
            return masked, 1 / mask_prob

    def _problem(
        self, tokens: Tensor, masked: noise.Masks, weight: NDArray[np.float64], denominator: int
    ) -> Problem:
        hidden = torch.from_numpy(masked)
        weights = torch.from_numpy(np.where(masked, weight[:, None], 0).astype(np.float32))
        return Problem(
            inputs=tokens.masked_fill(hidden, self.mask),
            targets=tokens,
            weights=weights,
            denominator=denominator,
            attention="bidirectional",
        )


def _exactly(
    levels: noise.Levels, keys: Keys, candidates: noise.Masks
) -> tuple[noise.Masks, NDArray[np.float64]]:
    """Masks of exactly K of each row's m candidates, and the weights m/K."""
    total = candidates.sum(axis=1)
    counts = noise.exact_counts(levels, total)
    return noise.exact_masks(keys, counts, candidates), total / np.maximum(counts, 1)

"""Block diffusion objective: predict the masked tokens of a block from its visible ones and from
the clean blocks before it (BD3-LM: Arriola et al., arXiv 2503.09573).

The bound is a sum over blocks, each with its own noise level: with m_b tokens to score in block b,

    −log p(x) ≤ Σ_b E_{K ~ U{1…m_b}} E_{|M| = K} [ m_b/K · Σ_{i∈M} −log p(x_i | block b outside M,
                                                                         blocks before b) ],

the discrete form of `masked_diffusion`, block by block. Blocks of one token give the exact NLL from
left to right in every draw, a block of the whole row is masked diffusion, with the same masks.

All blocks are read in one pass: the noised row and, behind it, the clean one, with the same
positions. Training masks all tokens in this way, likelihood those that are scored. Levels
of a row's blocks are spread evenly from its own: u_b = (u + b / blocks) mod 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal.objectives import noise
from epochal.objectives.attention_mask import BlockMask
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe import Recipe
from epochal.rng import Keys


class BlockDiffusion:
    """An upper bound on −log p(x), the mean over all orders of unmasking within each block."""

    exact = False
    shift = 0

    def __init__(self, size: int, mask: int) -> None:
        """`size` tokens per block; `mask` is the id of a masked token."""
        self.size = size
        self.mask = mask

    @classmethod
    def from_recipe(cls, recipe: Recipe, mask: int) -> BlockDiffusion:
        """The recipe's objective."""
        return cls(recipe.options.size, mask)

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → predict the masked ones among tokens 0 … L−1; inputs are [B, 2L]."""
        tokens = tokens[:, :-1]
        levels = noise.stratified_levels(rows)
        return self._problem(tokens, torch.ones_like(tokens, dtype=torch.bool), levels, rows.keys)

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → mask exactly K_b of the m_b scored ones of each block, with weight
        m_b/K_b. What comes after a block is not seen, so it is −log p(scored | the others in
        their blocks and before them)."""
        return self._problem(tokens, scored, draw.levels, draw.keys)

    def paper_problem(self, tokens: Tensor, draw: Draw) -> Problem:
        """[B, L+1] tokens → the training loss at the levels of `draw`; the original has no block
        diffusion."""
        tokens = tokens[:, :-1]
        every = torch.ones_like(tokens, dtype=torch.bool)
        return self._problem(tokens, every, draw.levels, draw.keys)

    def _problem(
        self, tokens: Tensor, candidates: Tensor, levels: noise.Levels, keys: Keys
    ) -> Problem:
        masked, weights = self._masks(candidates.numpy(), levels, keys)
        length = tokens.shape[1]
        clean = torch.zeros(tokens.shape)
        noised = tokens.masked_fill(torch.from_numpy(masked), self.mask)
        positions = torch.arange(length)
        return Problem(
            inputs=torch.cat((noised, tokens), dim=1),
            targets=torch.cat((tokens, tokens), dim=1),
            weights=torch.cat((torch.from_numpy(weights.astype(np.float32)), clean), dim=1),
            denominator=int(candidates.sum()),
            attention=BlockMask(length, self.size),
            positions=torch.cat((positions, positions)),
        )

    def _masks(
        self, candidates: noise.Masks, levels: noise.Levels, keys: Keys
    ) -> tuple[noise.Masks, NDArray[np.float64]]:
        """[B, L] masks, and the weights of the masked tokens, 0 elsewhere."""
        rows, length = candidates.shape
        blocks = -(-length // self.size)
        # A row that ends within a block is filled up with tokens that are no candidates.
        full = np.pad(candidates, ((0, 0), (0, blocks * self.size - length)))
        by_block = full.reshape(rows, blocks, self.size)
        own = (levels[:, None] + np.arange(blocks) / blocks) % 1.0
        total = by_block.sum(axis=2)
        counts = noise.exact_counts(own, total)
        masked = noise.exact_masks(keys, counts, by_block)
        weights = masked * (total / np.maximum(counts, 1))[:, :, None]
        flat = rows, blocks * self.size
        return masked.reshape(flat)[:, :length], weights.reshape(flat)[:, :length]

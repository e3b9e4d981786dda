"""Diffusion whose noise replaces tokens: uniform noise, and a mixture with masks (GIDD).

A token stays with probability α and is else *touched*: drawn anew from π = s·u + (1 − s)·mask, u
uniform over the V tokens. With λ = log(α / (1 − α)), s = 1 for uniform noise,
s = sigmoid(λ + shift) for the hybrid (von Rütte et al., arXiv 2503.04482 and 2512.10858), and s = 0
would be masked diffusion. For any of them

    −log p(x) ≤ ∫ dλ E_{z ~ q_λ(·|x)} [ Σ_i w(z_i) · (KL(q_λ(·|x_i) ‖ p_λ,i) + r_i − 1 − log r_i) ],
    p_λ,i = α·x̂_i(z) + (1 − α)·π,   r = q_λ(z_i|x_i) / p_λ,i(z_i),
    w(z) = (π(z) − dπ(z)/dλ) / (π(z) + e^λ·[z = x]),

which is the entropy when x̂_i is the distribution of x_i given the *other* noised tokens; given
its own noised token, too, it is more (`jump_loss` has the term in closed form).

A draw: with m tokens to score, K of them are touched, K uniform on 0 … m, and 1 − α given K is
Beta(K, m − K + 1), so that each term has the weight (m + 1)/K; for K = 0 it is Beta(1, m + 1) and
1/(1 − α). Of the untouched tokens a random eighth stands for all. The mean of draws is the
integral over all λ, exactly. Levels beyond |λ| = 12 count as nothing:
`missed` says how much that may be. Training has m = L, with K stratified over the batch.

The network may be told λ (`model.noise_conditioning`); else the row shows it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal import rng
from epochal.objectives import noise
from epochal.objectives.jump_loss import JumpLoss
from epochal.objectives.problem import Draw, Problem, Rows
from epochal.recipe import Recipe
from epochal.rng import Keys

LIMIT = 12.0
"""Largest |λ| that counts."""
ONE_IN = 8
"""Of so many untouched tokens of a row one has its loss computed: they add little, and cost as
much as touched ones."""


class JumpNoise:
    """An upper bound on −log p(x)."""

    exact = False
    shift = 0

    def __init__(self, vocabulary: int, noise_shift: float = math.inf) -> None:
        """`vocabulary` tokens; the next id is the mask. `noise_shift` is the shift of s, ∞ for
        uniform noise."""
        self.vocabulary = vocabulary
        self.noise_shift = noise_shift

    @classmethod
    def from_recipe(cls, recipe: Recipe, mask: int) -> JumpNoise:
        """The recipe's objective. The mask's id is the number of tokens."""
        return cls(mask, getattr(recipe.options, "shift", math.inf))

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → all of tokens 0 … L−1 from their noised row."""
        return self.paper_problem(tokens, Draw(noise.stratified_levels(rows), rows.keys))

    def paper_problem(self, tokens: Tensor, draw: Draw) -> Problem:
        """[B, L+1] tokens → the training loss at the levels of `draw`; the original has no such
        noise."""
        tokens = tokens[:, :-1]
        return self.likelihood_problem(tokens, torch.ones_like(tokens, dtype=torch.bool), draw)

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → K of the m scored ones are touched; each of the m has a loss."""
        candidates = scored.numpy()
        total = candidates.sum(axis=1)
        count = noise.exact_counts(draw.levels, total + 1) - 1
        log_snr, weight = self._levels(draw.keys, count, total)
        touched = noise.exact_masks(draw.keys, count, candidates)
        share = uniform_share(log_snr, self.noise_shift)
        inside = (np.abs(log_snr) <= LIMIT)[:, None]
        ids = torch.from_numpy(np.where(touched, self._drawn(draw.keys, share, touched), tokens))
        weights = weight[:, None] * (touched + self._some(draw.keys, candidates & ~touched))
        mean_one = touched * ((total + 1) / np.maximum(count, 1))[:, None]
        return Problem(
            inputs=ids,
            targets=tokens,
            weights=torch.from_numpy(np.where(inside, weights, 0).astype(np.float32)),
            denominator=int(total.sum()),
            attention="bidirectional",
            log_snr=torch.from_numpy(log_snr.astype(np.float32)),
            loss=JumpLoss(ids, torch.from_numpy(log_snr), torch.from_numpy(share), self.vocabulary),
            mean_one=mean_one,
        )

    def missed(self, lowest: float) -> float:
        """Estimate of what levels beyond ±12 would add, nats per token. `lowest`: the mean of
        draws with the least noise, nats per token.

        Of much noise it is KL(q ‖ π) at λ = −12. Of little noise, 1 − α ≤ ε, the draws' mean grows
        like log(1 / (1 − α)), so that it is at most ε·(lowest + 12 + 1) if it is flat else.
        """
        return self.prior_nll(-LIMIT) + _sigmoid(-LIMIT) * (lowest + LIMIT + 1)

    def prior_nll(self, log_snr: float) -> float:
        """KL(q_λ(·|x) ‖ π_λ): what texts written from pure noise at λ lose, nats per token."""
        keep, share = _sigmoid(log_snr), float(uniform_share(np.array(log_snr), self.noise_shift))
        prior = share / self.vocabulary
        mine = keep + (1 - keep) * prior
        rest = (1 - keep) * (1 - prior) * math.log1p(-keep)
        return mine * math.log(mine / prior) + rest if prior else math.inf

    def _levels(
        self, keys: Keys, count: NDArray[np.int64], total: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[B] λ and weights of rows with `count` of `total` tokens touched."""
        from scipy.special import betaincinv

        point = noise.row_uniforms(keys, "noise level")
        # Both shares by themselves: 1 minus the other is rounded where it is small.
        some = np.maximum(count, 1)
        others = total - count + 1
        beta = betaincinv(some, others, point)
        alpha = betaincinv(others, some, 1 - point)
        with np.errstate(divide="ignore"):
            log_snr = np.log(alpha) - np.log(beta)
            return log_snr, np.where(count > 0, (total + 1) / some, 1 / beta)

    def _some(self, keys: Keys, untouched: noise.Masks) -> NDArray[np.float64]:
        """[B, L] weights with mean 1 of the untouched tokens, most of them 0."""
        total = untouched.sum(axis=1)
        count = -(-total // ONE_IN)
        own = rng.row_keys(rng.stream_key(0, "untouched"), keys)
        scale = total / np.maximum(count, 1)
        weights: NDArray[np.float64] = noise.exact_masks(own, count, untouched) * scale[:, None]
        return weights

    def _drawn(
        self, keys: Keys, share: NDArray[np.float64], touched: noise.Masks
    ) -> NDArray[np.int64]:
        """[B, L] ids drawn from π of each row."""
        own = rng.row_keys(rng.stream_key(0, "noise tokens"), keys)
        coins, drawn = np.split(rng.uniforms(own, 2 * touched.shape[1]), 2, axis=1)
        ids = np.floor(drawn * self.vocabulary).astype(np.int64)
        return np.where(coins < share[:, None], ids, self.vocabulary)


def uniform_share(log_snr: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """s = sigmoid(λ + shift), the share of the noise that is uniform over the tokens."""
    if shift == math.inf:
        return np.ones_like(log_snr)
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-(log_snr + shift))))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))

"""How a token is chosen from its logits, and how sure the model was of it.

All chance comes in as uniform numbers, which are pure functions of a sample's key, the step
and the place (`uniforms`). So a sample is the same alone and in any batch, on any device.
Shape letters: N choices, B samples, L places, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from epochal import rng
from epochal.errors import UserError
from epochal.rng import Keys

Certainty = Literal["confidence", "margin", "entropy"]
LEAST_TEMPERATURE = 1e-30
"""What float32 can divide by; below, and above 0, is taken as this."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen from its logits."""

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int | None = None
    """Choose among so many likeliest tokens."""
    top_p: float | None = None
    """Choose among the likeliest tokens that together have this probability."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature = {self.temperature}: give 0 or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k = {self.top_k}: give at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: give a share above 0 and up to 1")

    def probabilities(self, logits: Tensor) -> Tensor:
        """[…, V] logits → the probabilities that are drawn from, float32."""
        logits = logits.float()
        if self.temperature == 0:
            return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
        # Less the largest first: else a tiny temperature makes infinities.
        logits = logits - logits.amax(dim=-1, keepdim=True)
        probs = torch.softmax(logits / max(self.temperature, LEAST_TEMPERATURE), dim=-1)
        if self.top_k is not None and self.top_k < probs.shape[-1]:
            least = probs.topk(self.top_k, dim=-1).values[..., -1:]
            probs = probs.masked_fill(probs < least, 0)
        if self.top_p is not None and self.top_p < 1:
            ordered, place = probs.sort(dim=-1, descending=True)
            # A token stays if those before it do not reach top_p; the first always stays.
            before = ordered.cumsum(dim=-1) - ordered
            ordered = ordered.masked_fill(before >= self.top_p * probs.sum(-1, keepdim=True), 0)
            probs = torch.zeros_like(probs).scatter(-1, place, ordered)
        return probs / probs.sum(dim=-1, keepdim=True)

    def sample(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """[N, V] logits and [N] numbers in [0, 1) → [N] tokens, by inverting the distribution."""
        probs = self.probabilities(logits)
        wide = torch.float32 if probs.device.type == "mps" else torch.float64
        cumulated = probs.to(wide).cumsum(dim=-1)
        point = uniform.to(wide).to(probs.device)[:, None] * cumulated[:, -1:]
        place = torch.searchsorted(cumulated, point, right=True).squeeze(-1)
        # Rounding may put the point at the very end; the last token with a chance is meant.
        width = probs.shape[-1]
        last = width - 1 - (probs.flip(-1) > 0).int().argmax(dim=-1)
        return torch.minimum(place, last)


def certainty(logits: Tensor, tokens: Tensor, kind: Certainty) -> Tensor:
    """[N] how sure the model is at each place, the surest highest; from its own probabilities,
    before temperature and cuts.

    confidence: the probability of the chosen token. margin: of the likeliest token less that
    of the second. entropy: minus the entropy, in nats.
    """
    logs = logits.float().log_softmax(dim=-1)
    if kind == "confidence":
        return logs.gather(-1, tokens[:, None]).squeeze(-1).exp()
    if kind == "margin":
        best = logs.topk(min(2, logs.shape[-1]), dim=-1).values.exp()
        return best[:, 0] - best[:, -1]
    return (logs.exp() * logs).sum(dim=-1)


def sample_keys(seed: int, prompt: str, samples: int) -> Keys:
    """[samples] keys: from the seed, the prompt and the number of the sample alone."""
    return rng.row_keys(rng.stream_key(seed, f"generate:{prompt}"), np.arange(samples))


def uniforms(keys: Keys, step: int, count: int, purpose: int = 0) -> Tensor:
    """[B] keys → [B, count] numbers in [0, 1) for one step; `purpose` 0 or 1 keeps two apart."""
    at_step = rng.outputs(keys, np.asarray(2 * step + purpose))
    return torch.from_numpy(rng.uniforms(at_step, count))

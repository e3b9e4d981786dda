"""How a token is drawn from its logits, and how confident the model was in it.

All chance comes in as uniform numbers, which are pure functions of a sample's key, the step
and the position (`uniforms`). So a sample is the same alone and in any batch, on any device.
Shape letters: N choices, B samples, L positions, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from epochal import rng
from epochal.generation.config import GenerationConfig
from epochal.rng import Keys

Certainty = Literal["confidence", "margin", "entropy"]
LEAST_TEMPERATURE = 1e-30
"""The least that float32 can divide by; smaller positive temperatures count as this."""


def probabilities(logits: Tensor, config: GenerationConfig) -> Tensor:
    """[…, V] logits → the probabilities to draw from, float32: temperature, top-k, top-p."""
    logits = logits.float()
    if config.temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
    # Subtract the largest first: else a tiny temperature makes infinities.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    probs = torch.softmax(logits / max(config.temperature, LEAST_TEMPERATURE), dim=-1)
    if config.top_k is not None and config.top_k < probs.shape[-1]:
        least = probs.topk(config.top_k, dim=-1).values[..., -1:]
        probs = probs.masked_fill(probs < least, 0)
    if config.top_p is not None and config.top_p < 1:
        ordered, index = probs.sort(dim=-1, descending=True)
        # A token stays if those before it do not reach top_p; the first always stays.
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= config.top_p * probs.sum(-1, keepdim=True), 0)
        probs = torch.zeros_like(probs).scatter(-1, index, ordered)
    return probs / probs.sum(dim=-1, keepdim=True)


def sample(logits: Tensor, uniform: Tensor, config: GenerationConfig) -> Tensor:
    """[N, V] logits and [N] numbers in [0, 1) → [N] tokens, by inverting the distribution."""
    probs = probabilities(logits, config)
    wide = torch.float32 if probs.device.type == "mps" else torch.float64
    cumulated = probs.to(wide).cumsum(dim=-1)
    point = uniform.to(wide).to(probs.device)[:, None] * cumulated[:, -1:]
    token = torch.searchsorted(cumulated, point, right=True).squeeze(-1)
    # Rounding may put the point at the very end: then take the last token with a probability.
    last = probs.shape[-1] - 1 - (probs.flip(-1) > 0).int().argmax(dim=-1)
    return torch.minimum(token, last)


def certainty(logits: Tensor, tokens: Tensor, kind: Certainty) -> Tensor:
    """[N] how certain the model is, the most certain highest; from its own probabilities, before
    temperature, top-k and top-p.

    confidence: the probability of the drawn token. margin: that of the most likely token minus
    that of the second. entropy: minus the entropy, in nats.
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

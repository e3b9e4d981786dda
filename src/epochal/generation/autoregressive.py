"""Text from an autoregressive model, token by token, with cached keys and values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.device import Machine
from epochal.generation.sampling import Sampling, uniforms
from epochal.models import Transformer
from epochal.rng import Keys

PREFILL_TOKENS = 1024
"""Tokens of a prompt that are read in one pass; bounds the memory of long prompts."""


@torch.no_grad()
def text_steps(
    model: Transformer,
    prompt: Tensor,
    new_tokens: int,
    *,
    end: int,
    vocabulary: int,
    sampling: Sampling,
    keys: Keys,
    machine: Machine,
    prefill: int = PREFILL_TOKENS,
) -> Iterator[Tensor]:
    """[B, P] prompts → up to `new_tokens` times the next token of each, [B].

    After `end` a sample holds only `end`; the steps cease when all have. The prompt is read
    in pieces of `prefill` tokens, each token after it alone, with all before it in the cache.
    """
    model.eval()
    device = machine.device
    if new_tokens < 1:
        return
    caches = model.new_caches(len(prompt), prompt.shape[1] + new_tokens)
    with machine.autocast():
        for first in range(0, prompt.shape[1], prefill):
            piece = prompt[:, first : first + prefill].to(device)
            hidden = model(piece, "causal", caches=caches)
    done = torch.zeros(len(prompt), dtype=torch.bool)
    for count in range(new_tokens):
        with machine.autocast():
            logits = F.linear(hidden[:, -1], model.table[:vocabulary])
        chance = uniforms(keys, count, 1)[:, 0]
        token = sampling.sample(logits, chance).cpu().masked_fill(done, end)
        done |= token == end
        yield token
        if done.all() or count + 1 == new_tokens:
            return
        with machine.autocast():
            hidden = model(token[:, None].to(device), "causal", caches=caches)

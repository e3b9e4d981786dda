"""Text from a model: AR token by token with a cache, MDM by unmasking in few or many steps.

Samplers are functions of logits and an explicit generator; the same seed gives the same text.
Shape letters: B samples, L positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.errors import UserError
from epochal.models import Transformer

Report = Callable[[int], None]


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
        probs = torch.softmax(logits / self.temperature, dim=-1)
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

    def sample(self, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """[N, V] logits → [N] tokens and [N] the model's own probability of each."""
        chosen = torch.multinomial(self.probabilities(logits), 1, generator=generator)
        own = torch.softmax(logits.float(), dim=-1).gather(-1, chosen)
        return chosen.squeeze(-1), own.squeeze(-1)


@torch.no_grad()
def continue_text(
    model: Transformer,
    prompt: Tensor,
    new_tokens: int,
    *,
    end: int,
    vocabulary: int,
    sampling: Sampling,
    generator: torch.Generator,
    report: Report = lambda done: None,
) -> Tensor:
    """[B, P] prompts → [B, ≤ new_tokens] tokens after them, by an AR model with a cache.

    After `end` a sample holds only `end`; the loop ends when all have.
    """
    model.eval()
    device = model.table.device
    caches = model.new_caches(len(prompt), prompt.shape[1] + new_tokens)
    step, out = prompt, []
    done = torch.zeros(len(prompt), dtype=torch.bool)
    for count in range(new_tokens):
        hidden = model(step.to(device), "causal", caches=caches)[:, -1]
        logits = F.linear(hidden, model.table)[:, :vocabulary].cpu()
        token = sampling.sample(logits, generator)[0].masked_fill(done, end)
        done |= token == end
        out.append(token)
        report(count + 1)
        if done.all():
            break
        step = token[:, None]
    return torch.stack(out, dim=1) if out else prompt[:, :0]


@torch.no_grad()
def unmask(
    model: Transformer,
    ids: Tensor,
    steps: int,
    *,
    mask: int,
    vocabulary: int,
    order: Literal["confidence", "ancestral"],
    sampling: Sampling,
    generator: torch.Generator,
    report: Report = lambda done: None,
) -> Tensor:
    """[B, L] ids, some of them `mask` → the same with every mask replaced, by an MDM model.

    confidence: each step proposes a token for every masked position and keeps those of
    highest probability, equally many per step (LLaDA, arXiv 2502.09992 §2.4). ancestral: the
    reverse of the noise process; going from time t to s, each masked position is revealed
    with probability (t − s)/t (MDLM, arXiv 2406.07524 §3). Raises UserError for no steps.
    """
    if steps < 1:
        raise UserError(f"steps = {steps}: give at least 1")
    model.eval()
    device = model.table.device
    ids = ids.clone()
    for step in range(steps):
        masked = ids == mask
        if not masked.any():
            break
        hidden = model(ids.to(device), "bidirectional")
        logits = F.linear(hidden[masked.to(device)], model.table)[:, :vocabulary].cpu()
        tokens, probs = sampling.sample(logits, generator)
        if order == "confidence":
            keep = _most_confident(masked, probs, left=steps - step)
        else:
            keep = torch.rand(len(tokens), generator=generator) < 1 / (steps - step)
        place = masked.nonzero()[keep]
        ids[place[:, 0], place[:, 1]] = tokens[keep]
        report(step + 1)
    return ids


def _most_confident(masked: Tensor, probs: Tensor, left: int) -> Tensor:
    """[masked positions] bool: per sample, the ⌈remaining/left⌉ of highest probability."""
    confidence = torch.full(masked.shape, -1.0)
    confidence[masked] = probs
    remaining = masked.sum(dim=1)
    quota = -(-remaining // left)
    rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < quota[:, None])[masked]

"""The loss of noise that replaces tokens: what a position adds to the bound of `jump_noise`.

A token x stays with probability α = sigmoid(λ) and is else drawn from π = s·u + (1 − s)·mask, u
uniform over V tokens. With x̂ the network's softmax over these, c = (1 − α)·s/V, a = α/c and
g(y) = log(1 + a·x̂(y)), the noised token z has

    KL(q(·|x) ‖ p) / α = log(1 + a) − g(x) + (log(1 + a) − Σ_y g(y)) / a

    z = x       log r = log(1 + a) − g(x)      rate s / (1 + a)
    z ≠ x       log r = −g(z)                  rate s
    z = mask    log r = 0                      rate 1 + s

and the loss is rate · (KL + r − 1 − log r) / α, in nats. As s → 0 only masks have a rate, a → ∞,
and it is the cross-entropy −log x̂(x).

Shape letters: B rows, L positions, S scored positions, C rows of a block, V tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from epochal.objectives.cross_entropy import Score, compiled_function, widened

CACHED = 2**19
"""Logits that fit into a CPU's cache with what is made of them."""


@dataclass(frozen=True, slots=True)
class JumpLoss:
    """The loss of noised rows, each with its own noise level."""

    noised: Tensor
    """[B, L] int64; ids from `vocabulary` on are masks."""
    log_snr: Tensor
    """[B] float64, λ = log(α / (1 − α))."""
    uniform: Tensor
    """[B] float64, s: share of the noise that is uniform over the tokens; the rest is masks."""
    vocabulary: int
    """V."""

    def score(
        self,
        index: Tensor | None,
        targets: Tensor,
        weights: Tensor | None = None,
        *,
        compiled: bool = False,
    ) -> Score:
        """What turns logits of blocks of the S scored positions `index` (None for all), with their
        `targets` [S], into losses, and, if `weights` [S] are given, into gradients."""
        device = targets.device
        every = torch.arange(self.noised.numel()) if index is None else index.cpu()
        seen = self.noised.flatten()[every].to(device)
        row = every // self.noised.shape[1]
        # What belongs to a row is computed in float64; logits are seldom so wide.
        log_snr, share = self.log_snr[row].to(device), self.uniform[row].to(device)
        function = compiled_function(_jump) if compiled else _jump
        # What a CPU works on then stays in its cache.
        rows = CACHED // self.vocabulary + 1 if device.type == "cpu" and not compiled else 2**31

        def score(logits: Tensor, block: slice) -> Tensor:
            begin, found = block.start or 0, []
            for first in range(0, len(logits), rows):
                part = logits[first : first + rows]
                own = slice(begin + first, begin + first + len(part))
                at = targets[own], seen[own], log_snr[own], share[own]
                weight = None if weights is None else weights[own]
                found.append(function(part, *at, weight, self.vocabulary))
            return torch.cat(found)

        return score


def _jump(
    logits: Tensor,
    targets: Tensor,
    seen: Tensor,
    log_snr: Tensor,
    share: Tensor,
    weights: Tensor | None,
    vocabulary: int,
) -> Tensor:
    """[C] losses of a block of logits, which become the gradient of their weighted sum."""
    x = widened(logits)  # `logits` itself if they are float32: the rest is in place
    x[:, vocabulary:] = -torch.inf
    keep = torch.sigmoid(log_snr)
    largest = torch.finfo(x.dtype).max ** 0.75
    a = (log_snr.exp() * vocabulary / share).clamp(max=largest).to(x.dtype)
    rate = torch.where(seen == targets, share / (1 + a.double()), share)
    rate = torch.where(seen >= vocabulary, 1 + share, rate).to(x.dtype)
    keep = keep.to(x.dtype)

    x.sub_(x.amax(dim=1, keepdim=True)).exp_()
    mass = x.sum(dim=1)
    token = torch.stack((targets, seen.clamp(max=vocabulary - 1)), dim=1)
    scaled = x * (a / mass)[:, None]
    g_target, g_seen = scaled.gather(1, token).log1p().unbind(1)
    g_all = scaled.log1p().sum(dim=1)
    top = a.log1p()
    log_r = torch.where(seen == targets, top - g_target, -g_seen)
    log_r = torch.where(seen >= vocabulary, 0.0, log_r)
    excess = log_r.expm1()  # r − 1
    loss = rate * (top - g_target + (top - g_all) / a + (excess - log_r) / keep)
    if weights is None:
        return loss

    # With u = a·x̂ / (1 + a·x̂) and h(y) = u(y)·([y = x] + 1/a + [y = z]·(r − 1)/α), the gradient is
    # rate · (x̂·Σh − h).
    scaled.div_(scaled + 1)
    picked = scaled.gather(1, token)
    picked = torch.stack((picked[:, 0], picked[:, 1] * excess / keep), dim=1)
    total = picked.sum(dim=1) + scaled.sum(dim=1) / a
    each = weights * rate
    x.mul_((each * total / mass)[:, None]).addcmul_(scaled, (each / a)[:, None], value=-1)
    x.scatter_add_(1, token, -each[:, None] * picked)
    if x is not logits:
        logits.copy_(x)
    return loss

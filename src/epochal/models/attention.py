"""Attention with rotary positions: causal, bidirectional or with an explicit mask.

Shape letters: B rows, L positions, H heads, K head_dim, E model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rule = Literal["causal", "bidirectional"] | Tensor


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, float32, of the rotation angles of `positions` ([L], [B, L] or [2, B, L]).

    Shape [..., L, K/2]: position · theta^(−2i/K) for pair i. RoPE: arXiv 2104.09864 §3.4.
    """
    pair = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions[..., None].float() * theta ** (-pair / head_dim)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, L, H, K] by its positions' angles; pairs are (i, i + K/2) as in Megatron."""
    cos, sin = cos[..., None, :].to(x.dtype), sin[..., None, :].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@dataclass(slots=True)
class LayerCache:
    """Keys and values of the positions already read, for one layer: [B, H, capacity, K]."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add [B, H, new, K] and return all so far; the caller keeps within the capacity."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    """Multi-head attention without biases; scores are divided by √K."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        head_dim: int,
        dropout: float,
        head_multiplier: float = 1.0,
    ) -> None:
        """With `head_multiplier` = K / K of a base model, scores are divided by K / √(K base)."""
        super().__init__()
        # None is torch's own 1/√K, to the last bit.
        self.scale = None if head_multiplier == 1 else (head_dim * head_multiplier) ** -0.5
        self.head_dim = head_dim
        self.dropout = dropout
        self.query = nn.Linear(d_model, heads * head_dim, bias=False)
        self.key = nn.Linear(d_model, heads * head_dim, bias=False)
        self.value = nn.Linear(d_model, heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        rule: Rule,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """[B, L, E] → [B, L, E]. With a cache, x are the positions after those in it. Tables of
        [2, B, L, K/2] have the angles of keys first, those of queries second."""
        own = asked = rotary
        if rotary[0].dim() == 4:
            own, asked = zip(*rotary, strict=True)
        # −1: with tensor parallelism a process has fewer heads.
        heads = (*x.shape[:2], -1, self.head_dim)
        q = rotate(self.query(x).view(heads), *asked).transpose(1, 2)
        k = rotate(self.key(x).view(heads), *own).transpose(1, 2)
        v = self.value(x).view(heads).transpose(1, 2)
        causal = isinstance(rule, str) and rule == "causal"
        if cache is not None:
            if causal and cache.length:
                # One new position sees all cached ones; several need a mask.
                causal, new = False, x.shape[1]
                if new > 1:
                    seen = torch.ones(new, cache.length + new, dtype=torch.bool, device=x.device)
                    rule = seen.tril(diagonal=cache.length)
            k, v = cache.append(k, v)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=rule if isinstance(rule, Tensor) else None,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=self.scale,
        )
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

"""The transformer, the same for all families.

Pre-norm RMSNorm, SwiGLU, rotary positions, no biases, tied embedding by default; causal or
bidirectional is an argument of the call. It returns hidden states; logits are computed where they
are scored. Conventions are the original's (arXiv 2507.15857 §9, Megatron), so that its
checkpoints can be loaded.

Shape letters: B rows, L positions, E model width, V padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from epochal import rng
from epochal.models.attention import Attention, LayerCache, Rule, rotary_tables
from epochal.sizes import NOISE_FEATURES, Architecture

BLOCKS = "blocks."
"""What the names of all weights in blocks begin with."""
NOISE_LEVEL = ".noise_level.weight"
"""What those end with that make scales and shifts of the noise level."""


class _FeedForward(nn.Module):
    """SwiGLU: down(SiLU(gate(x)) · up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, E] → [B, L, E]."""
        output: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return output


class _LastNorm(nn.RMSNorm):
    """RMSNorm whose output, and so the logits, are divided by the width multiplier."""

    def __init__(self, d_model: int, eps: float, width_multiplier: float) -> None:
        super().__init__(d_model, eps=eps)
        self.width_multiplier = width_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, E] → [B, L, E]."""
        normed = super().forward(x)
        return normed if self.width_multiplier == 1 else normed / self.width_multiplier


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); with a depth multiplier, what is
    added is divided by it."""

    def __init__(
        self, shape: Architecture, norm_eps: float, attention_dropout: float, hidden_dropout: float
    ) -> None:
        super().__init__()
        d = shape.d_model
        self.hidden_dropout = hidden_dropout
        self.depth_multiplier = shape.multipliers.depth
        self.attention_norm = nn.RMSNorm(d, eps=norm_eps)
        self.attention = Attention(
            d, shape.heads, shape.head_dim, attention_dropout, shape.multipliers.head
        )
        self.feed_forward_norm = nn.RMSNorm(d, eps=norm_eps)
        self.feed_forward = _FeedForward(d, shape.d_ff)
        self.noise_level = (
            nn.Linear(NOISE_FEATURES, 4 * d, bias=False) if shape.noise_conditioning else None
        )

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        rule: Rule,
        cache: LayerCache | None = None,
        scales: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """[B, L, E] → [B, L, E]. `scales` [B, 2] multiply what attention and feed-forward add;
        `noise` are `noise_features`."""
        attended, fed = (None, None) if scales is None else scales[:, None, None].unbind(-1)
        read, then = self.attention_norm(x), None
        if self.noise_level is not None:
            first, second, *then = self.noise_level(noise)[:, None].chunk(4, dim=-1)
            read = read * (1 + first) + second
        x = x + self._added(self.attention(read, rotary, rule, cache), attended)
        read = self.feed_forward_norm(x)
        if then is not None:
            read = read * (1 + then[0]) + then[1]
        return x + self._added(self.feed_forward(read), fed)

    def _added(self, branch: Tensor, scale: Tensor | None) -> Tensor:
        branch = F.dropout(branch, self.hidden_dropout, self.training)
        branch = branch if scale is None else branch * scale
        return branch if self.depth_multiplier == 1 else branch / self.depth_multiplier


class Transformer(nn.Module):
    """Token ids in, hidden states out."""

    def __init__(
        self,
        shape: Architecture,
        vocabulary: int,
        *,
        norm_eps: float = 1e-5,
        rope_theta: float = 10000.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        embedding_dropout: float | None = None,
    ) -> None:
        """`vocabulary`: the tokenizer's ids; the table is padded and has a row for a mask id."""
        super().__init__()
        self.shape = shape
        self.vocabulary = vocabulary
        self.rope_theta = rope_theta
        self.embedding_dropout = hidden_dropout if embedding_dropout is None else embedding_dropout
        rows = shape.rows(vocabulary)
        self.embedding = nn.Embedding(rows, shape.d_model)
        self.blocks = nn.ModuleList(
            Block(shape, norm_eps, attention_dropout, hidden_dropout) for _ in range(shape.layers)
        )
        self.final_norm = _LastNorm(shape.d_model, norm_eps, shape.multipliers.width)
        self.head = None if shape.tie_embeddings else nn.Linear(shape.d_model, rows, bias=False)
        self.view_table: Callable[[Tensor], Tensor] | None = None
        """Gathers the full output table if it is sharded; set from outside."""
        self.part = False
        """Whether other blocks are in other pipeline stages; set from outside."""
        self.scores = True
        """Whether this process has the last stage, with hidden states and output table; set from
        outside."""

    @property
    def output_weight(self) -> Tensor:
        """This process's part of the output table: the embedding's unless untied."""
        return self.embedding.weight if self.head is None else self.head.weight

    @property
    def table(self) -> Tensor:
        """[V, E] output table."""
        weight = self.output_weight
        return weight if self.view_table is None else self.view_table(weight)

    def forward(
        self,
        ids: Tensor,
        rule: Rule,
        positions: Tensor | None = None,
        log_snr: Tensor | None = None,
        scales: Tensor | None = None,
        caches: list[LayerCache] | None = None,
    ) -> Tensor:
        """[B, L] ids → [B, L, E] hidden states after the last norm; logits are these · tableᵀ.

        `rule` is "causal", "bidirectional" or a [B, 1, L, L] bool mask; `positions` ([L], [B, L],
        or [2, B, L] for keys and for queries) default to 0 … L−1, or to those after the cache;
        `log_snr` [B] are the rows' noise levels, which only a network that is told them reads;
        `scales` are `branch_scales`.
        """
        if positions is None:
            start = caches[0].length if caches else 0
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        rotary = rotary_tables(positions, self.shape.head_dim, self.rope_theta)
        x = F.dropout(self.embedding(ids), self.embedding_dropout, self.training)
        noise = self.noise(log_snr)
        for layer, block in enumerate(self.blocks):
            own = None if scales is None else scales[:, layer]
            x = block(x, rotary, rule, caches[layer] if caches else None, own, noise)
        hidden: Tensor = self.final_norm(x)
        return hidden

    def noise(self, log_snr: Tensor | None) -> Tensor | None:
        """[B, `NOISE_FEATURES`] of the rows' noise levels; None for a network that is not told."""
        if not self.shape.noise_conditioning:
            return None
        if log_snr is None:
            raise ValueError("a network that is told the noise level needs it")
        return noise_features(log_snr)

    def logits(self, ids: Tensor, rule: Rule, log_snr: Tensor | None = None) -> Tensor:
        """[B, L] ids → [B, L, V] logits, for small inputs and for tests."""
        return F.linear(self(ids, rule, log_snr=log_snr), self.table)

    def new_caches(self, rows: int, capacity: int) -> list[LayerCache]:
        """Empty caches for `rows` rows of up to `capacity` positions."""
        weight = self.embedding.weight
        size = (rows, self.shape.heads, capacity, self.shape.head_dim)
        return [LayerCache(weight.new_zeros(size), weight.new_zeros(size)) for _ in self.blocks]


def noise_features(log_snr: Tensor) -> Tensor:
    """[B] log-SNR → [B, `NOISE_FEATURES`] float32: a Fourier series of half the period on ±12, so
    that any smooth scale and shift is a linear map of it."""
    at = log_snr.float().clamp(-12, 12)[:, None] * (torch.pi / 24)
    order = torch.arange(NOISE_FEATURES // 2, device=log_snr.device)
    return torch.cat(((at * order).cos(), (at * (order + 1)).sin()), dim=1)


def branch_scales(rate: float, layers: int, key: int, rows: NDArray[np.int64]) -> Tensor:
    """[B, layers, 2] by what stochastic depth multiplies the two branches of each block, for `rows`
    [B] of a step with this key: 0, or 1/(1 − p), so that the mean is 1 (Huang et al., arXiv
    1603.09382; whole branches of a row, as Larsson et al., arXiv 1605.07648).

    Block l of n (from 1) loses a branch with probability p = `rate`·l/n. A pure function: neither
    micro-batches nor processes change a row's draw.
    """
    lost = rate * np.arange(1, layers + 1)[:, None] / layers
    draws = rng.uniforms(rng.row_keys(key, rows), 2 * layers).reshape(-1, layers, 2)
    return torch.from_numpy(np.where(draws < lost, 0.0, 1 / (1 - lost))).float()


@torch.no_grad()
def initialise(
    model: Transformer,
    seed: int,
    copy: Callable[[Tensor, Tensor], object] = Tensor.copy_,
    std: float = 0.02,
) -> None:
    """Fill the weights: N(0, std²); the two projections back into the residual stream
    N(0, (std/√(2·layers))²); norms 1 (Megatron's default, which the original keeps); scales and
    shifts of the noise level 0.

    With multipliers (CompleteP), the variance of the blocks' matrices is divided by m_N, and
    `layers` are the base model's, since the forward pass divides by m_L.

    Each tensor has its own stream of random numbers, named after it, so its values do not depend
    on other tensors. `copy` writes a full tensor into a weight that may be sharded.
    """
    by = model.shape.multipliers
    hidden_std = std / by.width**0.5
    residual_std = hidden_std / (2 * model.shape.layers / by.depth) ** 0.5
    for name, weight in model.named_parameters():
        if weight.dim() == 1 or name.endswith(NOISE_LEVEL):
            weight.fill_(1.0 if weight.dim() == 1 else 0.0)
            continue
        if name.endswith(("attention.output.weight", "down.weight")):
            own_std = residual_std
        else:
            own_std = hidden_std if name.startswith(BLOCKS) else std
        generator = torch.Generator().manual_seed(rng.stream_key(seed, f"initial:{name}") >> 1)
        draw = torch.empty(weight.shape, dtype=torch.float32)
        copy(weight, draw.normal_(0.0, own_std, generator=generator))


def folded_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights, by name, of a model of the standard parametrisation that has the same logits.

    Queries take up the scale of the attention, the projections back into the residual stream the
    division by m_L, and the last norm the division of the logits by m_N, also if tables are tied.
    """
    by = model.shape.multipliers
    factors = {
        "attention.query.weight": by.head**-0.5,
        "attention.output.weight": 1 / by.depth,
        "feed_forward.down.weight": 1 / by.depth,
        "final_norm.weight": 1 / by.width,
    }
    folded = {}
    for name, weight in model.named_parameters():
        factor = next((value for end, value in factors.items() if name.endswith(end)), 1.0)
        folded[name] = weight.detach() if factor == 1 else weight.detach() * factor
    return folded

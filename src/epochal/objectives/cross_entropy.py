"""Weighted NLL from hidden states, without a [tokens, vocabulary] tensor.

The logits of a few hundred scored positions at a time are computed, turned into their part of
the loss and into gradients, and dropped. Peak memory is one such block instead of three or four
times B·L·V, and positions without a weight cost nothing: masked diffusion, which scores about
half of its positions, computes half of the logits.

The idea of Wijmans et al., "Cut your losses in large-vocabulary language models", arXiv
2411.09009, and Hsu et al., "Liger kernel", arXiv 2410.10989, with a weight per position, in plain
torch, so that it runs on any device.

Shape letters: P positions (B·L), S scored positions, C rows of a block, E model width,
V rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from epochal.sizes import logits_block

Softmax = Callable[[Tensor, Tensor, Tensor], Tensor]
Score = Callable[[Tensor, slice], Tensor]
"""Logits [C, V] of a block, and which of the scored positions it has → [C] losses; the logits
become the gradient of the losses' weighted sum."""


def linear_nll(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor,
    index: Tensor | None = None,
    *,
    compiled: bool = False,
    each: Tensor | None = None,
    softmax: Softmax | None = None,
) -> Tensor:
    """Scalar Σ_s weights[s] · −log softmax(hidden[index[s]] · tableᵀ)[targets[s]].

    hidden [P, E], table [V, E], targets and weights [S], index [S] of distinct positions or
    None for all P. Differentiable once in hidden and table. Matrix products run in the
    autocast dtype where autocast is on, softmax and sums in float32 (float64 for float64).
    `compiled` fuses the softmax with its gradient through torch.compile. `each` [S], if given,
    is filled with the NLL of each position, for the log. `softmax` replaces `_softmax` if the
    table has only part of the rows.
    """
    if softmax is None:
        softmax = compiled_function(_fused_softmax) if compiled else _softmax

    def score(logits: Tensor, block: slice) -> Tensor:
        nll = softmax(logits, targets[block], weights[block])
        if each is not None:
            each[block] = nll
        return nll

    return linear_loss(hidden, table, weights, index, score, compiled=compiled)


def linear_loss(
    hidden: Tensor,
    table: Tensor,
    weights: Tensor,
    index: Tensor | None,
    score: Score,
    *,
    compiled: bool = False,
) -> Tensor:
    """Scalar Σ_s weights[s] · loss of hidden[index[s]] · tableᵀ, by blocks of logits, which `score`
    turns into losses and gradients. Otherwise as `linear_nll`."""
    apply: Callable[..., Tensor] = _LinearLoss.apply
    return apply(hidden, table, weights, index, score, compute_dtype(hidden), compiled)


@torch.no_grad()
def token_nll(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    index: Tensor | None = None,
    compiled: bool = False,
    score: Score | None = None,
) -> Tensor:
    """[S] −log softmax(hidden[index] · tableᵀ)[targets], block by block; float32 or wider.

    `compiled` reads the logits once or twice through torch.compile, without a wide copy of them.
    `score` gives another loss than the NLL.
    """
    picked_nll = compiled_function(_nll) if compiled else _nll
    dtype = compute_dtype(hidden)
    rows = (hidden if index is None else hidden[index]).to(dtype)
    cast = table.to(dtype)
    out = torch.empty(len(rows), dtype=widened(rows).dtype, device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for block in _blocks(len(rows), len(table), hidden.device):
            logits = rows[block] @ cast.T
            out[block] = score(logits, block) if score else picked_nll(logits, targets[block])
    return out


@torch.no_grad()
def mean_logit_nll(
    hidden: Sequence[Tensor],
    tables: Sequence[Tensor],
    targets: Tensor,
    groups: Sequence[Sequence[int]],
    index: Tensor | None = None,
) -> list[Tensor]:
    """Per group of models [S] −log softmax(mean of their logits)[targets]; float32 or wider.

    Hidden states [P, E] and table [V, E] of each model, E its own; a group is numbers of models.
    Logits are computed once for all groups, block by block.
    """
    dtype = compute_dtype(hidden[0])
    rows = [(states if index is None else states[index]).to(dtype) for states in hidden]
    cast = [table.to(dtype) for table in tables]
    wide = widened(rows[0][:0]).dtype
    out = [torch.empty(len(targets), dtype=wide, device=targets.device) for _ in groups]
    with torch.autocast(targets.device.type, enabled=False):
        for block in _blocks(len(targets), sum(map(len, tables)), targets.device):
            logits = [widened(x[block] @ t.T) for x, t in zip(rows, cast, strict=True)]
            for group, nll in zip(groups, out, strict=True):
                mean = torch.stack([logits[number] for number in group]).mean(dim=0)
                nll[block] = _nll(mean, targets[block])
    return out


class _LinearLoss(torch.autograd.Function):
    """Computes gradients in the forward pass, from the same logits, and scales them in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        weights: Tensor,
        index: Tensor | None,
        score: Score,
        dtype: torch.dtype,
        compiled: bool,
    ) -> Tensor:
        add: Callable[..., Tensor] = torch.Tensor.add_
        if compiled:
            add = compiled_function(add, None)
        rows = (hidden if index is None else hidden[index]).to(dtype)
        cast = table.to(dtype)
        blocks = _blocks(len(rows), len(table), hidden.device)
        wide = widened(rows[:0]).dtype
        total = torch.zeros((), dtype=wide, device=hidden.device)
        grad_rows = torch.empty_like(rows)
        grad_table = torch.zeros(table.shape, dtype=wide, device=table.device)
        # These two are reused for each block: page faults of new memory took as long as the matrix
        # products on a CPU.
        logits = rows.new_empty((blocks[0].stop, len(table))) if blocks else rows
        product = torch.empty_like(cast) if dtype != wide else None
        with torch.autocast(hidden.device.type, enabled=False):
            for block in blocks:
                part = logits[: block.stop - block.start]
                torch.mm(rows[block], cast.T, out=part)
                total += (score(part, block) * weights[block]).sum()
                torch.mm(part, cast, out=grad_rows[block])
                if product is None:
                    grad_table.addmm_(part.T, rows[block])
                else:
                    add(grad_table, torch.mm(part.T, rows[block], out=product))
        ctx.save_for_backward(grad_rows, grad_table, index)
        ctx.shapes = hidden.shape, hidden.dtype, table.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        grad_rows, grad_table, index = ctx.saved_tensors
        shape, hidden_dtype, table_dtype = ctx.shapes
        grad_rows = (grad_rows * grad_total).to(hidden_dtype)
        grad_table = grad_table.mul_(grad_total)  # not shared, and used once
        if index is None:
            grad_hidden = grad_rows
        else:
            # Positions are distinct, so this copy is deterministic on every device.
            grad_hidden = grad_rows.new_zeros(shape).index_copy_(0, index, grad_rows)
        return grad_hidden, grad_table.to(table_dtype), None, None, None, None, None


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Type of matrix products with these hidden states: autocast's where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def widened(x: Tensor) -> Tensor:
    """`x` in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def _blocks(rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Slices of nearly equal size, each of about `logits_block` logits at most."""
    block = logits_block(vocabulary, gpu=device.type == "cuda")
    count = max(1, -(-rows * vocabulary // block))
    size = max(1, -(-rows // count))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _softmax(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """[C] NLL of a block; `logits` [C, V] become the gradient of its weighted sum."""
    x = widened(logits)  # `logits` itself if they are float32: the rest is in place
    top = x.amax(dim=1, keepdim=True)
    picked = x.gather(1, targets[:, None])
    x.sub_(top).exp_()
    scale = x.sum(dim=1, keepdim=True)
    nll = (scale.log() + top - picked).squeeze(1)
    x.mul_(weights[:, None] / scale)
    x.scatter_add_(1, targets[:, None], -weights[:, None].to(x.dtype))
    if x is not logits:
        logits.copy_(x)
    return nll


def _fused_softmax(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """`_softmax`, in a form that the compiler turns into two passes over the logits."""
    x = widened(logits)
    log_sum = torch.logsumexp(x, dim=1, keepdim=True)
    picked = x.gather(1, targets[:, None])
    hit = torch.arange(x.shape[1], device=x.device)[None, :] == targets[:, None]
    grad = ((x - log_sum).exp() - hit.float()) * weights[:, None]
    logits.copy_(grad)
    return (log_sum - picked).squeeze(1)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """[C] NLL of a block of logits [C, V]."""
    x = widened(logits)
    return torch.logsumexp(x, dim=1) - x.gather(1, targets[:, None]).squeeze(1)


@cache
def compiled_function(
    function: Callable[..., Tensor], dynamic: bool | None = True
) -> Callable[..., Tensor]:
    """`function` through torch.compile, once for all calls."""
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=dynamic)
    return compiled

"""Tensor parallelism: each layer split over a few processes, by DTensor plans.

Embedding and head are vocabulary-parallel (Shoeybi et al., arXiv 1909.08053): each process looks
up and scores the tokens of its own rows of the table; sums over the vocabulary are exchanged.

Shape letters: B rows, L positions, P = B·L, E model width, V rows of the output table,
T processes, C scored positions of a block.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F

from epochal.models import Transformer
from epochal.objectives import linear_nll


def split_layers(model: Transformer, mesh: DeviceMesh, sequence: bool) -> None:
    """Split heads, inner widths and tables over the processes of `mesh`; with `sequence` also
    norms and the residual stream, by position (Korthikanti et al., arXiv 2205.05198)."""
    stream = Shard(1) if sequence else Replicate()
    # Modules without parameters are in another stage of a pipeline.
    if list(model.embedding.parameters()):
        _split_embedding(model.embedding, mesh, stream)
    if sequence and list(model.final_norm.parameters()):
        parallelize_module(model, mesh, {"final_norm": SequenceParallel()})
    if model.head is not None:
        parallelize_module(model, mesh, {"head": ColwiseParallel()})
    # Queries, keys and values read the same input, so it is gathered once, and their gradients are
    # summed before the exchange.
    rest = (None, None, None)  # rotary tables, rule, cache
    plan: dict[str, Any] = {
        "attention": PrepareModuleInput(
            input_layouts=(stream, *rest), desired_input_layouts=(Replicate(), *rest)
        ),
        "feed_forward": PrepareModuleInput(
            input_layouts=(stream,), desired_input_layouts=(Replicate(),)
        ),
        "attention.query": ColwiseParallel(),
        "attention.key": ColwiseParallel(),
        "attention.value": ColwiseParallel(),
        "attention.output": RowwiseParallel(output_layouts=stream),
        "feed_forward.gate": ColwiseParallel(),
        "feed_forward.up": ColwiseParallel(),
        "feed_forward.down": RowwiseParallel(output_layouts=stream),
    }
    if sequence:
        plan |= {"attention_norm": SequenceParallel(), "feed_forward_norm": SequenceParallel()}
    for block in model.blocks:
        if list(block.parameters()):
            parallelize_module(block, mesh, plan)
    model.view_table = full_tensor
    if sequence and model.scores:  # hidden states of all positions, on each process
        model.register_forward_hook(lambda module, inputs, hidden: full_tensor(hidden))


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered from all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_part(value: Tensor, weight: Tensor) -> Tensor:
    """The part of a full tensor, the same on all processes, that `local_shard(weight)` has of the
    weight, in the weight's type and on its device; found without an exchange."""
    value = value.to(weight.dtype)
    if isinstance(weight, DTensor):
        mesh = weight.device_mesh
        shard = distribute_tensor(
            value.to(mesh.device_type), mesh, weight.placements, src_data_rank=None
        )
        value = shard.to_local().to(weight.to_local().device)
    return value


def _split_embedding(embedding: nn.Embedding, mesh: DeviceMesh, stream: Replicate | Shard) -> None:
    """Give each process an equal part of the rows. Torch's own `RowwiseParallel` would leave the
    gradient of the full table on each of them."""
    embedding.weight = nn.Parameter(distribute_tensor(embedding.weight, mesh, [Shard(0)]))

    def forward(ids: Tensor) -> Tensor:
        """[B, L] → [B, L, E], or this process's positions."""
        part = local_shard(embedding.weight)
        row, here = _own_row(ids, len(part), mesh)
        looked_up = F.embedding(row, part).masked_fill(~here[..., None], 0)
        summed = DTensor.from_local(looked_up, mesh, [Partial()], run_check=False)
        return summed.redistribute(placements=[stream]).to_local()

    embedding.forward = forward  # type: ignore[method-assign, assignment]


def _own_row(ids: Tensor, rows: int, mesh: DeviceMesh) -> tuple[Tensor, Tensor]:
    """(row of each id among this process's `rows`, or 0; whether it is one of them)."""
    row = ids - mesh.get_local_rank() * rows
    here = (row >= 0) & (row < rows)
    return row.where(here, 0), here


def split_nll(
    mesh: DeviceMesh,
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor,
    index: Tensor | None = None,
    *,
    compiled: bool = False,
    each: Tensor | None = None,
) -> Tensor:
    """`linear_nll` with the rows of the table split over the processes of `mesh`.

    All have the same hidden states [P, E] and get the same sum; each computes the logits of its
    own V/T rows. Two numbers per position are exchanged.
    """
    group = mesh.get_group()
    # Each process has the gradient of its own rows.
    shared = DTensor.from_local(hidden, mesh, [Replicate()], run_check=False)
    hidden = shared.to_local(grad_placements=[Partial()])

    def softmax(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """[C] NLL; `logits` [C, V/T] become the gradient of its weighted sum."""
        x = logits if logits.dtype == torch.float64 else logits.float()
        row, here = _own_row(targets, x.shape[1], mesh)
        picked = x.gather(1, row[:, None]).squeeze(1).where(here, 0)
        mine = torch.stack((torch.logsumexp(x, dim=1), picked))
        parts = [torch.empty_like(mine) for _ in range(mesh.size())]
        dist.all_gather(parts, mine, group=group)
        log_sums, all_picked = torch.stack(parts, dim=1)
        log_sum, picked = torch.logsumexp(log_sums, dim=0), all_picked.sum(dim=0)
        x.sub_(log_sum[:, None]).exp_().mul_(weights[:, None])
        x.scatter_add_(1, row[:, None], -(weights * here)[:, None].to(x.dtype))
        if x is not logits:
            logits.copy_(x)
        nll: Tensor = log_sum - picked
        return nll

    own = local_shard(table)
    return linear_nll(
        hidden, own, targets, weights, index, compiled=compiled, each=each, softmax=softmax
    )

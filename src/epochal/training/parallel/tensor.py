"""Tensor parallelism: each layer cut over a few processes, by DTensor plans.

Shape letters: P positions, E model width, V rows of the output table, T processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from epochal.models import Transformer
from epochal.objectives import linear_nll


def split_layers(model: Transformer, mesh: DeviceMesh, sequence: bool) -> None:
    """Cut heads, inner widths and tables over the processes of `mesh`; with `sequence` also
    norms and the residual stream, by position (Korthikanti et al., arXiv 2205.05198)."""
    stream = Shard(1) if sequence else Replicate()
    plan: dict[str, Any] = {"embedding": RowwiseParallel(input_layouts=Replicate())}
    if sequence:
        plan["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
        plan["final_norm"] = SequenceParallel()
    if model.head is not None:
        plan["head"] = ColwiseParallel()
    parallelize_module(model, mesh, plan)
    # Queries, keys and values read the same input: gathered once, and their gradients summed
    # before they are exchanged.
    rest = (None, None, None)  # rotary tables, rule, cache
    whole: dict[str, Any] = {
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
        whole |= {"attention_norm": SequenceParallel(), "feed_forward_norm": SequenceParallel()}
    for block in model.blocks:
        parallelize_module(block, mesh, whole)
    model.view_table = _whole_table
    if sequence:
        model.register_forward_hook(_whole_hidden)


def _whole_hidden(module: Any, inputs: Any, hidden: Tensor) -> Tensor:
    """Hidden states of all positions on each process."""
    return hidden.full_tensor() if isinstance(hidden, DTensor) else hidden


def _whole_table(weight: Tensor) -> Tensor:
    """[V, E] table from all processes. Its gradients, each from other positions, are summed
    and handed back to the processes that own them."""
    if not isinstance(weight, DTensor):
        return weight
    return weight.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])


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
    """`linear_nll` with the scored positions dealt out to the processes of `mesh`.

    All of them have the same hidden states [P, E] and the whole table; each scores its part
    of the positions, and all get the sum.
    """
    rank, size = mesh.get_local_rank(), mesh.size()
    whole = DTensor.from_local(hidden, mesh, [Replicate()], run_check=False)
    hidden = whole.to_local(grad_placements=[Partial()])
    if index is None:
        index = torch.arange(len(hidden), device=hidden.device)
    mine = slice(rank * len(index) // size, (rank + 1) * len(index) // size)
    part = linear_nll(
        hidden,
        table,
        targets[mine],
        weights[mine],
        index[mine],
        compiled=compiled,
        each=None if each is None else each[mine],
    )
    if each is not None:
        dist.all_reduce(each, group=mesh.get_group())  # zero where others score
    total = DTensor.from_local(part, mesh, [Partial()], run_check=False)
    return total.full_tensor(grad_placements=[Replicate()])

"""A plain model, spread over processes by a plan, in a stated order.

0. Pipeline parallel: blocks of other stages left out.
1. Tensor parallel: layers cut along heads and inner widths (DTensor).
2. Activation checkpointing of each block.
3. torch.compile of each block.
4. FSDP2 of each block, then of what is left; or DDP of the whole.

The model's code knows nothing of it. Names of parameters stay what they are, so a checkpoint
fits every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from epochal.device import Machine
from epochal.models import Transformer
from epochal.objectives import linear_nll
from epochal.recipe.schema import Parallel
from epochal.training.optim import total_norm
from epochal.training.parallel.pipeline import Pipeline, gather_stages, keep_stage, own_blocks
from epochal.training.parallel.tensor import split_layers, split_nll
from epochal.training.parallel.world import World

NLL = Callable[..., Tensor]
"""`linear_nll`, or what stands for it where the output table is cut up."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a model is called when it is spread over processes."""

    world: World
    forward: Callable[..., Tensor]
    nll: NLL
    _wrapped: DistributedDataParallel | FSDPModule | None = None
    pipeline: Pipeline | None = None
    """Runs the micro-batches of a step through the stages, where there are several."""

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around a micro-batch's forward and backward pass. Gradients are exchanged in the
        `last` one only, except where each process keeps no more than its share of them."""
        if isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext() if last else self._wrapped.no_sync()
        if self._wrapped is not None and self.world.plan.zero == 1:
            self._wrapped.set_requires_gradient_sync(last)
        return nullcontext()

    def norm(self, weights: list[nn.Parameter]) -> Tensor:
        """Norm of the gradient of the whole model."""
        return total_norm(weights) if self.pipeline is None else self.pipeline.norm(weights)

    @property
    def scale(self) -> int:
        """PyTorch averages gradients over the data-parallel processes; we want sums."""
        return self.world.plan.data


def alone(model: Transformer, machine: Machine) -> Spread:
    """One process, one device; compiled as a whole if it is."""
    forward: Callable[..., Tensor] = torch.compile(model) if machine.compiled else model
    return Spread(World(), forward, linear_nll)


def spread(model: Transformer, parallel: Parallel, machine: Machine, world: World) -> Spread:
    """Cut `model`, still on the meta device, as the world's plan says; weights come later."""
    plan, mesh = world.plan, world.mesh
    if mesh is None:
        recompute(model, parallel.activation_checkpointing)
        return alone(model, machine)
    nll: NLL = linear_nll
    if plan.pipeline > 1:
        keep_stage(model, world)
    if plan.tensor > 1:
        split_layers(model, mesh["tensor"], parallel.sequence)
        nll = partial(split_nll, mesh["tensor"])
    recompute(model, parallel.activation_checkpointing)
    if machine.compiled:
        for block in own_blocks(model):
            block.compile()
    wrapped: FSDPModule | None = None
    if plan.zero:
        wrapped = _shard(model, parallel, world)
    watch = world.watch
    if watch is not None:

        def count(module: nn.Module, inputs: Any) -> None:
            watch.passes += 1

        model.register_forward_pre_hook(count)
    return Spread(world, model, nll, wrapped)


def replicate(
    spreading: Spread, model: Transformer, machine: Machine, parallel: Parallel
) -> Spread:
    """DDP around a model that has its weights, where the plan is DDP; stages made ready."""
    world = spreading.world
    if world.plan.pipeline > 1:
        pipeline = Pipeline(model, world, machine, parallel.sequence)
        return Spread(world, model, spreading.nll, pipeline=pipeline)
    if world.mesh is None or world.plan.zero or world.plan.data == 1:
        return spreading
    group = world.mesh["replicate"].get_group()
    # Nothing is said of buffers, which the model has none of: the argument's name changes in torch.
    wrapped = DistributedDataParallel(model, process_group=group)
    return Spread(world, wrapped, spreading.nll, wrapped)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def place(weight: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a weight of which this process may hold only a part."""
    if isinstance(weight, DTensor):
        # Every process has the same whole tensor, so each takes its part without an exchange.
        value = value.to(weight.dtype)
        part = distribute_tensor(
            value.to(weight.device_mesh.device_type),
            weight.device_mesh,
            weight.placements,
            src_data_rank=None,
        ).to_local()
        weight.to_local().copy_(part)
    else:
        weight.copy_(value)


def whole(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """The tensors, put together from all processes; in the others than the first, none."""
    stages = world.plan.pipeline > 1
    found = {}
    for name, tensor in tensors.items():
        full = tensor.detach()
        if isinstance(full, DTensor):
            full = full.full_tensor().cpu()  # one after the other: only one is whole on a GPU
        if world.speaks_for_stage if stages else world.main:
            found[name] = full.cpu().contiguous() if stages else full.contiguous()
    return gather_stages(found, world) if stages else found


def materialise(model: Transformer, parallel: Parallel, machine: Machine) -> None:
    """Give a model that was cut up on the meta device memory for its own parts."""
    model.to_empty(device="cpu" if parallel.offload else machine.device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is only called; afterwards FSDP drops the whole weights it gathered."""
    yield
    for part in model.modules():  # FSDP's own method stops at the module it is called on
        if isinstance(part, FSDPModule):
            part.reshard()


def recompute(model: Transformer, what: str) -> None:
    """Let each block keep less for the backward pass and compute the rest again.

    The block's forward is replaced on the object, not wrapped in a module, so that names of
    parameters stay.
    """
    if what == "none":
        return
    options: dict[str, Any] = {"context_fn": _selective} if what == "selective" else {}
    for block in own_blocks(model):
        plain = block.forward

        def forward(*args: Any, plain: Callable[..., Tensor] = plain, **kwargs: Any) -> Tensor:
            if not torch.is_grad_enabled():
                return plain(*args, **kwargs)
            kept: Tensor = checkpoint(plain, *args, use_reentrant=False, **options, **kwargs)
            return kept

        block.forward = forward


def _selective() -> Any:
    """Keep matrix products and attention, which cost most; compute the cheap rest again."""
    aten = torch.ops.aten
    kept = {
        aten.mm.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    }

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        save = op in kept
        return CheckpointPolicy.MUST_SAVE if save else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


def _shard(model: Transformer, parallel: Parallel, world: World) -> FSDPModule:
    """FSDP2, block by block. Embedding and output table stay together in the root: in groups
    of their own, tied ones would part."""
    plan, mesh = world.plan, world.mesh
    if mesh is None:
        raise ValueError("one process has nothing to shard")
    axes = mesh["replicate", "shard"] if plan.replicas > 1 else mesh["shard"]
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    options: dict[str, Any] = {
        "mesh": axes,
        "offload_policy": offload if parallel.offload else OffloadPolicy(),
    }
    # ZeRO 1 and 2 keep whole weights from the forward to the backward pass.
    for block in own_blocks(model):
        fully_shard(block, reshard_after_forward=plan.zero == 3, **options)
    # The output table is read after the forward pass, so the root stays whole until then.
    return fully_shard(model, reshard_after_forward=False, **options)

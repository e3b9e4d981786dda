"""A plain model, parallelized over processes by a plan, in this order.

0. Pipeline parallel: blocks of other stages removed.
1. Tensor parallel: layers cut along heads and inner widths (DTensor).
2. Activation checkpointing of each block.
3. torch.compile of each block.
4. FSDP2 of each block, then of the rest; or DDP of the whole.

The model's code does not know about it. Names of parameters stay the same, so a checkpoint
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
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
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
from epochal.training.parallel.tensor import local_shard, own_part, split_layers, split_nll
from epochal.training.parallel.world import World

NLL = Callable[..., Tensor]
"""`linear_nll`, or `split_nll` if the output table is sharded."""


@dataclass(frozen=True, slots=True)
class ParallelModel:
    """How a model is called whose weights or rows are shared by several processes."""

    world: World
    forward: Callable[..., Tensor]
    nll: NLL
    _wrapped: DistributedDataParallel | FSDPModule | None = None
    pipeline: Pipeline | None = None
    """Runs the micro-batches of a step through the stages, if there are several."""

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Context of a micro-batch's forward and backward pass. Gradients are exchanged in the
        `last` one only, except with ZeRO 2 and 3, where each process keeps only its shard."""
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
        """Factor of the loss: PyTorch averages gradients over the data-parallel processes, but sums
        are wanted."""
        return self.world.plan.data


def single_device(model: Transformer, machine: Machine) -> ParallelModel:
    """The model on one device, compiled as a whole if the machine compiles."""
    forward: Callable[..., Tensor] = torch.compile(model) if machine.compiled else model
    return ParallelModel(World(), forward, linear_nll)


def parallelize(
    model: Transformer,
    fill: Callable[[], None],
    parallel: Parallel,
    machine: Machine,
    world: World,
) -> ParallelModel:
    """Shard `model`, which is on the meta device, by the world's plan; `fill` sets its weights.

    The model of a single process is on its device already and has its weights.
    """
    plan, mesh = world.plan, world.mesh
    if mesh is None:
        _checkpoint_activations(model, parallel.activation_checkpointing)
        return single_device(model, machine)
    nll: NLL = linear_nll
    if plan.pipeline > 1:
        keep_stage(model, world)
    if plan.tensor > 1:
        split_layers(model, mesh["tensor"], parallel.sequence)
        nll = partial(split_nll, mesh["tensor"])
    _checkpoint_activations(model, parallel.activation_checkpointing)
    if machine.compiled:
        for block in own_blocks(model):
            block.compile()
    sharded = _shard(model, parallel, world, machine.bf16) if plan.zero else None
    if (heartbeat := world.heartbeat) is not None:

        def count(module: nn.Module, inputs: Any) -> None:
            heartbeat.passes += 1

        model.register_forward_pre_hook(count)
    model.to_empty(device="cpu" if parallel.offload else machine.device)
    fill()
    if plan.pipeline > 1:
        pipeline = Pipeline(model, world, machine, parallel.sequence)
        return ParallelModel(world, model, nll, pipeline=pipeline)
    if plan.zero or plan.data == 1:
        return ParallelModel(world, model, nll, sharded)
    # No argument about buffers: the model has none, and the argument's name changes in torch.
    replicated = DistributedDataParallel(model, process_group=mesh["replicate"].get_group())
    return ParallelModel(world, replicated, nll, replicated)


def copy_into_shard(weight: Tensor, value: Tensor) -> None:
    """Copy a full tensor into a weight of which this process may hold only a shard."""
    local_shard(weight).copy_(own_part(value, weight))


def gather_full(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """The full tensors, gathered from all processes, on rank 0; on other ranks, none."""
    stages = world.plan.pipeline > 1
    gathered = {}
    for name, tensor in tensors.items():
        full = tensor.detach()
        if isinstance(full, DTensor):
            full = full.full_tensor().cpu()  # one by one: only one is on the GPU in full
        if world.is_stage_leader if stages else world.main:
            gathered[name] = full.cpu().contiguous() if stages else full.contiguous()
    return gather_stages(gathered, world) if stages else gathered


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context of an evaluation; afterwards FSDP drops the full weights it gathered."""
    yield
    for part in model.modules():  # FSDP's own method stops at the module it is called on
        if isinstance(part, FSDPModule):
            part.reshard()


def _checkpoint_activations(model: Transformer, what: str) -> None:
    """Let each block keep less for the backward pass and recompute the rest.

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
    """Keep matrix products and attention, which cost most; recompute the cheap rest."""
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


def _shard(model: Transformer, parallel: Parallel, world: World, bf16: bool) -> FSDPModule:
    """FSDP2, block by block. Embedding and output table stay together in the root: in separate
    groups, tied ones would diverge.

    With `bf16` the matrices of blocks are gathered as autocast would cast them, half the bytes, and
    their gradients are added up in float32. Norms, which are no products, join the root: their
    weights are read in float32, as on one device.
    """
    plan, mesh = world.plan, world.mesh
    if mesh is None:
        raise ValueError("one process has nothing to shard")
    axes = mesh["replicate", "shard"] if plan.replicas > 1 else mesh["shard"]
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    options: dict[str, Any] = {
        "mesh": axes,
        "offload_policy": offload if parallel.offload else OffloadPolicy(),
    }
    # ZeRO 1 and 2 keep full weights from the forward to the backward pass.
    for block in own_blocks(model):
        group: nn.Module | list[nn.Module] = block
        cast = MixedPrecisionPolicy()
        if bf16:
            group = [block.get_submodule(name) for name in ("attention", "feed_forward")]
            cast = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        fully_shard(group, reshard_after_forward=plan.zero == 3, mp_policy=cast, **options)
    # The output table is read after the forward pass, so the root stays gathered until then.
    return fully_shard(model, reshard_after_forward=False, **options)

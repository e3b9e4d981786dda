"""Pipeline parallelism: each process holds a few neighbouring blocks, a stage of the model.

The first stage has the embedding, the last one the last norm and the head. A tied table is on
both, with the sum of their gradients. Micro-batches run through the stages by PyTorch's 1F1B
schedule (Narayanan et al., arXiv 2104.04473), which holds at most as many as there are stages.

Shape letters: B rows of a micro-batch, L positions, E model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from epochal.device import Machine
from epochal.models import Transformer
from epochal.models.attention import Rule, rotary_tables
from epochal.sizes import stage_layers
from epochal.training.optim import total_norm
from epochal.training.parallel.tensor import local_shard
from epochal.training.parallel.world import World

if TYPE_CHECKING:
    from torch.distributed.pipelining import Schedule1F1B

Inputs = tuple[Tensor, Rule, Tensor | None, Tensor | None, Tensor | None]
"""Arguments of the model: ids [B, L], attention rule, positions, noise levels, branches."""
InputsOf = Callable[[int], Inputs]
"""Index of a micro-batch → arguments of the model, on the device."""
LossOf = Callable[[int, Tensor], Tensor]
"""(index of a micro-batch, its hidden states [B, L, E]) → its part of the loss."""


def keep_stage(model: Transformer, world: World) -> None:
    """Remove from `model` what this process's stage does not need; names of parameters stay."""
    stages = world.plan.pipeline
    mine = stage_layers(len(model.blocks), stages)[world.stage]
    first, last = world.stage == 0, world.stage == stages - 1
    for number in range(len(model.blocks)):
        if number not in mine:
            model.blocks[number] = nn.Identity()
    if not first and not (last and model.head is None):
        model.add_module("embedding", nn.Identity())
    if not last:
        model.add_module("final_norm", nn.Identity())
        model.head = None
    model.part, model.scores = True, last


def own_blocks(model: Transformer) -> list[nn.Module]:
    """The blocks of this process's stage; all blocks if there is no pipeline."""
    return [block for block in model.blocks if not isinstance(block, nn.Identity)]


class Pipeline:
    """This process's stage: training steps, and forward passes of an evaluation."""

    def __init__(
        self, model: Transformer, world: World, machine: Machine, sequence: bool = False
    ) -> None:
        """`model` has been through `keep_stage` and has its weights; `sequence`: whether the
        residual stream is split by position."""
        if world.mesh is None:
            raise ValueError("one process has no stages")
        self._model, self._world, self._machine = model, world, machine
        stages = world.plan.pipeline
        self._first, self._last = world.stage == 0, world.stage == stages - 1
        self._blocks = [
            pair for pair in enumerate(model.blocks) if not isinstance(pair[1], nn.Identity)
        ]
        self._group = world.mesh["pipeline"].get_group()
        plan = world.plan
        # FSDP exchanges gradients itself, and averages them.
        self._data = None if plan.zero or plan.data == 1 else world.mesh["replicate"].get_group()
        self._scale = plan.data if plan.zero else 1
        self._parts = plan.tensor if sequence else 1
        self._table_group = _ends_group(world) if model.shape.tie_embeddings else None
        self._schedule: Schedule1F1B | None = None
        self._inputs: InputsOf | None = None
        self._loss: LossOf | None = None
        # Through the model's own call, since FSDP gathers weights around that.
        model.forward = self._forward  # type: ignore[method-assign, assignment]

    def step(self, count: int, inputs: InputsOf, loss: LossOf) -> None:
        """Forward and backward passes of `count` micro-batches of one size; gradients are then
        summed over all processes. `loss` is called on the last stage only."""
        self._inputs, self._loss = inputs, loss
        if self._schedule is None:
            self._schedule = self._make_schedule(count)
        # The schedule splits its inputs into micro-batches; it gets only their indices.
        numbers = torch.arange(count)
        self._schedule.step(
            *((numbers,) if self._first else ()),
            target=numbers if self._last else None,
            return_outputs=False,
            number=numbers,
        )
        for weight in self._model.parameters():
            if self._data is not None and weight.grad is not None:
                dist.all_reduce(weight.grad, group=self._data)
        if self._table_group is not None and (self._first or self._last):
            gradient = self._model.embedding.weight.grad
            assert gradient is not None
            # If it is sharded, it is sharded in the same way on both.
            dist.all_reduce(local_shard(gradient), group=self._table_group)

    def norm(self, weights: list[nn.Parameter]) -> Tensor:
        """Norm of the gradient of the whole model; a table on two stages counts once."""
        if self._table_group is not None and self._last:
            weights = [weight for weight in weights if weight is not self._model.embedding.weight]
        square = total_norm(weights).square()
        dist.all_reduce(square, group=self._group)
        return square.sqrt()

    def _make_schedule(self, count: int) -> Schedule1F1B:
        # Imported here, since torch's module makes a tensor as it is imported: see
        # `device.find_machine`, which must come before the first tensor.
        from torch.distributed.pipelining import Schedule1F1B

        from epochal.training.parallel.pipeline_stage import PartOfPipeline

        if self._inputs is None:
            raise ValueError("step() has not been called")
        rows, length = self._inputs(0)[0].shape
        stream = torch.empty(
            (rows, length // self._parts, self._model.shape.d_model),
            device=self._machine.device,
            requires_grad=True,
        )
        whole = torch.empty((rows, length, self._model.shape.d_model), device=self._machine.device)
        stage = PartOfPipeline(
            _Stage(self._model, self._machine),
            self._world.stage,
            self._world.plan.pipeline,
            self._machine.device,
            input_args=torch.arange(1) if self._first else stream,
            output_args=whole.requires_grad_() if self._last else stream,
            group=self._group,
        )
        stage.exchange_each = self._world.plan.zero > 1
        # The loss is divided by the positions of the whole step, so nothing is scaled here.
        return Schedule1F1B(stage, count, loss_fn=self._scored, scale_grads=False)

    def _forward(
        self,
        x: Tensor,
        rule: Rule | int,
        positions: Tensor | None = None,
        log_snr: Tensor | None = None,
    ) -> Tensor:
        """In training (stream, index of a micro-batch), in evaluation the model's arguments."""
        if not isinstance(rule, int):
            return self._evaluate(x, rule, positions, log_snr)
        if self._inputs is None:
            raise ValueError("step() has not been called")
        ids, attention, positions, log_snr, scales = self._inputs(rule)
        return self._run(ids if self._first else x, ids, attention, positions, log_snr, scales)

    def _scored(self, hidden: Tensor, number: Tensor) -> Tensor:
        if self._loss is None:
            raise ValueError("step() has not been called")
        return self._scale * self._loss(int(number), hidden)

    def _evaluate(
        self, ids: Tensor, rule: Rule, positions: Tensor | None, log_snr: Tensor | None
    ) -> Tensor:
        """Without gradients: [B, L] ids → [B, L, E], valid on the last stage only."""
        x, stage = ids, self._world.stage
        if not self._first:
            length = ids.shape[1] // self._parts
            x = torch.empty((len(ids), length, self._model.shape.d_model), device=ids.device)
            dist.recv(x, group=self._group, group_src=stage - 1)
        x = self._run(x, ids, rule, positions, log_snr)
        if not self._last:
            dist.send(x.contiguous(), group=self._group, group_dst=stage + 1)
        return x

    def _run(
        self,
        x: Tensor,
        ids: Tensor,
        rule: Rule,
        positions: Tensor | None,
        log_snr: Tensor | None,
        scales: Tensor | None = None,
    ) -> Tensor:
        """Ids (first stage) or the stream [B, L, E] → the stream, or hidden states (last)."""
        model = self._model
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        rotary = rotary_tables(positions, model.shape.head_dim, model.rope_theta)
        if self._first:
            x = F.dropout(model.embedding(x), model.embedding_dropout, model.training)
        noise = model.noise(log_snr)
        for layer, block in self._blocks:
            own = None if scales is None else scales[:, layer]
            x = block(x, rotary, rule, None, own, noise)
        return model.final_norm(x) if self._last else x


class _Stage(nn.Module):
    """A stage as the schedule calls it."""

    def __init__(self, model: Transformer, machine: Machine) -> None:
        super().__init__()
        self.model, self._machine = model, machine

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        """Numbers (first stage) or [B, L, E] → [B, L, E]."""
        with self._machine.autocast():
            output: Tensor = self.model(x, int(number))
        return output


def gather_stages(mine: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """Tensors of all stages on rank 0; on other ranks, none.

    `mine` are those of this stage, on the CPU; the leader of each stage sends them.
    """
    sends = world.is_stage_leader and not world.main
    announced: list[Any] | None = [None] * world.size if world.main else None
    what = [(name, tensor.shape, tensor.dtype) for name, tensor in mine.items()] if sends else []
    dist.gather_object(what, announced, dst=0, group=world.control)
    if announced is None:
        for tensor in mine.values() if sends else ():
            dist.send(tensor, dst=0, group=world.control)
        return {}
    for sender, coming in enumerate(announced):
        for name, shape, dtype in coming:
            tensor = torch.empty(shape, dtype=dtype)
            dist.recv(tensor, src=sender, group=world.control)
            mine.setdefault(name, tensor)
    return mine


def _ends_group(world: World) -> dist.ProcessGroup | None:
    """Group of the first and last stage of this process's rows. All processes call it together."""
    mine, step = None, world.plan.data * world.plan.tensor
    for row in range(step):
        group = dist.new_group([row, row + (world.plan.pipeline - 1) * step])
        if world.rank % step == row:
            mine = group
    return mine

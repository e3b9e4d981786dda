"""Torch's pipeline stage, taught about FSDP; imported only where a pipeline is made."""

from __future__ import annotations

from typing import Any

from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage


class PartOfPipeline(PipelineStage):
    """A stage that informs FSDP of its last backward pass.

    Torch's own class keeps full weights and gradients over all micro-batches of a step, even if
    they should be sharded.
    """

    exchange_each = False
    """Whether gradients are exchanged after each micro-batch, not only after the last."""

    def backward_one_chunk(
        self,
        bwd_chunk_id: int,
        loss: Any = None,
        full_backward: bool = True,
        last_backward: bool = False,
    ) -> None:
        """Backward pass of a micro-batch."""
        for part in self.submod.children():
            if isinstance(part, FSDPModule):
                part.set_is_last_backward(last_backward)
                part.set_requires_gradient_sync(last_backward or self.exchange_each)
        super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)

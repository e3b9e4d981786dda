"""The family `block`: block diffusion, masked diffusion within blocks that follow each other."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from epochal.families.family import OPTIONS_CONFIG, Family, Positive


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class BlockOptions:
    """Settings of the block diffusion objective (family = "block")."""

    size: Positive = 16
    """Tokens per block; it must divide `data.sequence_length`. 1 is autoregressive, the whole
    sequence is masked diffusion."""


FAMILY = Family(
    name="block",
    title="block diffusion",
    short="Block",
    color="#00796b",
    dark_color="#4fd1bd",
    marker="^",
    exact=False,
    objective="epochal.objectives.block_diffusion:BlockDiffusion",
    attention="blocks",
    writer="epochal.generation.blocks",
    options=BlockOptions,
    mask_token=True,
    by_default=False,
    scored_share=0.5,
    positions_per_token=lambda options: 2,
    explicit_mask=lambda options: True,
)

"""The family `block`: block diffusion, masked diffusion within blocks that follow each other."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.families.family import OPTIONS_CONFIG, Family, Positive


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class BlockOptions:
    """Settings of the block diffusion objective (family = "block")."""

    size: Positive = 16
    """Tokens per block; it must divide `data.sequence_length`. 1 is autoregressive, the whole
    sequence is masked diffusion."""


def _check(options: BlockOptions, length: int) -> None:
    """Raise RecipeError for blocks that do not fill a row."""
    if length % options.size:
        fit = [n for n in range(1, length + 1) if length % n == 0]
        nearest = min(fit, key=lambda n: abs(n - options.size))
        raise RecipeError(
            f"`block.size` = {options.size} does not divide `data.sequence_length` = {length}; the "
            f"nearest that does is {nearest}"
        )


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
    check=_check,
    mask_token=True,
    by_default=False,
    scored_share=0.5,
    positions_per_token=lambda options: 2,
    explicit_mask=lambda options: True,
)

"""Models: ids, positions and an attention rule in, hidden states out."""

from epochal.models.attention import LayerCache
from epochal.models.transformer import (
    BLOCKS,
    NOISE_LEVEL,
    Transformer,
    branch_scales,
    folded_weights,
    initialise,
)

__all__ = [
    "BLOCKS",
    "NOISE_LEVEL",
    "LayerCache",
    "Transformer",
    "branch_scales",
    "folded_weights",
    "initialise",
]

"""Models: ids, positions and an attention rule in, hidden states out."""

from epochal.models.attention import LayerCache
from epochal.models.transformer import (
    BLOCKS,
    Transformer,
    branch_scales,
    folded_weights,
    initialise,
)

__all__ = ["BLOCKS", "LayerCache", "Transformer", "branch_scales", "folded_weights", "initialise"]

"""Models: ids, positions and an attention rule in, hidden states out."""

from epochal.models.attention import LayerCache
from epochal.models.transformer import Transformer, initialise

__all__ = ["LayerCache", "Transformer", "initialise"]

"""Their files ↔ ours: Megatron checkpoints and the Hugging Face format."""

from epochal.interop.foreign import ForeignModel
from epochal.interop.megatron import read_megatron
from epochal.interop.megatron_files import is_megatron

__all__ = ["ForeignModel", "is_megatron", "read_megatron"]

"""Their files ↔ ours: Megatron checkpoints and the Hugging Face format."""

from epochal.interop.foreign import ForeignModel
from epochal.interop.hf_import import hf_tokenizer, is_hf, read_hf
from epochal.interop.megatron import read_megatron
from epochal.interop.megatron_files import is_megatron

__all__ = ["ForeignModel", "hf_tokenizer", "is_hf", "is_megatron", "read_hf", "read_megatron"]

"""Their files ↔ ours: Megatron checkpoints and the Hugging Face format."""

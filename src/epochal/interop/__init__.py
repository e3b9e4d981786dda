"""Their files ↔ ours: Megatron checkpoints, the Hugging Face format."""

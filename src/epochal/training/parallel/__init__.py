"""A run on many processes: the process group, the device mesh, and plans applied to a plain model.

Only this package asks for a rank. PyTorch does the work (DDP, FSDP2, DTensor, 1F1B).
"""

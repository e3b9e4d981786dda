"""One run on many processes: who does which part, applied to a plain model from outside.

Only this package asks for a rank. PyTorch's own parts do the work (DDP, FSDP2, DTensor);
what is here are plans for them.
"""

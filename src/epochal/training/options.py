"""Options of the dry run; no torch, so that the command line can show them at once."""

from __future__ import annotations

from dataclasses import dataclass

from epochal.sizes import DEFAULT_MFU


@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """The machine for which `dry_run` estimates memory and time."""

    gpu: str = "H100"
    """With --dry-run: GPU to estimate the time for."""
    gpus: int = 1
    """With --dry-run: number of GPUs."""
    mfu: float = DEFAULT_MFU
    """With --dry-run: share of the GPU's dense bf16 peak."""

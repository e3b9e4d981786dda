"""Sweeps: one question in, many recipes out, and how they are run."""

from epochal.sweeps.designs import SweepRun, design_runs
from epochal.sweeps.file import Sweep, is_sweep, load_sweep

__all__ = ["Sweep", "SweepRun", "design_runs", "is_sweep", "load_sweep"]

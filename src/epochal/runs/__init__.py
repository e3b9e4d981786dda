"""Runs: their folders on disk, how they are found, listed and read."""

from epochal.runs.record import (
    RunFolder,
    RunRecord,
    Status,
    parse_run_checkpoint,
    read_lines,
)
from epochal.runs.result import NLLResult

__all__ = ["NLLResult", "RunFolder", "RunRecord", "Status", "parse_run_checkpoint", "read_lines"]

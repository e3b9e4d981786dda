"""Runs: their folders on disk, how they are found, listed and read."""

from epochal.runs.record import (
    NLLResult,
    RunFolder,
    RunRecord,
    Status,
    parse_run_checkpoint,
    read_lines,
)

__all__ = ["NLLResult", "RunFolder", "RunRecord", "Status", "parse_run_checkpoint", "read_lines"]

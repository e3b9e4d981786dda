"""Analysis: run records in, a verdict out. No torch here."""

from epochal.comparison.compare import (
    Comparison,
    RunSummary,
    compare_runs,
    nll_difference,
    summarise,
)
from epochal.comparison.meeting import Meeting, meeting_point
from epochal.runs.curves import Curve, validation_curve

__all__ = [
    "Comparison",
    "Curve",
    "Meeting",
    "RunSummary",
    "compare_runs",
    "meeting_point",
    "nll_difference",
    "summarise",
    "validation_curve",
]

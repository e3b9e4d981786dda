"""Analysis: run records in, a verdict out. No torch here."""

from epochal.analysis.compare import (
    Comparison,
    RunSummary,
    compare_runs,
    nll_difference,
    summarise,
)
from epochal.analysis.crossing import Meeting, meeting_point
from epochal.analysis.curves import Curve, validation_curve

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

"""Run records in, which family learned more out. No torch here."""

from epochal.comparison.compare import (
    Comparison,
    Pair,
    best_recipes,
    compare_runs,
    is_clear,
    nll_difference,
    nll_gap,
)
from epochal.comparison.curve_crossing import CurveCrossing, curve_crossing
from epochal.comparison.table import FamilyLine

__all__ = [
    "Comparison",
    "CurveCrossing",
    "FamilyLine",
    "Pair",
    "best_recipes",
    "compare_runs",
    "curve_crossing",
    "is_clear",
    "nll_difference",
    "nll_gap",
]

"""Scaling laws: run records in, laws and advice out."""

from epochal.scaling.first_fit import FitSettings
from epochal.scaling.fitting import fit_points
from epochal.scaling.known import KnownLaw, known_law
from epochal.scaling.law_files import read_hold, read_laws
from epochal.scaling.points import Points, make_points, read_csv
from epochal.scaling.result import FamilyFit, FitReport

__all__ = [
    "FamilyFit",
    "FitReport",
    "FitSettings",
    "KnownLaw",
    "Points",
    "fit_points",
    "known_law",
    "make_points",
    "read_csv",
    "read_hold",
    "read_laws",
]

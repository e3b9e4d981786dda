"""Laws of a study: of the runs that have begun to learn from context, with what they may miss.

A small model first learns how often each token is. Until its loss has fallen below that level, it
says nothing of how fast it will learn from context, and a law fitted to such runs foretells far
too little. So they are left out where enough others remain, and where they do not, the family is
*early*: its law is only a description of what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epochal.errors import DataError, EpochalError
from epochal.families import family_names, get_family
from epochal.scaling.extrapolation import drop_unigram_level_runs
from epochal.scaling.fit import fit_points
from epochal.scaling.forms import FORMS
from epochal.scaling.notes import DropReason
from epochal.scaling.options import FitOptions, check_law
from epochal.scaling.points import Points
from epochal.scaling.read import read_points
from epochal.scaling.result import FitReport

LEAST_SPARE = 2
"""Runs beyond the constants without which no law is taken. One fewer than `foretell.SPARE`, since
some of a family's runs are left out of a fit (overfitted ones) after those were counted."""
ROWS_FOR_OVERFITTING = 14
"""Runs of each family from which a law with its ten constants is fitted."""


@dataclass(frozen=True, slots=True)
class StudyLaws:
    """Laws of both families."""

    points: Points
    """Of all runs."""
    report: FitReport
    level: float
    """NLL of token frequencies alone, nats per token."""
    early: Mapping[str, float]
    """Families whose runs have not got clearly below that: lowest NLL seen."""
    notes: Sequence[str]


def study_laws(places: Sequence[str | Path], level: float) -> StudyLaws:
    """The laws of the runs in `places`, each with its `doubt`.

    With an overfitting term where some had overfitted; of one epoch only where nothing else can
    be told. Raises DataError or RunError where the runs determine no law of both families.
    """
    points = read_points(places)
    kept, early = drop_unigram_level_runs(points, level)
    notes: list[str] = []
    for law in ("data-constrained", "chinchilla"):
        try:
            report = _fitted(kept, law)
            break
        except EpochalError as error:
            notes.append(f"no {law} law: {error}")
    else:
        raise DataError("; ".join(notes))
    turned = any(
        d.reason.code is DropReason.OVERFITTED for f in report.families.values() for d in f.dropped
    )
    rows = min(len(kept.of_family(family)) for family in family_names())
    if report.law == "data-constrained" and turned and rows >= ROWS_FOR_OVERFITTING:
        try:
            report = _fitted(kept, "overfitting")
        except EpochalError as error:
            notes.append(f"no law with an overfitting term: {error}")
    notes += [
        f"{get_family(family).short} has hardly begun to learn from context: its lowest loss of "
        f"{lowest:.3f} is about that of token frequencies alone ({level:.3f} nats per token), so "
        "its law cannot predict when it will"
        for family, lowest in early.items()
    ]
    return StudyLaws(points, report, level, early, notes)


def _fitted(points: Points, law: str) -> FitReport:
    """Laws of both families. Raises DataError."""
    report = fit_points(points, FitOptions(law=check_law(law)))
    if len(report.families) < len(family_names()):
        raise DataError("; ".join(report.refused.values()) or "there are runs of one family only")
    least = len(FORMS[law].constants) + LEAST_SPARE
    for family, fit in report.families.items():
        if len(fit.points) < least:
            raise DataError(
                f"{family}: {len(fit.points)} runs are too few for the law {law}; with fewer than "
                f"{least} it would go through all of them and foretell nothing"
            )
    return report

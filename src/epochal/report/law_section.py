"""What scaling laws say of the runs on the page: a fit of each family, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epochal.errors import EpochalError, RunError
from epochal.families import family_names, get_family
from epochal.report.collect import Run
from epochal.scaling.extrapolation import drop_unigram_level_runs, with_extrapolation_error
from epochal.scaling.fit import fit_points
from epochal.scaling.planner import PlanReport, make_plan
from epochal.scaling.point_fit import FitSettings
from epochal.scaling.points import Points
from epochal.scaling.read import read_points
from epochal.scaling.result import FamilyFit, FitReport

LEAST_RUNS = 5
"""Of fewer runs of a family no law is tried."""
STUDY = "study.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """Laws of the runs on the page."""

    families: dict[str, FamilyFit] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    """Why a family has none."""
    notes: list[str] = field(default_factory=list)
    plan: PlanReport | None = None
    """What to train on these tokens with a budget."""
    study: dict[str, Any] = field(default_factory=dict)
    """What `epochal study` left to be said: see docs/report.md."""


def read_study(places: Sequence[str | Path]) -> dict[str, Any]:
    """study.json in one of the places; empty if there is none. Raises RunError if damaged."""
    for place in map(Path, places):
        path = place / STUDY
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read ({error}); run `epochal study` again") from None
        if not isinstance(content, dict):
            raise RunError(f"{path} cannot be read (no object); run `epochal study` again")
        return content
    return {}


def held_out(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The runs that were kept from the fit to check it; empty if there are none."""
    found = study.get("held_out") or []
    return [found] if isinstance(found, Mapping) else list(found)


def regularised(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the study tried of regularisation; empty if it tried none."""
    return [one for one in study.get("regularisation") or [] if isinstance(one, Mapping)]


def find_laws(runs: Sequence[Run], study: dict[str, Any], law: str, fit: FitReport | None) -> Laws:
    """The laws of `fit`, or of a fit of `law` to the runs, each family by itself.

    Runs that the study held out, or trained with other regularisation, are left out. A family
    whose runs cannot determine the law is told so; with fewer than five runs nothing is tried.
    Raises UserError for an unknown law.
    """
    if fit is not None:
        return Laws(families=dict(fit.families), notes=list(fit.notes), study=study)
    kept = {str(one.get("run")) for one in (*held_out(study), *regularised(study))}
    level = study.get("level")  # of token frequencies alone
    families: dict[str, FamilyFit] = {}
    refusals: list[str] = []
    notes: list[str] = []
    for family in family_names():
        paths = [
            run.record.path
            for run in runs
            if run.family == family and run.curve is not None
            if not kept & {run.label, str(run.record.path)}
        ]
        if len(paths) < LEAST_RUNS:
            continue
        try:
            points = read_points(paths)
            if isinstance(level, int | float):
                points, _ = drop_unigram_level_runs(points, level)
            made = with_extrapolation_error(fit_points(points, FitSettings(law=law)))
        except EpochalError as error:
            refusals.append(f"{family}: {error}")
            continue
        families |= made.families
        notes += [f"{get_family(family).title}: {note}" for note in made.notes]
    return Laws(families=families, refusals=refusals, notes=notes, study=study)


def find_plan(runs: Sequence[Run], laws: Laws, flops: float | None) -> PlanReport | None:
    """The plan for a budget of `flops` (the largest compute of any run if None).

    It is for as many unique tokens as most of the points have. None without laws; None, too,
    where the runs do not tell their vocabulary, and with it which models could be trained.
    """
    vocabularies = {int(run.record.numbers.get("vocabulary") or 0) for run in runs} - {0}
    if not laws.families or not vocabularies:
        return None
    points = next(iter(laws.families.values())).points
    budget = flops if flops is not None else max(run.flops for run in runs)
    unique = most_common_unique_tokens(points)
    return make_plan(dict(laws.families), unique, budget, vocabulary=min(vocabularies))


def most_common_unique_tokens(points: Points) -> float:
    """The number of unique tokens that most points have; the largest of those."""
    values: list[float] = points.unique_tokens.tolist()
    return max(set(values), key=lambda value: (values.count(value), value))

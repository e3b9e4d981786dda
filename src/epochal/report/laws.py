"""Laws of the runs on the page, the plan that follows from them, and what a study left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from epochal.errors import EpochalError, RunError
from epochal.families import family_names
from epochal.recipe import recipe_toml
from epochal.report.collect import Run
from epochal.report.text.format import printable
from epochal.results import Note
from epochal.runs.comparable import Mismatch, mismatches
from epochal.scaling.fit import FamilyFit, FitReport, fit_points
from epochal.scaling.options import FitOptions
from epochal.scaling.plan import like_run, plan_recipe
from epochal.scaling.planner import FamilyPlan, PlanReport, make_plan
from epochal.scaling.points import Points, drop_unigram_level_runs
from epochal.scaling.read import read_points

FEWEST_RUNS = 5
"""With fewer runs of a family no law is tried."""
STUDY = "study.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """Laws of the runs on the page."""

    families: dict[str, FamilyFit] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Families without a law, each with the error."""
    notes: dict[str, list[Note]] = field(default_factory=dict)
    """Per family; under "" what holds for all."""
    mismatch: Mismatch | None = None
    """In what runs of different families differ, so that no plan can be made across them."""
    study: dict[str, Any] = field(default_factory=dict)
    """study.json: see docs/report.md."""


def read_study(places: Sequence[str | Path]) -> dict[str, Any]:
    """study.json in one of the places; empty if there is none. Raises RunError if damaged."""
    for path in (Path(place) / STUDY for place in places):
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


def study_list(study: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects under `key`, of which there may be one, several or none."""
    content = study.get(key) or []
    listed = [content] if isinstance(content, Mapping) else content
    return [one for one in listed if isinstance(one, Mapping)]


def find_laws(runs: Sequence[Run], study: dict[str, Any], law: str, fit: FitReport | None) -> Laws:
    """The laws of `fit`, or of a fit of `law` to each family's runs.

    Runs that the study held out, or trained with other regularisation, are left out, and no law
    is tried for a family with fewer than five. Raises UserError for an unknown law.
    """
    if fit is not None:
        return Laws(families=dict(fit.families), notes={"": list(fit.notes)}, study=study)
    others = [*study_list(study, "held_out"), *study_list(study, "regularisation")]
    left_out = {str(one.get("run")) for one in others}
    level = study.get("level")  # NLL of token frequencies alone
    families: dict[str, FamilyFit] = {}
    refused: dict[str, str] = {}
    notes: dict[str, list[Note]] = {}
    for family in family_names():
        own = [
            run
            for run in runs
            if run.family == family and run.curve is not None
            if not left_out & {run.label, str(run.record.path)}
        ]
        if len(own) < FEWEST_RUNS:
            continue
        try:
            points = read_points([run.record.path for run in own])
            if isinstance(level, int | float):
                points, _ = drop_unigram_level_runs(points, level)
            report = fit_points(points, FitOptions(law=law))
        except EpochalError as error:
            refused[family] = str(error)
            continue
        families |= report.families
        notes[family] = list(report.notes)
    mismatch = find_mismatch(runs, families)
    return Laws(families=families, refused=refused, notes=notes, mismatch=mismatch, study=study)


def find_mismatch(runs: Sequence[Run], families: Mapping[str, FamilyFit]) -> Mismatch | None:
    """Why laws of several families cannot be set against each other; None if they can."""
    names = {name for fit in families.values() for name in fit.points.run}
    fitted = [run.record for run in runs if str(run.record.path) in names]
    return next(iter(mismatches(fitted)), None)


def find_plan(runs: Sequence[Run], laws: Laws, flops: float | None) -> PlanReport | None:
    """The plan for a budget of `flops` (by default the largest compute of any run).

    It is for the unique tokens that most of the points have. None without laws, where losses of
    the laws are not comparable, and without the vocabulary, with which parameters are counted.
    """
    fits = laws.families.values()
    vocabularies = {fit.vocabulary for fit in fits if fit.vocabulary} or {
        int(run.record.numbers["vocabulary"])
        for run in runs
        if run.record.numbers.get("vocabulary")
    }
    if not fits or laws.mismatch is not None or len(vocabularies) != 1:
        return None
    points = next(iter(fits)).points
    budget = flops if flops is not None else max(run.summary.flops_spent for run in runs)
    unique = most_common_unique_tokens(points)
    return make_plan(dict(laws.families), unique, budget, vocabulary=vocabularies.pop())


def most_common_unique_tokens(points: Points) -> float:
    """The number of unique tokens that most points have; the largest of those."""
    values: list[float] = points.unique_tokens.tolist()
    return max(set(values), key=lambda value: (values.count(value), value))


def plan_recipes(plan: PlanReport, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(family, recipe as TOML) of every family's best, the recommended one first.

    Settings other than size and length are those of the family's run of the nearest size, the
    best one of several.
    """
    return [(one.family, _recipe(one, plan, runs)) for one in plan.ranked]


def _recipe(one: FamilyPlan, plan: PlanReport, runs: Sequence[Run]) -> str:
    corpus = str(runs[0].recipe.get("data", {}).get("corpus", "corpus"))
    recipe = plan_recipe(one, plan.stored_tokens, plan.vocabulary, corpus)
    similar = [run for run in runs if run.family == one.family and run.nll is not None]
    similar.sort(key=lambda run: (abs(np.log(run.params / one.params)), run.nll))
    for run in similar:
        try:
            recipe = like_run(recipe, run.record.recipe)
        except EpochalError:  # a record whose recipe has keys that are unknown today
            continue
        label = " ".join(printable(run.label).split())  # one line, whatever a folder is called
        head = f"# All but size and length as in the run {label}.\n"
        return head + recipe_toml(recipe).strip()
    return recipe_toml(recipe).strip()

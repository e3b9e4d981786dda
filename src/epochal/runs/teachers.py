"""The teachers of a student (`distill.teachers`): runs, found and identified by their weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal import files
from epochal.recipe import Recipe, identity
from epochal.runs.checkpoints import AVERAGE, MANIFEST, MODEL, find_weights, kind_and_step
from epochal.runs.record import RunRecord, parse_run_checkpoint


@dataclass(frozen=True, slots=True)
class Teacher:
    """A run's checkpoint; kept in the student's run.json."""

    run: Path
    step: int
    checkpoint: Path
    averaged: bool
    """Whether the average of its weights (`ema`) is meant."""
    sha256: str
    """Of the file of its weights; of all parts for a checkpoint that many processes wrote."""


def find_teachers(recipe: Recipe) -> list[Teacher]:
    """The recipe's teachers, in its order; by default a run's best checkpoint.

    Raises RunError for a folder that is no run, CheckpointError for one without that checkpoint.
    """
    found = []
    for name in recipe.distill.teachers:
        run, which = parse_run_checkpoint(name)
        record = RunRecord(run)
        path, averaged = find_weights(record, which), which == "ema"
        sums = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        weights = sums.get(AVERAGE if averaged else MODEL) or files.sha256_json(sums)
        found.append(Teacher(record.path, kind_and_step(path)[1], path, averaged, weights))
    return found


def run_identity(recipe: Recipe, teachers: Sequence[Teacher] | None = None) -> dict[str, Any]:
    """`recipe.identity`, and the weights of its teachers if it has any.

    `teachers` are those of the recipe where they were found before: finding them reads all their
    weights. Raises what `find_teachers` raises.
    """
    teachers = find_teachers(recipe) if teachers is None else teachers
    if not teachers:
        return identity(recipe)
    weights = [teacher.sha256 for teacher in teachers]
    return identity(recipe) | {"distill.teachers": files.sha256_json(weights)}

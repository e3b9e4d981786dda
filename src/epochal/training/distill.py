"""One student from several runs, by soft targets: a run whose recipe names its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from epochal.errors import RecipeError, UserError
from epochal.recipe import Recipe
from epochal.recipe.load import (
    Tree,
    apply_overrides,
    check_read,
    find_recipe,
    read_overrides,
    read_toml,
    recipe_from_tree,
    recipe_tree,
)
from epochal.runs import RunRecord, parse_run_checkpoint
from epochal.training.train import train


def distill(
    teachers: Sequence[str | Path],
    out: str | Path,
    recipe: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    restart: bool = False,
) -> RunRecord:
    """Train one model in folder `out` on the mean prediction of `teachers`, or resume it.

    A teacher is a run or `RUN@CHECKPOINT`. `recipe` is a TOML file or a shipped recipe's name; if
    None, the student has the first teacher's recipe. `overrides` as in `train`;
    `distill.share` and `distill.temperature` are the loss. Raises RecipeError for teachers that
    cannot answer the student's problems, and what `train` raises.
    """
    return train(student_recipe(teachers, out, recipe, overrides), restart=restart)


def student_recipe(
    teachers: Sequence[str | Path],
    out: str | Path,
    recipe: str | Path | None,
    overrides: Sequence[str] | Mapping[str, Any],
) -> Recipe:
    """The recipe that `distill` trains."""
    if not teachers:
        raise UserError("a student needs at least one teacher; give runs")
    given = read_overrides(overrides)
    for key, source in (("run_dir", "the output folder"), ("distill.teachers", "the runs given")):
        if key in given:
            raise RecipeError(f"`{key}` is set by {source}; leave it out")
    tree = read_toml(find_recipe(recipe)) if recipe is not None else _recipe_of(str(teachers[0]))
    fixed = {"run_dir": str(out), "distill.teachers": [str(one) for one in teachers]}
    apply_overrides(tree, given | fixed)
    student = recipe_from_tree(tree)
    check_read(given, [student.family])
    return student


def _recipe_of(teacher: str) -> Tree:
    """A run's recipe, without its own teachers and its trunk."""
    record = RunRecord(parse_run_checkpoint(teacher)[0])
    tree = recipe_tree(replace(record.recipe, data=record.data))
    tree.pop("distill")
    for key in ("start_from", "start_step"):
        tree["train"].pop(key, None)
    return tree

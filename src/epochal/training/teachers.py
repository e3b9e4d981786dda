"""Teachers of a student: loaded, checked and asked for their predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.device import Machine
from epochal.errors import RecipeError
from epochal.families import families, get_family
from epochal.models import Transformer
from epochal.objectives import Problem
from epochal.objectives.distillation import SoftTargets, soft_targets
from epochal.recipe import Recipe
from epochal.recipe.distill import Distill
from epochal.runs import RunRecord
from epochal.runs.teachers import Teacher, find_teachers
from epochal.training import checkpoint
from epochal.training.parallel.parallelize import single_device

Build = Callable[[Recipe, int], Transformer]
"""A recipe and the size of a vocabulary → its model without weights."""


@dataclass(frozen=True, slots=True)
class Teachers:
    """Trained models whose weights do not change, the same on every process."""

    settings: Distill
    tables: Sequence[Tensor]
    """[V, E] output table of each."""
    forwards: Sequence[Callable[..., Tensor]]
    """Arguments of a problem → [B, L, E] hidden states of each."""

    @torch.no_grad()
    def soft_targets(self, problem: Problem, index: Tensor | None, machine: Machine) -> SoftTargets:
        """What they predict at the positions `index` of a problem (None for all)."""
        arguments = problem.arguments(machine.device)
        with machine.autocast():
            hidden = [forward(*arguments).flatten(0, 1) for forward in self.forwards]
            return soft_targets(hidden, self.tables, index, self.settings.temperature)


def load_teachers(
    settings: Recipe, tokenizer: Tokenizer, machine: Machine, build: Build
) -> Teachers | None:
    """The recipe's teachers on the machine's device; None for a run that learns from the text
    alone. Raises what `check_teachers` raises."""
    if not settings.distill.share or not settings.distill.teachers:
        return None
    models = []
    for teacher in check_teachers(settings, tokenizer):
        recipe = RunRecord(teacher.run).recipe
        model = build(recipe, tokenizer.vocabulary).to_empty(device=machine.device)
        checkpoint.load_state(teacher.checkpoint, recipe.family)
        checkpoint.load_model(teacher.checkpoint, model, averaged=teacher.averaged)
        models.append(model.requires_grad_(False).eval())
    return Teachers(
        settings.distill,
        [model.table for model in models],
        [single_device(model, machine).forward for model in models],
    )


def check_teachers(settings: Recipe, tokenizer: Tokenizer) -> list[Teacher]:
    """The recipe's teachers, if all of them can answer the student's problems.

    Raises RecipeError for one of another family, sequence length, tokenizer, mask id or number of
    rows of the table, and what `find_teachers` raises.
    """
    teachers = find_teachers(settings)
    family = get_family(settings.family)
    if teachers and not family.cross_entropy:
        able = ", ".join(one.name for one in families() if one.cross_entropy)
        raise RecipeError(
            f"{family.title} models cannot be students: `distill.teachers` is for the families "
            f"{able}; leave it out"
        )
    for teacher in teachers:
        record = RunRecord(teacher.run)
        theirs, file = record.recipe, record.folder.tokenizer_file
        if not file.exists():
            raise RecipeError(
                f"the teacher {teacher.run} has no tokenizer, so it is not known whether its ids "
                "are the student's; import it again with a tokenizer"
            )
        known = load_tokenizer(str(file))
        for what, left, right in (
            ("family", record.family, settings.family),
            ("`data.sequence_length`", theirs.data.sequence_length, settings.data.sequence_length),
            ("tokenizer", known.sha256, tokenizer.sha256),
            ("mask id", known.mask, tokenizer.mask),
            ("rows of the table", _rows(theirs, known), _rows(settings, tokenizer)),
        ):
            if left != right:
                shown = "" if what == "tokenizer" else f" ({left} and {right})"
                raise RecipeError(
                    f"the teacher {teacher.run} and the student differ in {what}{shown}, so it "
                    "cannot answer the student's problems; leave it out of `distill.teachers`"
                )
    return teachers


def _rows(settings: Recipe, tokenizer: Tokenizer) -> int:
    return settings.model.architecture().rows(tokenizer.vocabulary)

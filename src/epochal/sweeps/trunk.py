"""The design `trunk`: one long run at a constant rate, and runs that start from it and decay.

With warm-up, stable, decay, the branch of T steps is the trunk's first T·(1 − decay) steps and
then its own decay, so several token budgets cost one run and their decays (Hägele et al.,
arXiv 2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from epochal.errors import RecipeError
from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.numbers import decay_begin
from epochal.recipe.schema import Train

Branch = tuple[str, Recipe, RunNumbers]
"""(name, recipe as a run of its own, its numbers)."""


def build_trunk(branches: Sequence[Branch]) -> tuple[Recipe, list[tuple[Recipe, int]]]:
    """(the trunk's recipe, each branch's recipe and the step of the trunk at which it starts).

    The recipes differ in their length only. The trunk ends where the longest branch begins to
    decay, and keeps checkpoints where the others do. It is warmed up over the recipe's share of
    itself; a branch's recipe gets the share that is as many steps, so that a run
    trained alone with it would get the same weights. Raises RecipeError where a
    branch cannot start from a trunk.
    """
    starts = [_start(name, recipe, numbers) for name, recipe, numbers in branches]
    longest = max(starts)
    plain = Train()
    first = branches[0][1]
    trunk = replace(
        first,
        train=replace(
            first.train,
            epochs=None,
            tokens=None,
            flops=None,
            steps=longest,
            schedule="constant",
            decay=plain.decay,
            decay_shape=plain.decay_shape,
        ),
        checkpoint=replace(
            first.checkpoint,
            keep_at=tuple(sorted({*first.checkpoint.keep_at, *starts} - {longest})),
        ),
    )
    warm = first.train.warmup * longest
    grown = []
    for (name, recipe, numbers), start in zip(branches, starts, strict=True):
        if start < math.ceil(warm):
            raise RecipeError(
                f"the branch {name} begins to decay at step {start:,}, before the trunk's warm-up "
                f"of {math.ceil(warm):,} steps is over; lower `base.train.warmup`, a share of the "
                f"trunk's {longest:,} steps, or leave out that length"
            )
        share = warm / numbers.steps
        if recipe.train.lr_progress == "samples":
            share = warm * numbers.global_batch_size / numbers.rows
        grown.append((replace(recipe, train=replace(recipe.train, warmup=share)), start))
    return trunk, grown


def _start(name: str, recipe: Recipe, numbers: RunNumbers) -> int:
    train = recipe.train
    if train.schedule != "wsd":
        raise RecipeError(
            f'`train.schedule` = "{train.schedule}" has no place in the design trunk, which has '
            'the schedule "wsd"; leave it out'
        )
    if train.start_from is not None:
        raise RecipeError(
            "`train.start_from` has no place in the design trunk: each branch starts from the "
            "trunk that the design makes; leave it out"
        )
    start = int(decay_begin(train, numbers.steps))
    if not 0 < start < numbers.steps:
        raise RecipeError(
            f"the branch {name} of {numbers.steps:,} steps leaves no step for "
            f"{'the trunk' if start == 0 else 'its decay'} with `train.decay` = {train.decay:g}; "
            "change the decay or train longer"
        )
    return start

"""Whether a plan's models fit into the memory of the GPUs that it was made for."""

from __future__ import annotations

from dataclasses import replace

from epochal.recipe.estimate import Sharding, estimate_memory
from epochal.recipe.schema import Parallel
from epochal.scaling.plan_recipes import plan_recipe
from epochal.scaling.planner import PlanReport
from epochal.scaling.verdict import TITLES
from epochal.sizes import gpu_memory

_USED = 0.9
"""Share of a GPU's memory that a run may take; the rest is CUDA's and the allocator's."""


def memory_notes(report: PlanReport, gpus: int, gpu: str, vocabulary: int) -> list[str]:
    """A sentence for each family whose recipe needs sharding, or does not fit even so.

    Estimated as `epochal train --dry-run` does, with one row per micro-batch: first with all of
    the state on each GPU, then with ZeRO 3 over all `gpus` and full activation checkpointing.
    """
    room = _USED * gpu_memory(gpu)
    notes = []
    for plan in report.families:
        model = f"the {TITLES[plan.family]} model"
        recipe = plan_recipe(plan, report.unique_tokens, vocabulary)
        recipe = replace(recipe, train=replace(recipe.train, micro_batch_size=1))
        whole = estimate_memory(recipe, vocabulary).total
        if whole <= room:
            continue
        cut = Sharding(
            data=gpus, weights=gpus, gradients=gpus, optimizer=gpus, checkpointing="full"
        )
        recipe = replace(recipe, parallel=Parallel(zero=3, activation_checkpointing="full"))
        least = estimate_memory(recipe, vocabulary, cut).total
        have = f"{gpu_memory(gpu) / 1e9:.0f} GB"
        if least <= room:
            notes.append(
                f"{model} needs {whole / 1e9:.0f} GB on one {gpu} of {have}; "
                "train it with parallel.zero=3 parallel.activation_checkpointing=full "
                f"train.micro_batch_size=1 ({least / 1e9:.0f} GB on each of {gpus})"
            )
        else:
            notes.append(
                f"{model} does not fit: {least / 1e9:.0f} GB on each of {gpus} "
                f"× {gpu} of {have}, even with ZeRO 3 and full activation checkpointing; give "
                "smaller --sizes, or more GPUs"
            )
    return notes

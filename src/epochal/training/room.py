"""Whether a run fits into memory and onto the disk, before its first step."""

from __future__ import annotations

import shutil
from pathlib import Path

from epochal.device import Machine, free_memory
from epochal.errors import RecipeError, StorageError
from epochal.progress import say
from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.estimate import estimate_memory
from epochal.training.parallel.mesh import MeshPlan


def check_room(
    recipe: Recipe, numbers: RunNumbers, machine: Machine, plan: MeshPlan, folder: Path
) -> None:
    """Raise RecipeError if not even the state of the run fits into the free memory, StorageError if
    a checkpoint does not fit onto the disk of `folder`; say so if a step may not fit."""
    memory = estimate_memory(
        recipe,
        numbers.vocabulary,
        plan.sharding(recipe.parallel),
        bf16=machine.bf16,
        fused=machine.device.type == "cuda",
    )
    free = free_memory(machine.device)
    state = memory.weights + memory.gradients + memory.optimizer
    if free is not None and state > free:
        raise RecipeError(
            f"weights, gradients and optimizer of this model take {_size(state)} of memory, and "
            f"{_size(free)} are free ({machine.title}); take a smaller `model.size`, or divide it "
            "over several devices with [parallel]"
        )
    if free is not None and memory.total > free:
        say(
            f"a step may take {_size(memory.total)} of memory, and {_size(free)} are free; if the "
            "run ends for lack of memory, lower train.micro_batch_size"
        )
    while not folder.exists():
        folder = folder.parent
    room = shutil.disk_usage(folder).free
    checkpoint = 12 * numbers.params_exact  # weights and two moments
    if checkpoint > room:
        raise StorageError(
            f"a checkpoint of this run takes {_size(checkpoint)}, and {_size(room)} are free in "
            f"{folder}; free some space, or give another folder with run_dir=…"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"

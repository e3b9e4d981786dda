"""How fast this machine trains, by timed steps of the real trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from epochal.data.blend import row_order
from epochal.data.corpus import open_corpus
from epochal.device import find_machine
from epochal.families import family_names
from epochal.objectives import objective
from epochal.recipe import Recipe, run_numbers
from epochal.training.optim import make_optimizer
from epochal.training.step import Stepper
from epochal.training.train import build_model

WARM_STEPS = 2


def seconds_per_token(recipe: Recipe, threads: int, least_seconds: float) -> float:
    """Seconds per token of training by `recipe` on `threads` CPU threads, or on its device.

    Steps are made for at least `least_seconds` after two to warm up; the median step counts,
    so that a disturbance does not.
    """
    corpus = open_corpus(recipe.data)
    numbers = run_numbers(recipe, corpus.train.unique_tokens, corpus.tokenizer.vocabulary)
    machine = find_machine(recipe.train)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = build_model(recipe, corpus.tokenizer.vocabulary).to(machine.device)
        stepper = Stepper(
            recipe,
            model,
            make_optimizer(model, recipe.train),
            objective(recipe, corpus.tokenizer.mask),
            row_order(recipe, corpus.train, numbers),
            machine,
        )
        times: list[float] = []
        while len(times) < WARM_STEPS + 3 or sum(times[WARM_STEPS:]) < least_seconds:
            start = time.perf_counter()
            stepper(len(times), recipe.train.lr)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    tokens = recipe.train.global_batch_size * recipe.data.sequence_length
    return float(np.median(times[WARM_STEPS:])) / tokens


def measure_sizes(
    recipe_of: Callable[[str, str], Recipe],
    sizes: Sequence[str],
    flops: dict[str, float],
    threads: int,
    seconds: float,
) -> dict[tuple[str, str], float]:
    """(family, size) → seconds per token, of `sizes` and of all those between them.

    The first, every third and the last size that a step of a few seconds allows are timed, the
    others follow from their `flops` per token on the line between their neighbours.
    """
    found: dict[tuple[str, str], float] = {}
    for family in family_names():
        timed: dict[str, float] = {}
        for size in sizes[::3]:
            timed[size] = seconds_per_token(recipe_of(family, size), threads, seconds)
        known = np.array([flops[size] for size in timed])
        for size in sizes:
            if flops[size] <= known.max():
                value = np.interp(flops[size], known, np.array(list(timed.values())))
                found[family, size] = float(value)
    return found

"""How fast this machine trains, by timed steps of the real trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from epochal.data.corpus import open_corpus
from epochal.device import find_machine
from epochal.recipe import Recipe, run_numbers
from epochal.training.threads import restored_threads
from epochal.training.train import make_stepper

WARM_STEPS, LEAST_STEPS = 2, 3
"""Steps that are not counted, and steps that are."""
ALWAYS_TIMED = 2
"""Sizes that are timed whatever the limit, so that there is a choice."""


def seconds_per_token(
    recipe: Recipe, threads: int, least_seconds: float, limit: float = float("inf")
) -> float:
    """Seconds per token of training `recipe` on `threads` CPU threads, or on its device.

    Two steps warm up, then steps are timed for at least `least_seconds`, three at least; the
    median counts, so that a disturbance does not. After `limit` seconds no further step begins.
    """
    corpus = open_corpus(recipe.data)
    numbers = run_numbers(recipe, corpus.train.unique_tokens, corpus.tokenizer.vocabulary)
    machine = find_machine(recipe.train)
    with restored_threads():
        torch.set_num_threads(threads)
        stepper = make_stepper(recipe, corpus, numbers, machine)
        times: list[float] = []
        while len(times) < WARM_STEPS + LEAST_STEPS or sum(times[WARM_STEPS:]) < least_seconds:
            if times and sum(times) >= limit:
                break
            start = time.perf_counter()
            stepper(len(times), recipe.train.lr)
            times.append(time.perf_counter() - start)
    tokens = recipe.train.global_batch_size * recipe.data.sequence_length
    return float(np.median(times[WARM_STEPS:] or times[-1:])) / tokens


def measure_sizes(
    recipe_of: Callable[[str, str], Recipe],
    sizes: Sequence[str],
    flops: Mapping[str, float],
    threads: int,
    least_seconds: float,
    limit: float,
    families: Sequence[str],
) -> dict[tuple[str, str], float]:
    """(family, size) → seconds per token, for `sizes`, smallest first, that can be timed.

    Every third size is timed for `least_seconds`; a size whose five steps would take longer than
    `limit` seconds, by its `flops` per token, and all larger ones are left out. The sizes between
    two timed ones follow from their FLOPs on the line between their neighbours.
    """
    speeds: dict[tuple[str, str], float] = {}
    for family in families:
        timed: dict[str, float] = {}
        for size in sizes[::3]:
            recipe = recipe_of(family, size)
            if len(timed) >= ALWAYS_TIMED:
                last = max(timed, key=lambda name: flops[name])
                tokens = recipe.train.global_batch_size * recipe.data.sequence_length
                step = timed[last] * flops[size] / flops[last] * tokens
                if (WARM_STEPS + LEAST_STEPS) * step > limit:
                    break
            timed[size] = seconds_per_token(recipe, threads, least_seconds, limit)
        costs = np.array([flops[size] for size in timed])
        for size in sizes:
            if flops[size] <= costs.max():
                value = np.interp(flops[size], costs, np.array(list(timed.values())))
                speeds[family, size] = float(value)
    return speeds

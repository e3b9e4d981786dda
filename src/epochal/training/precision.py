"""bf16 or fp32 on a CPU: measured where a run is long, and kept in its record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from epochal.device import Machine
from epochal.models import Transformer
from epochal.objectives import linear_nll
from epochal.progress import say
from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.estimate import estimate_time
from epochal.runs.record import in_bf16_on_cpu

LEAST_SECONDS = 300.0
"""Runs that may be shorter are not measured; two seconds are little for the others."""
LEAST_GAIN = 1.25
"""Times as fast from which bf16, which rounds more, is taken. Chosen by us."""
_LEAST_FLOPS = 1e13
_PRODUCT, _ROWS = 256, 1024
_PASS_SECONDS, _MEASURED_SECONDS = 0.1, 0.5


def runs_in_bf16(
    recipe: Recipe,
    numbers: RunNumbers,
    machine: Machine,
    old: Mapping[str, Any] | None,
    comparable: bool = False,
) -> bool:
    """Whether a run computes in bf16. `old` is the run.json of one that is resumed, whose precision
    is kept.

    One that asks for bf16 on a CPU without it is told. With `train.precision` = "auto" on a CPU, a
    run of five minutes or more takes what is faster here: if bf16 multiplies faster, forward and
    backward passes of two blocks and the output layer are timed in both. Two seconds at most; the
    family does not matter. A run that is `comparable` is not measured, since others of its
    comparison may be shorter than that, or find the machine busy: it takes fp32.
    """
    given = recipe.train.precision
    if machine.device.type != "cpu" or given == "fp32":
        return machine.bf16
    if old is not None and given == "auto":
        return in_bf16_on_cpu(old)
    if comparable and given == "auto":
        return machine.bf16
    flops = estimate_time(recipe, numbers).matmul_flops
    if flops < _LEAST_FLOPS:
        return machine.bf16
    plain, half = replace(machine, bf16=False), replace(machine, bf16=True)
    speed, half_speed = plain.product_flops(_PRODUCT), half.product_flops(_PRODUCT)
    if given == "bf16":
        if half_speed < speed:
            times = speed / half_speed
            say(f'this CPU has no bf16: it multiplies {times:.0f} times as fast in "fp32"')
        return True
    if flops / speed < LEAST_SECONDS or half_speed < LEAST_GAIN * speed:
        return False
    gain = pass_seconds(recipe, numbers, plain, speed) / pass_seconds(recipe, numbers, half, speed)
    if gain < LEAST_GAIN:
        return False
    say(f'bf16, {gain:.1f} times as fast here as fp32; train.precision="fp32" keeps fp32')
    return True


def pass_seconds(recipe: Recipe, numbers: RunNumbers, machine: Machine, speed: float) -> float:
    """The shortest forward and backward pass of two blocks and the output layer within half a
    second, after one that warms up; of as many tokens as a tenth of a second of fp32 at `speed`
    FLOP/s allows."""
    shape = recipe.model.architecture()
    shape = replace(shape, layers=min(2, shape.layers))
    cost = shape.matmul_flops_per_token(numbers.vocabulary, numbers.sequence_length)
    tokens = max(16, min(_ROWS, int(_PASS_SECONDS * speed / cost)))
    length = min(tokens, numbers.sequence_length)
    with torch.device("meta"):
        model = Transformer(shape, numbers.vocabulary)
    model.to_empty(device=machine.device)
    ids = torch.zeros(max(1, tokens // length), length, dtype=torch.int64)
    weights, times = torch.ones(ids.numel()), list[float]()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.01)
    while len(times) < 2 or sum(times) < _MEASURED_SECONDS:
        began = time.perf_counter()
        with machine.autocast():
            hidden = model(ids, "causal").flatten(0, 1)
            nll = linear_nll(hidden, model.output_weight, ids.flatten(), weights)
        nll.backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - began)
    return min(times[1:])

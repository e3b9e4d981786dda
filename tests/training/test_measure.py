"""Timing of steps: the median of enough of them, and never long beyond the limit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from epochal.recipe import load_recipe
from epochal.training import measure
from tiny_runs import overrides

FLOPS = {f"s{n}": 2.0**n for n in range(10)}
FAMILIES = ("ar", "mdm")


@pytest.fixture
def clock(monkeypatch):
    """A clock that only steps move: each takes as long as `seconds` of its recipe's run says."""
    now = SimpleNamespace(time=0.0, step=1.0, steps=0)

    def stepper(step, lr):
        now.time += now.step
        now.steps += 1

    monkeypatch.setattr(measure, "make_stepper", lambda *parts: stepper)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now.time)
    return now


def test_no_step_begins_after_the_limit(clock, tiny_corpus, tmp_path):
    recipe = load_recipe("quickstart", overrides(tiny_corpus, tmp_path / "run"))
    tokens = recipe.train.global_batch_size * recipe.data.sequence_length
    assert measure.seconds_per_token(recipe, 1, 4.0) == 1 / tokens
    assert clock.steps == 2 + 4
    clock.steps = 0
    assert measure.seconds_per_token(recipe, 1, 4.0, limit=1.5) == 1 / tokens
    assert clock.steps == 2


def test_sizes_that_would_take_too_long_are_left_out(monkeypatch):
    timed = []

    def seconds(recipe, threads, least, limit):
        timed.append(recipe.size)
        return FLOPS[recipe.size] / 100

    def recipe_of(family, size):
        train, data = SimpleNamespace(global_batch_size=2), SimpleNamespace(sequence_length=5)
        return SimpleNamespace(size=size, train=train, data=data)

    monkeypatch.setattr(measure, "seconds_per_token", seconds)
    sizes = list(FLOPS)
    # A step of s6 takes 64/100 · 10 tokens = 6.4 s, so five take 32 s.
    speeds = measure.measure_sizes(recipe_of, sizes, FLOPS, 1, 0.5, limit=33.0, families=FAMILIES)
    assert timed == ["s0", "s3", "s6"] * len(FAMILIES)
    assert {size for _, size in speeds} == set(sizes[:7])
    assert speeds["ar", "s2"] == pytest.approx(FLOPS["s2"] / 100)
    timed.clear()
    speeds = measure.measure_sizes(recipe_of, sizes, FLOPS, 1, 0.5, limit=0.0, families=FAMILIES)
    assert {size for _, size in speeds} == set(sizes[:4])

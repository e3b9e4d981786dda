"""Layouts of probe sweeps: within the time, on nested subsets, with sizes around the optimum."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.errors import UserError
from epochal.families import family_names
from epochal.sizes import LADDER
from epochal.studies.probes import (
    DESIGNS,
    LEAST_PARTS,
    MOST_EPOCHS,
    Costs,
    candidate_sizes,
    lay_out,
)

PARAMS = candidate_sizes(512)
LEAST = 4096


def costs(speed=5e-11, overhead=4.0, factor=1.0):
    """`speed` in seconds per FLOP of 6·N."""
    return Costs(
        {(f, size): 6 * n * speed for f in family_names() for size, n in list(PARAMS.items())[:10]},
        overhead,
        30_000,
        factor,
    )


@given(
    seconds=st.floats(400, 100_000),
    unique=st.integers(40_000, 10**9),
    speed=st.floats(1e-14, 1e-10),
)
@settings(max_examples=25)
def test_a_layout_keeps_its_time_and_sees_the_text_fresh_and_repeated(seconds, unique, speed):
    made = lay_out(costs(speed), PARAMS, unique, seconds, LEAST)
    assert made.seconds <= seconds
    *subsets, whole = made.unique_tokens
    assert whole == unique
    assert subsets
    assert all(LEAST <= subset <= unique / LEAST_PARTS for subset in subsets)
    assert len(made.sizes) == 3
    for family in family_names():
        mine = [probe for probe in made.probes if probe.family == family]
        assert len(mine) == len(made.probes) / 2
        assert len(mine) > 7  # constants of the data-constrained law
        for size in made.sizes:  # a ladder of fresh lengths, and repetition
            fresh = {p.tokens for p in mine if p.size == size and p.tokens <= p.unique_tokens}
            assert len(fresh) >= 2
        assert max(probe.epochs for probe in mine if probe.unique_tokens < whole) >= 16
        assert max(probe.epochs for probe in mine) <= MOST_EPOCHS * 1.001
    starts = [probe.seconds for probe in made.probes]
    assert starts == sorted(starts)


def test_the_longest_runs_of_the_sizes_take_the_same_time():
    """So the largest compute is seen on both sides of the best size."""
    made = lay_out(costs(overhead=0.0), PARAMS, 10**8, 4000, LEAST)
    longest = [max(p.seconds for p in made.probes if p.size == size) for size in made.sizes]
    assert max(longest) < 1.15 * min(longest)


def test_more_time_gives_the_fuller_design_and_longer_runs():
    short = lay_out(costs(), PARAMS, 10**7, 400, LEAST)
    long = lay_out(costs(), PARAMS, 10**7, 40_000, LEAST)
    runs = DESIGNS[0].rungs + sum(map(len, DESIGNS[0].repeats.values()))
    assert len(long.probes) == 6 * runs
    assert len(short.probes) < len(long.probes)
    assert short.unique_tokens[0] < long.unique_tokens[0]
    assert PARAMS[short.sizes[1]] <= PARAMS[long.sizes[1]]


def test_a_slower_machine_gets_smaller_subsets():
    fast, slow = (lay_out(costs(factor=f), PARAMS, 10**7, 3000, LEAST) for f in (1.0, 2.0))
    assert slow.unique_tokens[0] < fast.unique_tokens[0]


def test_what_does_not_fit_is_the_least_and_a_short_text_refused():
    least = lay_out(costs(), PARAMS, 10**7, 20, LEAST)
    assert least.seconds > 20
    assert lay_out(costs(), PARAMS, 10**7, 1, LEAST) == least
    assert lay_out(costs(), PARAMS, 10**7, least.seconds, LEAST).seconds <= least.seconds
    with pytest.raises(UserError, match=r"10,000 unique tokens.*16,384"):
        lay_out(costs(), PARAMS, 10_000, 3000, LEAST)


def test_candidate_sizes_rise():
    values = list(PARAMS.values())
    assert values == sorted(values)
    largest = max(PARAMS, key=PARAMS.get)
    assert PARAMS[largest] == LADDER[largest].params(512)

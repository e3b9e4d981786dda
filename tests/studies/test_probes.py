"""Layouts of probe sweeps: within the time, on nested subsets, with sizes around the optimum."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.errors import UserError
from epochal.families import default_families
from epochal.sizes import LADDER
from epochal.studies.probes import (
    DESIGNS,
    FARTHEST,
    LEAST_PARTS,
    MOST_EPOCHS,
    Costs,
    Probe,
    candidate_sizes,
    lay_out,
)

PARAMS = candidate_sizes(512)
LEAST = 4096
CHECK = 100.0


def costs(speed=5e-11, overhead=4.0, factor=1.0):
    """`speed` in seconds per FLOP of 6·N."""
    return Costs(
        {
            (f, size): 6 * n * speed
            for f in default_families()
            for size, n in list(PARAMS.items())[:10]
        },
        overhead,
        30_000,
        factor,
    )


@given(
    seconds=st.floats(600, 100_000),
    unique=st.integers(40_000, 10**9),
    speed=st.floats(1e-14, 3e-11),
)
@settings(max_examples=12)
def test_a_layout_keeps_its_time_and_sees_the_text_fresh_and_repeated(seconds, unique, speed):
    made = lay_out(costs(speed), PARAMS, unique, seconds, CHECK, LEAST)
    assert made.seconds(costs(speed)) <= seconds
    assert made.sizes == sorted(made.sizes, key=PARAMS.get)
    assert len(made.sizes) >= 3
    assert made.kept == sorted(made.kept, reverse=True)
    assert made.kept[0] == made.kept[1] == len(made.sizes)  # every size has a ladder
    for shorter, longer in zip(made.rungs, made.rungs[1:], strict=False):
        assert list(shorter) == made.sizes
        for size in made.sizes:
            # To two digits, rounded down.
            assert longer[size] / shorter[size] == pytest.approx(2, rel=0.11)
    assert all(LEAST <= subset <= max(LEAST, unique / LEAST_PARTS) for subset, _ in made.repeats)
    assert all(1.5 < tokens / subset <= MOST_EPOCHS for subset, tokens in made.repeats)
    assert max(tokens / subset for subset, tokens in made.repeats) > 2
    assert max(made.rungs[-1].values()) <= MOST_EPOCHS * unique


def test_the_longest_runs_of_the_sizes_take_the_same_time():
    """So larger sizes, which fall more steeply, are not favoured."""
    known = costs(overhead=0.0)
    made = lay_out(known, PARAMS, 10**8, 4000, CHECK, LEAST)
    longest = [
        known.seconds_per_token["ar", size] * tokens for size, tokens in made.rungs[-1].items()
    ]
    assert max(longest) < 1.15 * min(longest)


def test_more_time_gives_the_fuller_design_and_longer_runs():
    short = lay_out(costs(), PARAMS, 10**7, 400, CHECK, LEAST)
    long = lay_out(costs(), PARAMS, 10**7, 40_000, CHECK, LEAST)
    assert (len(long.rungs), long.searched) == (len(DESIGNS[0].kept), DESIGNS[0].searched)
    assert len(short.rungs) < len(long.rungs)
    assert short.searched < long.searched
    assert PARAMS[short.middle] <= PARAMS[long.middle]


def test_the_longest_probe_is_no_less_than_a_fourth_of_the_check():
    known = costs()
    made = lay_out(known, PARAMS, 10**9, 4000, CHECK, LEAST)
    trained = known.seconds_per_token["ar", made.middle] * made.rungs[-1][made.middle]
    assert trained >= CHECK / FARTHEST
    # Where that leaves no time for the fuller designs, a sparser one is taken.
    sparse = lay_out(known, PARAMS, 10**9, 4000, 20 * CHECK, LEAST)
    assert len(sparse.rungs) < len(made.rungs)


def test_a_slower_machine_gets_shorter_runs():
    fast, slow = (
        lay_out(costs(factor=f), PARAMS, 10**7, 3000, CHECK, LEAST).seconds(costs())
        for f in (1.0, 2.0)
    )
    assert slow < fast


def test_what_does_not_fit_is_the_least_and_a_short_text_refused():
    known = costs()
    least = lay_out(known, PARAMS, 10**7, 20, CHECK, LEAST)
    assert least.seconds(known) > 20
    assert lay_out(known, PARAMS, 10**7, 1, CHECK, LEAST) == least
    assert lay_out(known, PARAMS, 10**7, least.seconds(known), CHECK, LEAST).seconds(
        known
    ) <= least.seconds(known)
    with pytest.raises(UserError, match=r"10,000 unique tokens.*16,384"):
        lay_out(known, PARAMS, 10_000, 3000, CHECK, LEAST)


def test_a_searched_rate_is_part_of_a_run():
    plain, searched = Probe("ar", "64x3x2", 10**5, 1.0), Probe("ar", "64x3x2", 10**5, 1.0, lr=8e-3)
    assert (plain.keys({})["train.optimizer"], plain.keys({})["train.lr"]) == ("muon", 1.6e-2)
    keys = searched.keys({})
    assert (keys["train.lr"], keys["train.min_lr"]) == (8e-3, 8e-4)
    assert keys["model.init_std"] == 0.5 / 64**0.5
    assert plain.name != searched.name
    wide = Probe("mdm", "256x5x8", 10**5, 1.0).keys({})
    assert wide["train.lr"] == 8e-3
    old = Probe("mdm", "128x4x4", 10**5, 1.0, optimizer="adamw").keys({})
    assert (old["train.optimizer"], old["train.lr"]) == ("adamw", 2e-3)
    assert "model.init_std" not in wide


def test_candidate_sizes_rise():
    values = list(PARAMS.values())
    assert values == sorted(values)
    largest = max(PARAMS, key=PARAMS.get)
    assert PARAMS[largest] == LADDER[largest].params(512)

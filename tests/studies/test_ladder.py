"""Ladders of lengths: the drop carried on, repetition, intervals, what the runs say of r."""

from __future__ import annotations

import numpy as np
import pytest

from epochal.scaling.points import Points
from epochal.studies.ladder import (
    NOISE,
    PRIOR_EXPONENT,
    Ladder,
    Ladders,
    effective_tokens,
    ladders_of,
)

TOKENS = 1e5 * 2.0 ** np.arange(5)


def ladder(beta, floor=2.0, fall=2.0, n=5, noise=0.0, seed=0):
    scatter = np.random.default_rng(seed).normal(0, noise, n)
    return Ladder(1e5, TOKENS[:n], floor + fall * (TOKENS[:n] / TOKENS[0]) ** -beta + scatter)


def test_two_runs_carry_the_last_drop_on_with_the_prior():
    made = Ladders([Ladder(1e5, TOKENS[:2], np.array([4.0, 3.6]))], 1e12)
    r = 2.0**-PRIOR_EXPONENT
    found = made.predict(1e5, TOKENS[3])
    assert found.loss == pytest.approx(3.6 - 0.4 * (r + r**2), abs=0.02)
    assert found.low < found.loss < found.high
    assert made.ratio == pytest.approx(r, abs=0.02)
    assert made.weight_of_data == pytest.approx(0.0, abs=0.02)
    assert made.predict(2e5, TOKENS[3]) is None


@pytest.mark.parametrize("beta", [0.25, 0.45, 0.7])
def test_exact_power_laws_are_extended(beta):
    made = Ladders([ladder(beta)], 1e12)
    want = 2.0 + 2.0 * (4 * TOKENS[-1] / TOKENS[0]) ** -beta
    found = made.predict(1e5, 4 * TOKENS[-1])
    assert found.loss == pytest.approx(want, rel=0.025)
    assert found.low <= want <= found.high


def test_all_ladders_of_a_family_share_the_ratio():
    alone = Ladders([ladder(0.6, n=2)], 1e12)
    beside = Ladders([ladder(0.6, n=2), Ladder(2e5, TOKENS, ladder(0.6).loss)], 1e12)
    assert beside.ratio < alone.ratio
    assert beside.weight_of_data > alone.weight_of_data


def test_intervals_hold_the_loss_as_often_as_they_say():
    """Power laws with exponents of the prior and the noise of seeds, two doublings ahead."""
    rng = np.random.default_rng(5)
    inside = []
    for seed in range(150):
        beta = float(np.clip(np.exp(rng.normal(np.log(PRIOR_EXPONENT), 0.35)), 0.1, 1.0))
        fall = rng.uniform(0.8, 2.0)
        made = Ladders([ladder(beta, fall=fall, n=4, noise=NOISE, seed=seed)], 1e12)
        want = 2.0 + fall * 32.0**-beta + rng.normal(0, NOISE)
        found = made.predict(1e5, 2 * TOKENS[-1])
        inside.append(found.low <= want <= found.high)
    assert np.mean(inside) >= 0.85


def test_a_bend_widens_the_interval():
    bent = Ladder(1e5, TOKENS, np.array([5.2, 5.0, 4.4, 3.6, 3.4]))
    assert Ladders([bent], 1e12).inflation > 1.5
    assert Ladders([ladder(0.3)], 1e12).inflation == pytest.approx(1.0, abs=0.3)


def test_repeated_tokens_count_less():
    # Muennighoff et al., eq. 5, by hand for U = 1, R* = 15: one and a hundred repetitions.
    once, twice, often = effective_tokens(np.array([1.0, 2.0, 101.0]), 1.0, 15.0)
    assert once == 1.0
    assert twice == pytest.approx(1 + 15 * (1 - np.exp(-1 / 15)))
    assert often == pytest.approx(16.0, abs=0.03)
    small, large = Ladders([ladder(0.3)], TOKENS[2]), Ladders([ladder(0.3)], 1e12)
    far = 100 * TOKENS[-1]
    assert small.predict(1e5, far).loss > large.predict(1e5, far).loss


def test_ladders_are_of_the_whole_text():
    rows = [("ar", 1e5, d, 1e6, 4.0) for d in TOKENS[:3]] + [("ar", 1e5, 3e5, 1e4, 5.0)]
    rows += [("ar", 2e5, 1e5, 1e6, 4.0), ("mdm", 1e5, 1e5, 1e6, 5.0), ("mdm", 1e5, 2e5, 1e6, 4.9)]
    families, *numbers = zip(*rows, strict=True)
    n, d, u, loss = np.array(numbers, float)
    points = Points(n, d, u, loss, list(families), list(map(str, range(len(n)))), [""] * len(n))
    [only] = ladders_of(points, "ar", 15.0).ladders  # a single length is no ladder
    assert only.params == 1e5
    assert only.tokens.tolist() == TOKENS[:3].tolist()

"""Where one run's curve comes below another's."""

from __future__ import annotations

import numpy as np
import pytest

from epochal.comparison import curve_crossing
from epochal.runs.curves import Curve


def curve(flops, nll):
    flops = np.asarray(flops, dtype=float)
    return Curve(flops / flops[0], flops / flops[-1], flops, np.asarray(nll, dtype=float))


def crossing(ar, mdm):
    return curve_crossing({"ar": ar, "mdm": mdm})


FLOPS = np.linspace(1e14, 1e16, 60)


def law(flops, floor, scale, exponent):
    return floor + scale * (flops / 1e16) ** -exponent


# AR: quick, best at a fifth of the run, then up. Diffusion: slow and steady.
OVERFITTING = curve(FLOPS, law(FLOPS, 3.5, 0.1, 0.5) + 0.8 * np.maximum(0, FLOPS / 1e16 - 0.2) ** 2)


def test_a_crossing_that_was_seen():
    """AR's best is 3.7; diffusion's law comes below it at a known compute."""
    ar = curve(FLOPS, np.maximum(3.7, law(FLOPS, 3.5, 0.05, 0.8)))
    mdm = curve(FLOPS, law(FLOPS, 3.2, 0.4, 0.35))
    exact = 1e16 * (0.4 / 0.5) ** (1 / 0.35)
    found = crossing(ar, mdm)
    assert found.kind == "seen"
    assert found.flops == pytest.approx(exact, rel=0.01)
    low, high = found.interval
    assert low <= exact <= high
    assert low <= found.flops <= high
    assert high - low == pytest.approx(FLOPS[1] - FLOPS[0])


def test_a_crossing_after_the_end_of_the_earlier_run():
    """AR stopped early: its best stays what it was."""
    ar = curve(FLOPS[:20], np.maximum(3.7, law(FLOPS[:20], 3.5, 0.05, 0.8)))
    mdm = curve(FLOPS, law(FLOPS, 3.2, 0.4, 0.35))
    exact = 1e16 * (0.4 / 0.5) ** (1 / 0.35)
    assert exact > FLOPS[19]
    assert crossing(ar, mdm).flops == pytest.approx(exact, rel=0.01)


def test_the_last_of_several_crossings_counts():
    ar = curve(FLOPS, np.full(60, 3.7))
    nll = np.full(60, 3.8)
    nll[10:20] = 3.75
    mdm = curve(FLOPS, nll)
    assert crossing(ar, mdm) is None
    ar = curve(FLOPS, np.concatenate((np.full(30, 3.9), np.full(30, 3.6))))
    nll = np.concatenate((np.full(10, 4.0), np.full(40, 3.8), np.full(10, 3.5)))
    found = crossing(ar, curve(FLOPS, nll))
    assert FLOPS[49] <= found.flops <= FLOPS[50]


def test_a_crossing_that_is_extrapolated():
    """Noise-free law: the true place, and an interval around it."""
    target = OVERFITTING.nll.min()
    mdm = curve(FLOPS, law(FLOPS, 3.2, target - 3.2 + 0.1, 0.3))
    assert mdm.nll[-1] > target
    exact = 1e16 * ((target - 3.2 + 0.1) / (target - 3.2)) ** (1 / 0.3)
    found = crossing(OVERFITTING, mdm)
    assert found.kind == "extrapolated"
    assert found.flops == pytest.approx(exact, rel=0.05)
    assert found.interval[0] <= found.flops * 1.01
    assert found.interval[1] >= found.flops * 0.99


def test_an_extrapolation_from_noisy_curves_covers_the_truth():
    target = OVERFITTING.nll.min()
    clean = law(FLOPS, 3.2, target - 3.2 + 0.1, 0.3)
    exact = 1e16 * ((target - 3.2 + 0.1) / (target - 3.2)) ** (1 / 0.3)
    covered = given = 0
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(0, 0.002, 60)
        found = crossing(OVERFITTING, curve(FLOPS, clean + noise))
        if found is not None:
            given += 1
            covered += found.interval[0] <= exact <= found.interval[1]
    assert given >= 4
    assert covered >= given - 2
    same = [crossing(OVERFITTING, curve(FLOPS, clean)) for _ in range(2)]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("ar", "mdm"),
    [
        # AR still falls: there is no plateau to meet.
        (curve(FLOPS, law(FLOPS, 3.0, 0.4, 0.5)), curve(FLOPS, law(FLOPS, 3.2, 0.5, 0.3))),
        # Diffusion has levelled off above AR's best.
        (OVERFITTING, curve(FLOPS, np.maximum(4.5, law(FLOPS, 3.2, 0.5, 0.3)))),
        # Diffusion would need more than ten times the compute.
        (OVERFITTING, curve(FLOPS, law(FLOPS, 3.2, 2.0, 0.1))),
        # Its law levels off above AR's best.
        (OVERFITTING, curve(FLOPS, law(FLOPS, 3.9, 0.3, 0.5))),
        # Too few points to say.
        (OVERFITTING, curve(FLOPS[::10], law(FLOPS[::10], 3.2, 0.6, 0.3))),
        # Diffusion was ahead all along: where it passed was not seen.
        (curve(FLOPS, np.full(60, 4.0)), curve(FLOPS, law(FLOPS, 3.0, 0.1, 0.3))),
    ],
)
def test_no_crossing_is_shown(ar, mdm):
    assert crossing(ar, mdm) is None


def test_the_order_of_the_families_does_not_matter():
    """The run whose best came later is the one that passes the other."""
    quick = curve(FLOPS, np.maximum(3.7, law(FLOPS, 3.5, 0.05, 0.8)))
    slow = curve(FLOPS, law(FLOPS, 3.2, 0.4, 0.35))
    one = curve_crossing({"quick": quick, "slow": slow})
    assert one == curve_crossing({"slow": slow, "quick": quick})
    assert (one.earlier, one.later) == ("quick", "slow")
    slow = curve(FLOPS, law(FLOPS, 3.2, OVERFITTING.nll.min() - 3.1, 0.3))
    one = curve_crossing({"quick": OVERFITTING, "slow": slow})
    assert one == curve_crossing({"slow": slow, "quick": OVERFITTING})
    assert one.kind == "extrapolated"

"""Random numbers: the published SplitMix64 stream, bijections, uniformity, independence."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from epochal import rng

KEYS = st.integers(0, 2**64 - 1)


def test_outputs_are_splitmix64s():
    # Published with the reference implementation, for seed 1234567.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    key = np.asarray(1234567, dtype=np.uint64)
    assert rng.outputs(key, np.arange(5)).tolist() == expected


@given(KEYS, st.integers(0, 10**6))
def test_outputs_equal_plain_integers(key, index):
    state = (key + 0x9E3779B97F4A7C15 * (index + 1)) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    expected = state ^ (state >> 31)
    assert int(rng.outputs(np.asarray(key, dtype=np.uint64), np.asarray(index))) == expected


def test_stream_keys_differ_by_each_part():
    keys = {
        rng.stream_key(seed, stream, *indices)
        for seed in (0, 1, 11)
        for stream in ("order", "noise")
        for indices in ((), (0,), (1,), (1, 1), (11,))
    }
    assert len(keys) == 3 * 2 * 5


def test_stream_keys_stay_what_they_are():
    # A change here changes every run of every user.
    assert rng.stream_key(1234, "order", 0) == 2900055914802138767
    program = "from epochal import rng; print(rng.stream_key(1234, 'order', 0))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) == rng.stream_key(1234, "order", 0)


def test_row_keys_descend_index_by_index():
    epoch, index = np.array([0, 0, 3]), np.array([5, 6, 5])
    keys = rng.row_keys(99, epoch, index)
    for place in range(3):
        outer = rng.outputs(np.asarray(99, dtype=np.uint64), epoch[place])
        assert keys[place] == rng.outputs(outer, index[place])
    assert len(set(keys.tolist())) == 3


def test_uniforms_are_uniform_and_do_not_depend_on_the_batch():
    keys = rng.row_keys(rng.stream_key(5, "u"), np.arange(400))
    drawn = rng.uniforms(keys, 100)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3
    # Down each column, too: that is one number of many rows.
    assert min(stats.kstest(column, "uniform").pvalue for column in drawn.T) > 1e-5
    assert np.array_equal(rng.uniforms(keys[7:9], 60), drawn[7:9, :60])


def test_uniforms_are_the_top_53_bits():
    keys = rng.row_keys(7, np.arange(50))
    for key, drawn in zip(keys, rng.uniforms(keys, 40), strict=True):
        bits = [int(x) >> 11 for x in rng.outputs(key, np.arange(40))]
        assert drawn.tolist() == [b / 2**53 for b in bits]


def test_streams_are_not_correlated():
    streams = [
        rng.uniforms(np.array([rng.stream_key(seed, name, index)], dtype=np.uint64), 20_000)[0]
        for seed in (0, 1)
        for name in ("order", "noise")
        for index in (0, 1)
    ]
    correlation = np.corrcoef(streams)
    off = correlation[np.triu_indices(len(streams), 1)]
    assert np.abs(off).max() < 4.5 / np.sqrt(20_000)
    # Neither are neighbouring rows of one stream, at any lag.
    rows = rng.uniforms(rng.row_keys(3, np.arange(20_001)), 2)
    for a, b in ((rows[1:, 0], rows[:-1, 0]), (rows[1:, 0], rows[:-1, 1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(20_000)


@pytest.mark.parametrize(
    "count", [1, 2, 3, 7, 64, 1000, 4095, 4096, 4097, 5000, 8192, 16384, 16385, 100_003]
)
def test_a_shuffled_index_is_a_bijection(count):
    for key in (0, rng.stream_key(1, "order", count)):
        order = rng.shuffled_index(key, np.arange(count), count)
        assert np.array_equal(np.sort(order), np.arange(count))


@given(KEYS, st.integers(1, 20_000))
def test_a_shuffled_index_is_a_bijection_for_any_key(key, count):
    order = rng.shuffled_index(key, np.arange(count), count)
    assert len(np.unique(order)) == count
    assert order.max() == count - 1


@given(KEYS, st.integers(2, 2**40), st.integers(0, 2**40))
def test_single_places_agree_with_each_other_at_any_size(key, count, place):
    place %= count
    both = rng.shuffled_index(key, np.array([place, 0]), count)
    assert both[0] == rng.shuffled_index(key, np.array([place]), count)[0]
    assert (both >= 0).all()
    assert (both < count).all()
    assert place == 0 or both[0] != both[1]


def test_an_index_outside_is_refused():
    with pytest.raises(ValueError, match=r"index 10 is outside of 0 … 9"):
        rng.shuffled_index(0, np.array([3, 10]), 10)


@pytest.mark.parametrize("count", [6, 4100])
def test_each_place_is_equally_likely(count):
    """Chi-square over keys: where three places of the order come to lie."""
    keys = [rng.stream_key(9, "uniformity", number) for number in range(1500)]
    rng.permutation.cache_clear()
    places = np.array([rng.shuffled_index(key, np.array([0, 1, count - 1]), count) for key in keys])
    bins = min(count, 20)
    for column in places.T:
        observed = np.bincount(column * bins // count, minlength=bins)
        edges = -(-np.arange(bins + 1) * count // bins)
        expected = np.diff(edges) / count * len(keys)
        assert stats.chisquare(observed, expected).pvalue > 1e-4
    # And pairs: which of two comes first is a fair coin.
    first = (places[:, 0] < places[:, 1]).sum()
    assert stats.binomtest(int(first), len(keys)).pvalue > 1e-4


def test_orders_of_different_keys_are_not_alike():
    a, b = (
        rng.shuffled_index(rng.stream_key(1, "order", e), np.arange(5000), 5000) for e in (0, 1)
    )
    assert (a == b).sum() < 12  # 1 is expected
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(5000)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 4.5 / np.sqrt(5000)


def test_a_cached_order_cannot_be_changed():
    order = rng.permutation(3, 10)
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 5


@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**40), unique=True, max_size=60))
def test_a_random_order_is_a_permutation(seed, numbers):
    numbers = np.array(sorted(numbers), dtype=np.int64)
    order = rng.random_order(seed, numbers)
    assert sorted(order.tolist()) == list(range(len(numbers)))
    # Numbers that stay keep their order among themselves when others go.
    kept = numbers[::2]
    within = [number for number in numbers[order] if number in set(kept.tolist())]
    assert kept[rng.random_order(seed, kept)].tolist() == within


def test_the_first_of_a_random_order_is_uniform():
    firsts = [int(rng.random_order(seed, np.arange(10))[0]) for seed in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared, 9 degrees, p = 0.001

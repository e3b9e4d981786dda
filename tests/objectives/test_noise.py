"""Noise: exact counts, every subset equally likely, levels that cover their range."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from epochal import rng
from epochal.objectives import Rows, noise


def keys(count, name="noise"):
    return rng.row_keys(rng.stream_key(1, name), np.arange(count))


def global_rows(batch, step=0):
    """All rows of a step."""
    return Rows(
        keys=rng.row_keys(rng.stream_key(1, "rows", step), np.arange(batch)),
        place=np.arange(batch),
        global_batch_size=batch,
        step_key=rng.stream_key(1, "step", step),
    )


@given(st.integers(1, 12), st.integers(0, 10**6), st.data())
def test_exactly_so_many_candidates_are_masked(length, seed, data):
    candidates = np.array([data.draw(st.lists(st.booleans(), min_size=length, max_size=length))])
    count = data.draw(st.integers(0, int(candidates.sum())))
    key = np.array([rng.stream_key(seed, "k")], dtype=np.uint64)
    masks = noise.exact_masks(key, np.array([count]), candidates)
    assert masks.sum() == count
    assert not (masks & ~candidates).any()


def test_every_subset_is_equally_likely():
    candidates = np.array([True, False, True, True, True, True])
    count, rows = 2, 30_000
    masks = noise.exact_masks(keys(rows), np.full(rows, count), np.tile(candidates, (rows, 1)))
    seen = Counter(tuple(np.flatnonzero(mask)) for mask in masks)
    subsets = list(combinations(np.flatnonzero(candidates), count))
    assert set(seen) == set(subsets)
    assert stats.chisquare([seen[subset] for subset in subsets]).pvalue > 1e-3


@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True))
def test_counts_lie_in_their_range(candidates, level):
    count = noise.exact_counts(np.array([level]), np.array([candidates]))[0]
    assert 1 <= count <= candidates
    assert count == min(candidates, 1 + int(level * candidates))


def test_counts_at_the_ends():
    last = np.nextafter(1.0, 0.0)
    assert noise.exact_counts(np.array([0.0, last, 0.3]), np.array([7, 7, 0])).tolist() == [1, 7, 0]


def test_even_levels_give_each_count_equally_often():
    levels = (np.arange(7000) + 0.5) / 7000
    counts = noise.exact_counts(levels, np.full(7000, 7))
    assert np.bincount(counts).tolist() == [0] + 7 * [1000]


def test_independent_masks_have_their_probability():
    probability = np.array([0.05, 0.5, 0.9, 1.0])
    masks = noise.independent_masks(keys(4), probability, 40_000)
    assert masks[3].all()
    error = np.sqrt(probability * (1 - probability) / 40_000)
    assert (np.abs(masks.mean(axis=1) - probability) <= 4 * error).all()
    # Neighbours have nothing to do with each other.
    for row in masks[:3]:
        assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 4 / np.sqrt(40_000)


def test_a_rows_level_says_nothing_about_its_masks():
    rows = global_rows(20_000)
    levels = noise.iid_levels(rows)
    assert stats.kstest(levels, "uniform").pvalue > 1e-3
    masks = noise.independent_masks(rows.keys, np.full(20_000, 0.5), 3)
    for column in masks.T:
        assert abs(np.corrcoef(levels, column)[0, 1]) < 4 / np.sqrt(20_000)
    exact = noise.exact_masks(rows.keys, np.full(20_000, 2), np.ones((20_000, 4), dtype=bool))
    for column in exact.T:
        assert abs(np.corrcoef(levels, column)[0, 1]) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize("batch", [2, 4, 10, 256])
def test_stratified_levels_cover_the_range(batch):
    """One level in each of `batch` equal slices, mirrored in pairs."""
    for step in range(5):
        levels = noise.stratified_levels(global_rows(batch, step))
        assert sorted(np.floor(levels * batch).astype(int)) == list(range(batch))
        np.testing.assert_allclose(levels[0::2] + levels[1::2], 1, atol=1e-12)


def test_an_odd_batchs_last_row_is_alone():
    last = []
    for step in range(2000):
        levels = noise.stratified_levels(global_rows(5, step))
        assert sorted(np.floor(levels[:4] * 4).astype(int)) == [0, 1, 2, 3]
        last.append(levels[4])
    assert stats.kstest(last, "uniform").pvalue > 1e-3
    alone = [noise.stratified_levels(global_rows(1, step))[0] for step in range(2000)]
    assert stats.kstest(alone, "uniform").pvalue > 1e-3


def test_every_rows_level_is_uniform_over_steps():
    levels = np.array([noise.stratified_levels(global_rows(6, step)) for step in range(3000)])
    for place in range(6):
        assert stats.kstest(levels[:, place], "uniform").pvalue > 1e-3


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 50))
def test_levels_do_not_depend_on_the_micro_batch(batch, micro, step):
    rows = global_rows(batch, step)
    whole = noise.stratified_levels(rows)
    for start in range(0, batch, micro):
        part = slice(start, start + micro)
        cut = Rows(rows.keys[part], rows.place[part], batch, rows.step_key)
        assert np.array_equal(noise.stratified_levels(cut), whole[part])


@given(st.integers(1, 64), st.integers(1, 300), st.integers(0, 30))
def test_a_pair_masks_one_more_than_a_row(pairs, length, step):
    levels = noise.stratified_levels(global_rows(2 * pairs, step))
    counts = noise.exact_counts(levels, np.full(2 * pairs, length))
    assert (counts[0::2] + counts[1::2] == length + 1).all()


def test_which_row_of_a_pair_is_the_mirror_image_is_a_fair_coin():
    levels = np.array([noise.stratified_levels(global_rows(2, step)) for step in range(4000)])
    low = int((levels[:, 0] < 0.5).sum())
    assert stats.binomtest(low, 4000).pvalue > 1e-3

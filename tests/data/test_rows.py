"""The order of rows: a pure function that visits every window of every epoch exactly once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal import rng
from epochal.data.rows import RowOrder, circular_windows
from epochal.errors import DataError

shapes = st.integers(1, 12).flatmap(
    lambda length: st.tuples(st.integers(length, 90), st.just(length), st.integers(0, 2**31))
)


def order_of(shape):
    """Rows over the stream 0, 1, 2, …, so that a token tells its place."""
    size, length, seed = shape
    return RowOrder(np.arange(size), length, seed)


def epoch_rows(order, epoch):
    return order.batch(epoch * order.rows_per_epoch, order.rows_per_epoch).tokens


@given(shapes, st.integers(0, 6))
@settings(deadline=None)
def test_an_epoch_covers_every_token_once_up_to_the_remainder(shape, epoch):
    size, length, _ = shape
    order = order_of(shape)
    rows = epoch_rows(order, epoch)
    assert rows.shape == (size // length, length + 1)
    assert order.rows_per_epoch == size // length
    seen = Counter(rows[:, :-1].ravel().tolist())
    assert set(seen.values()) == {1}
    assert len(seen) == size - size % length
    # The tokens left out are consecutive on the circle: the windows lie end to end.
    left_out = sorted(set(range(size)) - set(seen))
    if left_out and len(left_out) < size:
        breaks = sum((place + 1) % size not in left_out for place in left_out)
        assert breaks == 1


@given(shapes, st.integers(0, 3))
@settings(deadline=None)
def test_a_row_is_a_window_and_the_token_after_it(shape, epoch):
    size = shape[0]
    rows = epoch_rows(order_of(shape), epoch)
    assert (np.diff(rows, axis=1) % size == 1 % size).all()


def brute_force(tokens, length, seed, first, count):
    """Row by row, with the order and the offset drawn as the documentation says."""
    result = []
    per_epoch = len(tokens) // length
    for number in range(first, first + count):
        epoch, index = divmod(number, per_epoch)
        offset = rng.stream_key(seed, "offset", epoch) % len(tokens)
        key = rng.stream_key(seed, "order", epoch)
        window = int(rng.shuffled_index(key, np.arange(per_epoch), per_epoch)[index])
        start = offset + window * length
        result.append([int(tokens[(start + step) % len(tokens)]) for step in range(length + 1)])
    return result


@given(shapes, st.integers(0, 200), st.integers(0, 30))
@settings(deadline=None, max_examples=60)
def test_against_brute_force_over_epoch_borders(shape, first, count):
    size, length, seed = shape
    tokens = np.random.default_rng(seed).integers(0, 1000, size).astype(np.uint16)
    batch = RowOrder(tokens, length, seed).batch(first, count)
    assert batch.tokens.tolist() == brute_force(tokens, length, seed, first, count)
    assert batch.tokens.dtype == np.int64
    assert batch.tokens.shape == (count, length + 1)


@given(shapes, st.lists(st.integers(1, 20), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_rows_do_not_depend_on_how_they_are_asked_for(shape, cuts):
    whole = order_of(shape).batch(0, sum(cuts))
    place = 0
    for cut in cuts:  # a fresh object each time: there is nothing to remember
        piece = order_of(shape).batch(place, cut)
        assert piece.tokens.tolist() == whole.tokens[place : place + cut].tolist()
        assert piece.keys.tolist() == whole.keys[place : place + cut].tolist()
        place += cut


def test_epochs_and_seeds_differ_in_order_and_in_cut():
    size, length = 5000, 7
    rows = {
        (seed, epoch): epoch_rows(order_of((size, length, seed)), epoch)
        for seed in (1, 2)
        for epoch in range(3)
    }
    offsets = {key: int(found[:, 0].min()) % length for key, found in rows.items()}
    assert len(set(offsets.values())) > 1
    orders = {tuple(found[:, 0].tolist()) for found in rows.values()}
    assert len(orders) == len(rows)


def test_every_token_is_left_out_in_some_epoch():
    size, length = 40, 32  # one row, eight tokens left out
    order = RowOrder(np.arange(size), length, seed=3)
    left_out = Counter()
    for epoch in range(4000):
        left_out.update(set(range(size)) - set(epoch_rows(order, epoch)[0, :-1].tolist()))
    counts = np.array([left_out[place] for place in range(size)])
    # Binomial with mean 800 and deviation 25; five deviations for the worst of forty.
    assert abs(counts - 4000 * 8 / 40).max() < 5 * 25.3


def test_a_large_epoch_is_a_permutation():
    """Above 4,096 rows the order is a Feistel network, below it is drawn outright."""
    order = RowOrder(np.arange(30_011), 3, seed=5)
    rows = epoch_rows(order, 2)
    assert len(np.unique(rows[:, :-1])) == 30_009


def test_keys_are_of_seed_epoch_and_index():
    order = RowOrder(np.arange(100), 10, seed=1)
    keys = order.batch(0, 300).keys
    assert len(np.unique(keys)) == 300
    assert order.batch(0, 300).keys.tolist() == keys.tolist()
    assert RowOrder(np.arange(100), 10, seed=2).batch(0, 300).keys.tolist() != keys.tolist()
    # They do not depend on the tokens: both families and all sizes meet the same noise.
    assert RowOrder(np.zeros(105), 10, seed=1).batch(0, 300).keys.tolist() == keys.tolist()


def test_one_row_of_all_tokens():
    batch = RowOrder(np.arange(5), 5, seed=1).batch(0, 3)
    for row in batch.tokens.tolist():
        assert row[-1] == row[0]
        assert sorted(row[:-1]) == [0, 1, 2, 3, 4]


def test_fewer_tokens_than_a_row():
    with pytest.raises(DataError, match=r"`data.sequence_length` = 8 .* only 7 tokens.*lower it"):
        RowOrder(np.arange(7), 8, seed=1)


def test_windows_go_round_at_the_end():
    found = circular_windows(np.arange(6), np.array([0, 4, 5]), 4)
    assert found.tolist() == [[0, 1, 2, 3], [4, 5, 0, 1], [5, 0, 1, 2]]

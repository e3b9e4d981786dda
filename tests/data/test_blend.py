"""Datapath files, and blends of stores by weight."""

from __future__ import annotations

from collections import Counter
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import write_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal import rng
from epochal.data.blend import (
    Blend,
    open_train,
    row_order,
)
from epochal.data.corpus import open_corpus
from epochal.data.megatron_order import MegatronOrder
from epochal.data.rows import RowOrder
from epochal.data.store import TokenStore
from epochal.errors import DataError, RecipeError
from epochal.recipe import load_recipe, run_numbers


@pytest.fixture
def two(tmp_path):
    """Two stores of 200 and 90 tokens, which tell by their ids which they are."""
    write_pair(tmp_path / "a", range(200), [50, 100, 50])
    write_pair(tmp_path / "b", range(1000, 1090), [90])
    return tmp_path


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ('"1.0 a"', [(1.0, "a")]),
        ('"0.3 a" "0.7 d/b"\n', [(0.3, "a"), (0.7, "d/b")]),
        ("1 a\n\n2 b b\n", [(1.0, "a"), (2.0, "b b")]),
    ],
)
def test_entries(tmp_path, text, entries):
    (tmp_path / "d").mkdir()
    for name in ("a", "d/b", "b b"):
        write_pair(tmp_path / name, range(9), [9])
    (tmp_path / "paths.txt").write_text(text)
    opened = open_train(tmp_path / "paths.txt")
    stores = opened.stores if isinstance(opened, Blend) else [opened]
    assert [store.prefix for store in stores] == [tmp_path / name for _, name in entries]
    if len(entries) > 1:
        total = sum(weight for weight, _ in entries)
        assert opened.weights == tuple(weight / total for weight, _ in entries)


@pytest.mark.parametrize("text", ["", "a", '"x a"', '"-1 a"', '"nan a"', '"1.0 "', "0 a"])
def test_bad_entries(tmp_path, text):
    (tmp_path / "paths.txt").write_text(text)
    with pytest.raises(DataError, match=r"1\.0 data/c4_text_document"):
        open_train(tmp_path / "paths.txt")


def test_one_entry_is_the_plain_store(two):
    (two / "paths.txt").write_text('"0.25 a"')
    opened = open_train(two / "paths.txt")
    assert opened.prefix == two / "a"
    assert open_train(two / "a").content_sha256 == opened.content_sha256


def test_a_blend_counts_all_its_stores(two):
    (two / "paths.txt").write_text('"3 a" "1 b"')
    blend = open_train(two / "paths.txt")
    assert isinstance(blend, Blend)
    assert (blend.weights, blend.unique_tokens, blend.documents) == ((0.75, 0.25), 290, 4)
    (two / "other.txt").write_text('"1 a" "1 b"')
    assert open_train(two / "other.txt").content_sha256 != blend.content_sha256


def test_a_store_that_is_not_there_is_named(two):
    (two / "paths.txt").write_text('"3 a" "1 c"')
    with pytest.raises(DataError, match="there is no token store c "):
        open_train(two / "paths.txt")


def by_hand(weights, rows):
    """The original's loop, written plainly."""
    taken, choices = [0] * len(weights), []
    for row in range(rows):
        worst, most = 0, None
        for number, weight in enumerate(weights):
            error = weight * max(float(row), 1.0) - float(taken[number])
            if most is None or error > most:
                worst, most = number, error
        choices.append(worst)
        taken[worst] += 1
    return choices


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.integers(1, 300))
@settings(deadline=None, max_examples=40)
def test_choices_follow_the_weights(weights, rows):
    weights = [weight / sum(weights) for weight in weights]
    stores = tuple(
        TokenStore(Path("x"), np.full(9, number), np.array([9]), np.array([0, 1]))
        for number in range(len(weights))
    )
    wanted = recipe(train__steps=rows, train__global_batch_size=1)
    order = row_order(wanted, Blend(stores, tuple(weights)), run_numbers(wanted, 90, 9))
    choices = order.batch(0, rows).tokens[:, 0]
    assert choices.tolist() == by_hand(weights, rows)
    for number, weight in enumerate(weights):
        assert abs((choices == number).sum() - weight * rows) <= len(weights)


def test_each_store_gives_its_own_rows_in_their_order(two):
    (two / "paths.txt").write_text('"3 a" "1 b"')
    blend = open_train(two / "paths.txt")
    seeds = [rng.stream_key(1234, "blend", number) for number in range(2)]
    orders = [
        RowOrder(store.tokens, 8, seed) for store, seed in zip(blend.stores, seeds, strict=True)
    ]
    wanted = recipe(train__steps=2250)
    mixed = row_order(wanted, blend, run_numbers(wanted, 290, 2000))
    rows = mixed.batch(0, 9000).tokens
    is_b = rows[:, 0] >= 1000
    assert Counter(is_b.tolist()) == {False: 6750, True: 2250}
    assert np.array_equal(rows[~is_b], orders[0].batch(0, 6750).tokens)
    assert np.array_equal(rows[is_b], orders[1].batch(0, 2250).tokens)
    assert np.array_equal(mixed.batch(8190, 20).tokens, rows[8190:8210])


def recipe(**changes):
    values = {
        "data.sequence_length": 8,
        "model.size": "7M",
        "train.steps": 10,
        "train.global_batch_size": 4,
    }
    return load_recipe(None, values | {k.replace("__", "."): v for k, v in changes.items()})


def test_the_originals_blend(two, tmp_path):
    """Each store its own GPT dataset of half a percent more rows, all with the run's seed."""
    (two / "paths.txt").write_text('"3 a" "1 b"')
    blend = open_train(two / "paths.txt")
    wanted = recipe(data__order="megatron")
    numbers = run_numbers(wanted, blend.unique_tokens, 2000)
    found = row_order(wanted, blend, numbers, tmp_path / "cache").batch(0, 40).tokens
    parts = [
        MegatronOrder(store, 8, 1234, ceil(40 * weight * 1.005))
        for store, weight in zip(blend.stores, blend.weights, strict=True)
    ]
    taken = [0, 0]
    for row, choice in zip(found, by_hand([0.75, 0.25], 40), strict=True):
        assert np.array_equal(row, parts[choice].batch(taken[choice], 1).tokens[0])
        taken[choice] += 1
    again = row_order(wanted, blend, numbers, tmp_path / "cache").batch(0, 40).tokens
    assert np.array_equal(again, found)


def test_what_does_not_go_together(two):
    (two / "paths.txt").write_text('"3 a" "1 b"')
    blend = open_train(two / "paths.txt")
    cut = recipe(data__unique_tokens=100)
    with pytest.raises(RecipeError, match="which store of a blend to cut"):
        row_order(cut, blend, run_numbers(cut, 290, 2000))
    few = recipe(data__order="megatron", data__train_samples=39)
    with pytest.raises(RecipeError, match=r"`data.train_samples` = 39 is less than the 40 rows"):
        row_order(few, blend.stores[0], run_numbers(few, 200, 2000))
    with pytest.raises(
        RecipeError, match=r"`data.train_samples` = 39 only counts with `data.order`"
    ):
        recipe(data__train_samples=39)


def test_a_datapath_file_in_a_recipe(two):
    (two / "train.txt").write_text('"3 a" "1 b"')
    (two / "valid.txt").write_text('"1.0 b"')
    settings = recipe(
        data__train=str(two / "train.txt"),
        data__validation=str(two / "valid.txt"),
        data__tokenizer="bytes",
    )
    with pytest.raises(DataError, match="holds the id 1,089"):
        open_corpus(settings.data)
    write_pair(two / "b", range(90), [90])
    corpus = open_corpus(settings.data)
    assert isinstance(corpus.train, Blend)
    assert corpus.validation.unique_tokens == 90
    mixed = recipe(
        data__train=str(two / "a"), data__validation=str(two / "train.txt"), data__tokenizer="bytes"
    )
    with pytest.raises(DataError, match=r"`data.validation` = .* mixes 2 stores"):
        open_corpus(mixed.data)

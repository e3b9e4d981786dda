"""The original's order of rows: its own arrays and windows, and a slow rewrite of its rules."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from data_helpers import FILES, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.megatron_order import MegatronOrder
from epochal.data.store import TokenStore
from epochal.errors import RecipeError

# What the original's dataset class said (order_meta.json beside the sample).
WINDOWS = 264
SHA256 = "677edf582eef2fe5898d5bfd8eb01f3b8feec18e2280173ab3fd974a3210863b"


@pytest.fixture(scope="module")
def golden():
    with np.load(FILES / "order_three_epochs.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def store():
    return TokenStore.open(FILES / "gpt2tok_pub_text_document")


def arrays(sizes, length, samples, seed):
    """The three arrays as the order caches them, for documents of these sizes."""
    sizes = np.array(sizes, dtype=np.int32)
    store = TokenStore(Path("x"), np.zeros(sizes.sum()), sizes, np.arange(len(sizes) + 1))
    with TemporaryDirectory() as folder:
        MegatronOrder(store, length, seed, samples, Path(folder))
        names = ("doc_idx", "sample_idx", "shuffle_idx")
        return {name: np.load(Path(folder) / f"{name}.npy") for name in names}


def test_the_arrays_are_those_of_the_originals_cache(store, golden):
    for name, array in arrays(store.sizes, 64, 228, 1234).items():
        assert array.dtype == golden[name].dtype
        assert np.array_equal(array, golden[name]), name


@pytest.mark.parametrize("cached", [False, True])
def test_the_rows_are_those_that_the_original_trains_on(store, golden, tmp_path, cached):
    order = MegatronOrder(store, 64, 1234, 228, tmp_path / "order" if cached else None)
    rows = order.batch(0, WINDOWS).tokens
    assert np.array_equal(rows[:50], golden["first50"])
    assert hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8")).hexdigest() == SHA256


def test_a_cached_order_is_used_and_a_wrong_one_made_anew(store, tmp_path):
    plain = MegatronOrder(store, 64, 1234, 228).batch(10, 5)
    MegatronOrder(store, 64, 1234, 228, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = MegatronOrder(store, 64, 1234, 228, tmp_path).batch(10, 5)
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert np.array_equal(plain.tokens, again.tokens)
    assert plain.keys.tolist() == again.keys.tolist()
    other = MegatronOrder(store, 64, 7, 228, tmp_path).batch(10, 5)
    assert np.array_equal(other.tokens, MegatronOrder(store, 64, 7, 228).batch(10, 5).tokens)
    (tmp_path / "order.json").write_text("{")
    back = MegatronOrder(store, 64, 1234, 228, tmp_path).batch(10, 5)
    assert np.array_equal(plain.tokens, back.tokens)


def slow_order(sizes, length, samples, seed):
    """Token by token, as the original's README and code describe it."""
    total = sum(sizes)
    epochs = 1
    while (epochs * total - 1) // length < samples:
        epochs += 1
    random = np.random.RandomState(seed)
    earlier = ((epochs - 1) * total - 1) // length
    apart = epochs > 1 and samples - earlier < int(0.8 * ((total - 1) // length))
    blocks = [epochs - 1, 1] if apart else [epochs]
    documents = []
    for block in blocks:
        part = np.array(list(range(len(sizes))) * block, dtype=np.int32)
        random.shuffle(part)
        documents += part.tolist()
    places = [(at, offset) for at, one in enumerate(documents) for offset in range(sizes[one])]
    rows = (epochs * total - 1) // length
    groups = [range(earlier), range(earlier, rows)] if apart else [range(rows)]
    shuffled = []
    for group in groups:
        part = np.array(group, dtype=np.uint32)
        random.shuffle(part)
        shuffled += part.tolist()
    starts = [list(places[row * length]) for row in range(rows + 1)]
    starts[0] = [0, 0]
    return documents, starts, shuffled


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(lambda s: sum(s) > 6),
    st.integers(2, 12),
    st.integers(1, 60),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_against_the_rules_token_by_token(sizes, length, samples, seed):
    made = arrays(sizes, length, samples, seed)
    documents, starts, shuffled = slow_order(sizes, length, samples, seed)
    assert {name: array.tolist() for name, array in made.items()} == {
        "doc_idx": documents,
        "sample_idx": starts,
        "shuffle_idx": shuffled,
    }
    assert len(shuffled) >= samples


def test_in_pieces_as_in_one(monkeypatch):
    sizes = np.random.RandomState(3).randint(0, 40, 500)
    whole = arrays(sizes, 16, 2000, 5)["sample_idx"]
    monkeypatch.setattr("epochal.data.megatron_order._CHUNK", 7)
    assert np.array_equal(arrays(sizes, 16, 2000, 5)["sample_idx"], whole)


def test_rows_are_pure_functions_of_their_number(store):
    order = MegatronOrder(store, 64, 1234, 228)
    whole = order.batch(0, 60)
    for first, count in ((0, 7), (33, 1), (40, 20)):
        part = order.batch(first, count)
        assert np.array_equal(part.tokens, whole.tokens[first : first + count])
        assert part.keys.tolist() == whole.keys[first : first + count].tolist()
    assert len(set(whole.keys.tolist())) == 60


def test_a_seed_that_numpy_does_not_take(tmp_path):
    write_pair(tmp_path / "x", [1, 2, 3, 4], [4])
    with pytest.raises(RecipeError, match=r"`seed` = 4294967296 .* up to 4294967295"):
        MegatronOrder(TokenStore.open(tmp_path / "x"), 2, 2**32, 1)

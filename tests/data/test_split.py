"""Repeated texts and the split, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.inputs import TextInputs
from epochal.data.options import PrepareOptions
from epochal.data.split import among, choose_validation, digest, first_with_same_text, scan
from epochal.errors import DataError

texts = st.lists(st.sampled_from([b"a", b"b", b"c", b"dd", b"ee"]), max_size=20)


def digests(contents):
    return np.frombuffer(b"".join(map(digest, contents)), dtype="<u8").reshape(-1, 2)


@given(texts)
def test_the_first_of_equal_texts(contents):
    expected = [contents.index(content) for content in contents]
    assert first_with_same_text(digests(contents)).tolist() == expected


@given(texts, texts)
def test_texts_that_are_among_others(contents, others):
    found = among(digests(contents), digests(others))
    assert found.tolist() == [content in others for content in contents]


@given(
    st.lists(st.integers(1, 10**6), min_size=2, max_size=60),
    st.floats(0.001, 0.9),
    st.integers(0, 5),
    st.data(),
)
@settings(max_examples=200)
def test_a_split_has_text_on_both_sides(lengths, share, seed, data):
    lengths = np.array(lengths)
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=60)))
    usable = usable[: len(lengths)]
    usable[:2] = True
    chosen = choose_validation(lengths, share, seed, usable)
    assert chosen.any()
    assert not chosen[usable].all()
    assert not chosen[~usable].any()
    assert chosen.tolist() == choose_validation(lengths, share, seed, usable).tolist()
    # The share is missed by no more than the longest document, which cannot be cut.
    wanted = share * lengths[usable].sum()
    assert abs(lengths[chosen].sum() - wanted) <= lengths[usable].max()


def test_many_small_documents_meet_the_share():
    lengths = np.random.default_rng(0).integers(50, 150, 20_000)
    everything = np.ones(len(lengths), dtype=bool)
    for share in (0.01, 0.05, 0.5):
        chosen = choose_validation(lengths, share, 1234, everything)
        # The last document is taken if it brings the amount nearer, so half of one may miss.
        assert abs(lengths[chosen].sum() - share * lengths.sum()) <= 75
    other = choose_validation(lengths, 0.05, 1, everything)
    both = choose_validation(lengths, 0.05, 1234, everything) & other
    assert 0 < both.sum() < 0.1 * other.sum()


def test_of_one_huge_and_one_small_document_the_small_one_is_held_out():
    for seed in range(10):
        chosen = choose_validation(np.array([10**6, 10]), 0.05, seed, np.ones(2, dtype=bool))
        assert chosen.tolist() == [False, True]


def test_a_single_document_cannot_be_split():
    with pytest.raises(
        DataError, match=r"single document.*`documents` = blank-line.*`validation` = 0"
    ):
        choose_validation(np.array([5, 5]), 0.05, 1, np.array([True, False]))


def test_a_scan_counts(tmp_path):
    (tmp_path / "x.txt").write_text("ä\n\nb\0\nä\n")
    found = scan(TextInputs.find([tmp_path], PrepareOptions(documents="line")))
    assert found.documents == 3
    assert found.lengths.tolist() == [2, 2, 2]
    assert found.repeats.tolist() == [False, False, True]
    assert (found.empty, found.with_nul) == (1, 1)


def test_no_text_at_all(tmp_path):
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match=r"no text in x.txt: documents without text: 1;"):
        scan(TextInputs.find([tmp_path]))

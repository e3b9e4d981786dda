"""The index in pieces: large files are written and checked a chunk at a time."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import FILES, original_index
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data import store as module
from epochal.data.store import read_index, write_index
from epochal.errors import DataError


@given(st.lists(st.integers(0, 1000), max_size=12), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_chunks_do_not_show(tmp_path_factory, sizes, chunk):
    path = tmp_path_factory.mktemp("index") / "x.idx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        write_index(path, np.dtype("<u2"), np.array(sizes, dtype=np.int32))
        assert path.read_bytes() == original_index(8, 2, sizes, range(len(sizes) + 1))
        index = read_index(path)
    assert index.dtype == np.uint16
    assert index.sizes.tolist() == sizes
    assert index.document_list.tolist() == list(range(len(sizes) + 1))


def test_damage_in_a_later_chunk_is_found_at_its_place(tmp_path, monkeypatch):
    sizes = [3] * 10
    content = bytearray(original_index(8, 2, sizes, range(11)))
    place = 34 + 4 * 10 + 8 * 7
    assert content[place] == 42  # 7 sequences of 3 tokens of 2 bytes
    content[place] = 44
    (tmp_path / "x.idx").write_bytes(content)
    monkeypatch.setattr(module, "_CHUNK", 4)
    with pytest.raises(DataError, match=r"sequence 7 should start at byte 42 .* says 44"):
        read_index(tmp_path / "x.idx")


def test_starts_beyond_four_gigabytes(tmp_path):
    sizes = [2**31 - 1, 2**31 - 1, 5]
    (tmp_path / "x.idx").write_bytes(original_index(4, 4, sizes, range(4)))
    assert read_index(tmp_path / "x.idx").sizes.tolist() == sizes
    write_index(tmp_path / "y.idx", np.dtype("<i4"), np.array(sizes, dtype=np.int32))
    assert (tmp_path / "y.idx").read_bytes() == (tmp_path / "x.idx").read_bytes()


def test_an_index_of_the_original():
    index = read_index(FILES / "bpe500_pub_text_document.idx")
    assert index.dtype == np.uint16
    assert len(index.sizes) == 59
    assert index.document_list.tolist() == list(range(60))


@pytest.mark.parametrize("length", [0, 8, 33, 34, 40])
def test_truncated_anywhere(tmp_path, length):
    whole = original_index(8, 2, [2, 3], [0, 1, 2])
    (tmp_path / "x.idx").write_bytes(whole[:length])
    with pytest.raises(DataError, match=r"x.idx is (not the index|truncated)"):
        read_index(tmp_path / "x.idx")

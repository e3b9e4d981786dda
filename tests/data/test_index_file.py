"""The index in pieces: large files are written and checked a chunk at a time."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import FILES, original_index
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data import store as module
from epochal.data.store import TokenStore, write_index
from epochal.errors import DataError


def opened(folder, itemsize, tokens):
    """The store of the index x.idx, whose ids are all 0 (and take no place on the disk)."""
    with (folder / "x.bin").open("wb") as file:
        file.truncate(itemsize * tokens)
    return TokenStore.open(folder / "x")


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any),
    st.integers(1, 5),
)
@settings(deadline=None, max_examples=40)
def test_chunks_do_not_show(tmp_path_factory, sizes, chunk):
    path = tmp_path_factory.mktemp("index") / "x.idx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        write_index(path, np.dtype("<u2"), np.array(sizes, dtype=np.int32))
        assert path.read_bytes() == original_index(8, 2, sizes, range(len(sizes) + 1))
        index = opened(path.parent, 2, sum(sizes))
    assert index.tokens.dtype == np.uint16
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
        opened(tmp_path, 2, 30)


def test_starts_beyond_four_gigabytes(tmp_path):
    sizes = [2**31 - 1, 2**31 - 1, 5]
    (tmp_path / "x.idx").write_bytes(original_index(4, 4, sizes, range(4)))
    assert opened(tmp_path, 4, sum(sizes)).sizes.tolist() == sizes
    write_index(tmp_path / "y.idx", np.dtype("<i4"), np.array(sizes, dtype=np.int32))
    assert (tmp_path / "y.idx").read_bytes() == (tmp_path / "x.idx").read_bytes()


def test_an_index_of_the_original():
    index = TokenStore.open(FILES / "bpe500_pub_text_document")
    assert index.tokens.dtype == np.uint16
    assert len(index.sizes) == 59
    assert index.document_list.tolist() == list(range(60))


@pytest.mark.parametrize("length", [0, 8, 33, 34, 40])
def test_truncated_anywhere(tmp_path, length):
    whole = original_index(8, 2, [2, 3], [0, 1, 2])
    (tmp_path / "x.idx").write_bytes(whole[:length])
    with pytest.raises(DataError, match=r"x.idx is (not the index|truncated)"):
        opened(tmp_path, 2, 5)

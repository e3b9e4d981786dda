"""The token store: Megatron's pair byte for byte, and every way in which it can be broken."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from data_helpers import FILES, original_index, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.metadata import StoreMetadata
from epochal.data.store import TokenStore
from epochal.data.store_writer import StoreWriter
from epochal.errors import DataError

documents = st.lists(st.lists(st.integers(0, 65535), max_size=12), min_size=1, max_size=8).filter(
    lambda lists: any(lists)
)


def write(prefix, lists, dtype="<u2", metadata=None):
    with StoreWriter(prefix, dtype) as writer:
        for ids in lists:
            writer.add(ids)
        return writer.commit(metadata)


@given(documents, st.sampled_from([("<u2", 8), ("<i4", 4), ("<i8", 5)]))
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_and_is_the_originals_form(lists, kind):
    dtype, code = kind
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "x"
        store = write(prefix, lists, dtype)
        sizes = [len(ids) for ids in lists]
        assert store.tokens.tolist() == [number for ids in lists for number in ids]
        assert store.sizes.tolist() == sizes
        assert store.documents == len(lists)
        assert [store.document(i).tolist() for i in range(len(lists))] == lists
        assert store.document_starts.tolist() == [0, *np.cumsum(sizes)]
        expected = original_index(code, np.dtype(dtype).itemsize, sizes, range(len(sizes) + 1))
        assert prefix.with_suffix(".idx").read_bytes() == expected
        content = prefix.with_suffix(".bin").read_bytes()
        assert store.content_sha256 == hashlib.sha256(content).hexdigest()
        assert not store.tokens.flags.writeable


def check_rewriting(prefix, folder):
    store = TokenStore.open(prefix)
    with StoreWriter(folder / "again", store.tokens.dtype) as writer:
        for number in range(store.documents):
            writer.add(store.document(number))
    for suffix in (".bin", ".idx"):
        original = prefix.with_name(prefix.name + suffix).read_bytes()
        assert (folder / f"again{suffix}").read_bytes() == original
    return store


def test_a_file_of_the_original_is_rewritten_byte_for_byte(tmp_path):
    store = check_rewriting(FILES / "bpe500_pub_text_document", tmp_path)
    assert store.documents == 59
    assert (store.tokens[store.document_starts[1:] - 1] == 499).all()


def test_both_sample_pairs_are_rewritten_byte_for_byte(samples, tmp_path):
    for name in ("bpe500", "gpt2tok"):
        check_rewriting(samples / "data" / f"{name}_pub_text_document", tmp_path)


@pytest.mark.parametrize("suffix", ["", ".bin", ".idx", ".json"])
def test_a_store_is_named_with_or_without_its_suffix(tmp_path, suffix):
    write(tmp_path / "a.b", [[1, 2]])
    assert TokenStore.open(f"{tmp_path}/a.b{suffix}").unique_tokens == 2


def test_a_document_may_be_several_sequences_or_none(tmp_path):
    write_pair(tmp_path / "x", range(10), [3, 2, 4, 1], [0, 2, 2, 3, 4])
    store = TokenStore.open(tmp_path / "x")
    assert store.documents == 4
    assert store.document_starts.tolist() == [0, 5, 5, 9, 10]
    assert store.document(0).tolist() == [0, 1, 2, 3, 4]
    view = store.first(7)
    assert view.documents == 3
    assert view.document_starts.tolist() == [0, 5, 5, 7]
    assert view.sizes.tolist() == [3, 2, 2]


@given(documents, st.data())
@settings(deadline=None, max_examples=60)
def test_the_first_tokens_are_exactly_those(lists, data):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "x"
        known = StoreMetadata(unique_tokens=sum(map(len, lists)), documents=len(lists))
        whole = write(prefix, lists, metadata=known)
        budget = data.draw(st.integers(1, whole.unique_tokens))
        view = whole.first(budget)
        assert view.tokens.tolist() == whole.tokens[:budget].tolist()
        assert view.sizes.sum() == budget
        assert view.document_starts[-1] == budget
        starts = whole.document_starts
        assert view.document_starts[:-1].tolist() == starts[: view.documents].tolist()
        if budget < whole.unique_tokens:
            assert view.content_sha256 != whole.content_sha256
            assert view.metadata.truncated_last_document == (budget not in starts)
            assert view.metadata.unique_tokens == budget
            assert view.metadata.documents == view.documents
            assert view.metadata.parent.content_sha256 == whole.content_sha256
        else:
            assert view is whole
        assert view.first(budget) is view


def test_a_view_has_the_identity_of_a_store_of_the_same_tokens(tmp_path):
    view = write(tmp_path / "x", [[1, 2, 3], [4, 5]]).first(4)
    assert view.content_sha256 == write(tmp_path / "y", [[1, 2, 3], [4]]).content_sha256


def test_more_tokens_than_there_are(tmp_path):
    store = write(tmp_path / "x", [[1, 2, 3]])
    with pytest.raises(DataError, match=r"4,000 but .* holds 3 tokens; .*data\.unique_tokens=none"):
        store.first(4000)
    with pytest.raises(DataError, match="not a positive number"):
        store.first(0)


def test_sizes_that_leave_the_end_mark_out_are_put_right(tmp_path, capsys):
    ids = [1, 2, 9, 3, 9, 4, 5, 6, 9]
    write_pair(tmp_path / "x", ids, [2, 1, 1, 2], [0, 1, 2, 4])
    store = TokenStore.open(tmp_path / "x")
    assert store.sizes.tolist() == [3, 2, 1, 3]
    assert [store.document(i).tolist() for i in range(3)] == [[1, 2, 9], [3, 9], [4, 5, 6, 9]]
    assert store.notes[0].values["end_of_document"] == 9
    assert "append-eod" in " ".join(capsys.readouterr().err.split())


def test_an_empty_document_has_no_end_mark_to_put_right(tmp_path):
    write_pair(tmp_path / "x", [1, 9, 2, 9], [1, 1], [0, 1, 1, 2])
    store = TokenStore.open(tmp_path / "x")
    assert [store.document(i).tolist() for i in range(3)] == [[1, 9], [], [2, 9]]


def test_a_surplus_of_other_tokens_is_not_put_right(tmp_path):
    write_pair(tmp_path / "x", [1, 2, 9, 3, 8], [2, 1])
    with pytest.raises(DataError, match=r"holds 5 tokens, more than the 3 of its index"):
        TokenStore.open(tmp_path / "x")


def test_a_truncated_bin(tmp_path):
    write_pair(tmp_path / "x", [1, 2, 3], [2, 3])
    with pytest.raises(DataError, match=r"holds 3 tokens, fewer than the 5 of its index"):
        TokenStore.open(tmp_path / "x")
    (tmp_path / "x.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="not a multiple of the 2 bytes"):
        TokenStore.open(tmp_path / "x")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.bin is empty"):
        TokenStore.open(tmp_path / "x")


def good_index():
    return bytearray(original_index(8, 2, [2, 3], [0, 1, 2]))


def changed(place, content):
    index = good_index()
    index[place : place + len(content)] = content
    return bytes(index)


BROKEN = {
    "is not the index of a Megatron": b"TOTALLYOTHERFILE" * 4,
    "lazy": b"TNTIDX\x00\x00" + bytes(40),
    "not the index": b"MMIDIDX",
    "has version 2": changed(9, b"\x02"),
    "type code 7, which is not a type of token ids": changed(17, b"\x07"),
    "is truncated": bytes(good_index()[:-1]),
    "is too long": bytes(good_index()) + b"\0",
    "sequence 1 has a length of -1": changed(38, b"\xff\xff\xff\xff"),
    r"sequence 1 should start at byte 4 .* says 6": changed(50, b"\x06"),
    r"document list should rise from 0 to 2": changed(66, b"\x05"),
    r"should rise from 0 to 2, the number": changed(58, b"\x01"),
}


@pytest.mark.parametrize(("sentence", "content"), BROKEN.items(), ids=range(len(BROKEN)))
def test_broken_indexes(tmp_path, sentence, content):
    write_pair(tmp_path / "x", range(5), [2, 3])
    assert TokenStore.open(tmp_path / "x").unique_tokens == 5
    (tmp_path / "x.idx").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        TokenStore.open(tmp_path / "x")


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"no token store .*nothing.*epochal data prepare"):
        TokenStore.open(tmp_path / "nothing")
    write(tmp_path / "train", [[1]])
    with pytest.raises(DataError, match=r"is a folder, not a token store; give .*train"):
        TokenStore.open(tmp_path)
    (tmp_path / "train.bin").unlink()
    with pytest.raises(DataError, match=r"incomplete: train.bin is missing"):
        TokenStore.open(tmp_path / "train")


@pytest.mark.parametrize("told", [(4, 1), (3, 2)])
def test_a_metadata_of_another_store(tmp_path, told):
    write(tmp_path / "x", [[1, 2, 3]])
    StoreMetadata(unique_tokens=told[0], documents=told[1]).write(tmp_path / "x.json")
    with pytest.raises(DataError, match=r"describes . tokens in . documents, but .* 3 in 1; prep"):
        TokenStore.open(tmp_path / "x")

"""Verification finds every damage, and reports what it could not check."""

from __future__ import annotations

import pytest
from data_helpers import FILES, TEXTS, contents, lines, write_pair

from epochal.data.corpus import Corpus
from epochal.data.inspection import verify
from epochal.data.notes import Check
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError

SAMPLE = FILES / "bpe500_pub_text_document"


@pytest.fixture
def folder(tmp_path):
    made = prepare(lines(tmp_path, TEXTS), tmp_path / "corpus", PrepareOptions(tokenizer="bpe:300"))
    return made.folder


def failed(findings):
    return {(finding.store, finding.check) for finding in findings if not finding.ok}


def test_a_sound_corpus(folder):
    findings = verify(folder)
    assert failed(findings) == set()
    assert {finding.store for finding in findings} == {"train", "validation", "both"}
    assert len(findings) == 15
    assert failed(verify(folder / "train.bin")) == set()


def change_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_of_the_ids(folder):
    change_byte(folder / "train.bin", 100)
    assert ("train", Check.IDS_HASH) in failed(verify(folder))
    assert not any(store == "validation" for store, _ in failed(verify(folder)))


def test_damage_that_keeps_a_file_readable(folder):
    (folder / "validation.bin").write_bytes((folder / "validation.bin").read_bytes()[:-2])
    assert failed(verify(folder)) == {("validation", Check.OPENS)}
    [finding] = [finding for finding in verify(folder) if not finding.ok]
    assert "truncated or belongs to another store" in finding.values["error"]


def test_an_index_of_other_documents(folder):
    """Two lengths exchanged: the sums still add up."""
    index = bytearray((folder / "train.idx").read_bytes())
    first, second = index[34:38], index[38:42]
    assert first != second
    index[34:38], index[38:42] = second, first
    count = int.from_bytes(index[18:26], "little")
    start = 34 + 4 * count + 8
    index[start : start + 8] = (2 * int.from_bytes(second, "little")).to_bytes(8, "little")
    (folder / "train.idx").write_bytes(index)
    assert failed(verify(folder)) == {
        ("train", Check.INDEX_HASH),
        ("train", Check.ENDS_MARKED),
        ("train", Check.MARKS_ONLY_AT_ENDS),
    }


def test_a_metadata_of_something_else(folder):
    for suffix in (".json", ".bin", ".idx"):
        path = folder / f"train{suffix}"
        path.write_bytes((folder / f"validation{suffix}").read_bytes())
    assert failed(verify(folder)) == {("both", Check.NO_SHARED_DOCUMENTS)}
    [finding] = [finding for finding in verify(folder) if not finding.ok]
    assert finding.values["shared"] > 0


def test_tokenizers(folder):
    other = load_tokenizer("bytes")
    other.save(folder / "tokenizer.json")
    check = Check.TOKENIZER_MATCHES
    assert failed(verify(folder)) == {("train", check), ("validation", check)}
    (folder / "tokenizer.json").unlink()
    assert failed(verify(folder)) == {("corpus", Check.TOKENIZER_PRESENT)}
    with pytest.raises(DataError, match="there is no tokenizer 'nothing'"):
        verify(folder, tokenizer="nothing")


def test_a_store_without_a_metadata(samples):
    findings = verify(SAMPLE)
    assert failed(findings) == set()
    assert {Check.HAS_METADATA, Check.HAS_TOKENIZER} <= {finding.check for finding in findings}
    findings = verify(SAMPLE, tokenizer=samples / "bpe500")
    assert failed(findings) == set()
    [ends] = [finding for finding in findings if finding.check is Check.ENDS_MARKED]
    assert ends.values == {"marked": 59, "documents": 59, "truncated": False}
    findings = verify(SAMPLE, tokenizer="bytes")
    assert ("bpe500_pub_text_document", Check.TOKENIZER_MATCHES) in failed(findings)


def test_marks_that_are_missing_or_inside(tmp_path):
    write_pair(tmp_path / "x", [1, 256, 2, 3, 256, 256], [2, 2, 2])
    findings = verify(tmp_path / "x", tokenizer="bytes")
    assert failed(findings) == {
        ("x", Check.ENDS_MARKED),
        ("x", Check.MARKS_ONLY_AT_ENDS),
    }


def test_an_empty_document_needs_no_mark(tmp_path):
    write_pair(tmp_path / "x", [1, 256, 2, 256], [2, 2], [0, 1, 1, 2])
    assert failed(verify(tmp_path / "x", tokenizer="bytes")) == set()


def test_text_bytes_of_the_metadata(folder):
    path = folder / "train.json"
    path.write_text(path.read_text().replace('"text_bytes": ', '"text_bytes": 1', 1))
    check = Check.TEXT_BYTES
    assert failed(verify(folder)) == {("train", check)}


def test_no_store_at_all(tmp_path):
    with pytest.raises(DataError, match="there is no token store"):
        verify(tmp_path / "nothing")
    with pytest.raises(DataError, match="is a folder, not a token store"):
        verify(tmp_path)


def test_half_a_store(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"ab")
    [finding] = verify(tmp_path / "x")
    assert not finding.ok
    assert "x.idx is missing" in finding.values["error"]


# Repairs


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "train.idx").unlink(),
        lambda folder: (folder / "train.idx").write_bytes(b"no index"),
        lambda folder: change_byte(folder / "train.idx", 20),
    ],
)
def test_an_index_is_made_again_byte_for_byte(folder, damage):
    before = contents(folder)
    damage(folder)
    assert ("train", Check.OPENS) in failed(verify(folder))
    findings = verify(folder, fix=True)
    assert failed(findings) == set()
    assert findings[0].check is Check.INDEX_MADE
    assert contents(folder) == before


def test_nothing_is_done_to_a_sound_store_or_to_changed_ids(folder):
    before = contents(folder)
    verify(folder, fix=True)
    assert contents(folder) == before
    change_byte(folder / "train.bin", 100)
    before = contents(folder)
    assert ("train", Check.IDS_HASH) in failed(verify(folder, fix=True))
    assert contents(folder) == before


def test_an_index_that_would_come_out_otherwise_is_left_alone(folder):
    store = TokenStore.open(folder / "train")
    place = (int(store.document_starts[1]) - 1) * store.tokens.itemsize
    change_byte(folder / "train.bin", place)  # a document's end
    change_byte(folder / "train.idx", 20)
    before = contents(folder)
    assert ("train", Check.INDEX_MADE) in failed(verify(folder, fix=True))
    assert contents(folder) == before


@pytest.mark.parametrize("index_too", [False, True])
def test_whole_documents_of_a_bin_that_was_cut_off_are_kept(folder, index_too):
    store = TokenStore.open(folder / "train")
    whole, starts = store.tokens.tolist(), store.document_starts.tolist()
    path = folder / "train.bin"
    path.write_bytes(path.read_bytes()[: 2 * (starts[7] + 2) + 1])
    if index_too:
        (folder / "train.idx").unlink()
    [cut] = [finding for finding in verify(folder, fix=True) if not finding.ok]
    assert cut.check is Check.CUT_OFF
    lost = {"lost_documents": store.documents - 7, "lost_tokens": len(whole) - starts[7]}
    assert cut.values == {"documents": 7, **lost}
    again = TokenStore.open(folder / "train")
    assert again.tokens.tolist() == whole[: starts[7]]
    assert again.document_starts.tolist() == starts[:8]
    assert failed(verify(folder)) == set()


def test_without_metadata_the_tokenizer_says_where_documents_end(tmp_path):
    write_pair(tmp_path / "x", [1, 256, 2, 3, 256], [2, 3])
    before = contents(tmp_path)
    (tmp_path / "x.idx").unlink()
    assert failed(verify(tmp_path / "x", fix=True)) == {("x", Check.OPENS)}
    assert failed(verify(tmp_path / "x", tokenizer="bytes", fix=True)) == set()
    assert contents(tmp_path) == before


def test_a_damaged_store_is_found_out_when_its_identity_is_asked_for(folder):
    assert Corpus.open(folder).identity()
    change_byte(folder / "train.bin", 100)
    damaged = Corpus.open(folder)
    with pytest.raises(DataError, match=r"train.bin was changed or damaged since it was written"):
        damaged.identity()
    with pytest.raises(DataError, match=r"train.bin was changed"):
        _ = damaged.train.first(10).content_sha256
    change_byte(folder / "train.bin", 100)
    assert Corpus.open(folder).identity()

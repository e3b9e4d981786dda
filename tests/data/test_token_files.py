"""Token files of other programs, arrays of whole numbers, and lists of ids in tables."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import lines, write_pair

from epochal.data.corpus import Corpus
from epochal.data.inspection import verify
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError, OptionError

DOCUMENTS = [[n % 50, 7, *range(n % 9), 49] for n in range(40)]
MARK = 50


def stored(corpus):
    """All documents of both stores without their marks, sorted."""
    stores = [corpus.train, *([corpus.validation] if corpus.validation_store else [])]
    found = [
        store.document(number).tolist() for store in stores for number in range(store.documents)
    ]
    mark = corpus.tokenizer.end_of_document
    assert all(ids[-1] == mark and mark not in ids[:-1] for ids in found)
    return sorted(ids[:-1] for ids in found)


def made(tmp_path, source, **options):
    options = {"tokenizer": "ids:50", **options}
    corpus = prepare(source, tmp_path / "c", PrepareOptions(overwrite=True, **options))
    assert all(finding.ok for finding in verify(tmp_path / "c"))
    assert stored(Corpus.open(tmp_path / "c")) == stored(corpus)
    return corpus


def after(documents):
    """As nanoGPT writes documents: the mark behind each."""
    return [number for ids in documents for number in (*ids, MARK)]


def before(documents):
    """As llm.c does: the mark before each."""
    return [number for ids in documents for number in (MARK, *ids)]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "int32", "int64"])
def test_bin_without_a_header(tmp_path, kind):
    (tmp_path / "train.bin").write_bytes(np.array(after(DOCUMENTS), kind).tobytes())
    options = {"token_type": kind}
    corpus = made(tmp_path, tmp_path / "train.bin", **options)
    assert stored(corpus) == sorted(DOCUMENTS)
    assert corpus.train.metadata.text_bytes is None
    assert corpus.train.metadata.preparation.get("token_type", "uint16") == kind


@pytest.mark.parametrize(
    ("magic", "version", "kind"),
    [(20240520, 1, "<u2"), (20240801, 7, "<u4")],
    ids=["gpt2", "llama3"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bin_with_the_header_of_llm_c(tmp_path, magic, version, kind, packed):
    header = np.zeros(256, "<i4")
    ids = np.array(before(DOCUMENTS), kind)
    header[:3] = magic, version, len(ids)
    content = header.tobytes() + ids.tobytes()
    path = tmp_path / ("x.bin.gz" if packed else "x.bin")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert stored(made(tmp_path, path)) == sorted(DOCUMENTS)
    path.write_bytes(gzip.compress(content[:-4]) if packed else content[:-4])
    with pytest.raises(DataError, match=rf"not {len(ids)} tokens by its header; get it again"):
        made(tmp_path, path)


def test_ids_of_a_tokenizer_with_text(tmp_path):
    """Given as ids, a text makes the store that the text itself makes."""
    texts = [f"text number {n} ü" for n in range(30)]
    tokenizer = load_tokenizer("bytes")
    ids = [number for text in texts for number in (*tokenizer.encode(text), 256)]
    (tmp_path / "x.bin").write_bytes(np.array(ids, "<u2").tobytes())
    given = made(tmp_path, tmp_path / "x.bin", tokenizer="bytes")
    metadata = given.train.metadata
    usual = prepare(lines(tmp_path, texts), tmp_path / "d", PrepareOptions(tokenizer="bytes"))
    assert given.train.content_sha256 == usual.train.content_sha256
    assert metadata.text_bytes == usual.train.metadata.text_bytes


def test_arrays(tmp_path):
    rows = np.random.default_rng(0).integers(0, 50, (20, 6))
    np.save(tmp_path / "x.npy", rows)
    assert stored(made(tmp_path, tmp_path / "x.npy")) == sorted(rows.tolist())
    np.save(tmp_path / "x.npy", np.array(after(DOCUMENTS), np.int16))
    assert stored(made(tmp_path, tmp_path / "x.npy")) == sorted(DOCUMENTS)
    for wrong in (np.zeros(3), np.zeros((1, 1, 1), int), np.array(["a"])):
        np.save(tmp_path / "x.npy", wrong)
        with pytest.raises(DataError, match=r"x.npy holds .* dimensions; give whole numbers"):
            made(tmp_path, tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x.npy is no array of numbers"):
        made(tmp_path, tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_lists_of_ids_in_tables(tmp_path, name):
    rows = [{"input_ids": ids} for ids in DOCUMENTS]
    if name == "x.jsonl":
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    corpus = made(tmp_path, tmp_path / name, text_field="input_ids")
    assert stored(corpus) == sorted(DOCUMENTS)


def test_an_end_of_document_among_the_declared_ids(tmp_path):
    (tmp_path / "x.bin").write_bytes(np.array([1, 2, 9, 3, 9, 4, 4], "<u2").tobytes())
    corpus = made(tmp_path, tmp_path / "x.bin", tokenizer="ids:10", end_of_document="9")
    assert corpus.tokenizer.vocabulary == 10
    assert stored(corpus) == [[1, 2], [3], [4, 4]]
    assert corpus.tokenizer.decode([3, 9]) == "3 <|endoftext|>"
    with pytest.raises(DataError, match=r"ids:10 has no id '10'; give a number below 10"):
        load_tokenizer("ids:10", "10")


def test_ids_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(np.array([1, 60, 2], "<u2").tobytes())
    with pytest.raises(
        DataError, match=r"holds the id 60 at place 1, but the tokenizer ids:50 has"
    ):
        made(tmp_path, path)
    with pytest.raises(DataError, match=r"x.bin holds token ids, not text; .*`tokenizer` = ids:40"):
        made(tmp_path, path, tokenizer="bpe:300")
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match=r"x.bin has 3 bytes of ids, not whole uint16; .*`token_ty"):
        made(tmp_path, path)
    write_pair(tmp_path / "store", [1, 2], [2])
    with pytest.raises(DataError, match=r"is a token store already .*`data.train` = .*store$"):
        made(tmp_path, tmp_path / "store.bin")
    with pytest.raises(OptionError, match="token_type = 'float': give one of uint8"):
        PrepareOptions(token_type="float")


def test_a_tokenizer_of_ids(tmp_path):
    tokenizer = load_tokenizer("ids:300")
    assert (tokenizer.vocabulary, tokenizer.end_of_document, tokenizer.mask) == (301, 300, 301)
    assert tokenizer.encode("3 14  299").tolist() == [3, 14, 299]
    assert tokenizer.decode([3, 14, 299]) == "3 14 299"
    tokenizer.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path).sha256 == tokenizer.sha256
    with pytest.raises(DataError, match=r"ids:300 has nothing for 'seven'"):
        tokenizer.encode("seven")
    for wrong in ("ids:0", "ids:many", "ids:"):
        with pytest.raises(DataError, match=r"is not a tokenizer; write for example ids:4096"):
            load_tokenizer(wrong)

"""The corpus of a recipe: what it opens, and the sentence for all that does not fit."""

from __future__ import annotations

import pytest
from data_helpers import FILES, TEXTS, lines, write_pair

from epochal.data.corpus import open_corpus
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError
from epochal.recipe.schema import Data

SAMPLE = FILES / "bpe500_pub_text_document"


@pytest.fixture
def folder(tmp_path):
    return prepare(
        lines(tmp_path, TEXTS), tmp_path / "corpus", PrepareOptions(tokenizer="bytes")
    ).folder


def test_a_prepared_corpus(folder):
    found = open_corpus(Data(corpus=str(folder)))
    assert found.train.prefix == folder / "train"
    assert found.validation.prefix == folder / "validation"
    assert found.tokenizer.name == "bytes"
    metadata = found.validation.metadata
    assert found.bytes_per_token == metadata.text_bytes / found.validation.unique_tokens


def test_fewer_unique_tokens(folder):
    found = open_corpus(Data(corpus=str(folder), unique_tokens=100))
    assert found.train.unique_tokens == 100
    with pytest.raises(DataError, match=r"`data.unique_tokens` = 1,000,000 but the store .* holds"):
        open_corpus(Data(corpus=str(folder), unique_tokens=1_000_000))


def test_stores_of_other_tools(tmp_path, folder, samples):
    settings = Data(
        train=str(SAMPLE), validation=f"{SAMPLE}.bin", tokenizer=str(samples / "bpe500")
    )
    found = open_corpus(settings)
    assert found.train.unique_tokens == 13_622
    assert found.tokenizer.vocabulary == 500
    assert found.bytes_per_token is None
    with pytest.raises(DataError, match=r"no tokenizer.json beside .*name .* `data.tokenizer`"):
        open_corpus(Data(train=str(SAMPLE), validation=str(SAMPLE)))
    with pytest.raises(
        DataError, match=r"holds the id 499, but .* bytes has only 257 tokens; name"
    ):
        open_corpus(Data(train=str(SAMPLE), validation=str(SAMPLE), tokenizer="bytes"))
    # A training store of another tool judged on a prepared corpus: ids could be others.
    with pytest.raises(DataError, match=r"made with the tokenizer bytes .*, not with bpe500"):
        open_corpus(Data(corpus=str(folder), train=str(SAMPLE), tokenizer=str(samples / "bpe500")))


def test_only_the_cut_has_to_fit_the_tokenizer(tmp_path):
    write_pair(tmp_path / "x", [1, 2, 3, 400], [4])
    write_pair(tmp_path / "v", [1, 2], [2])
    settings = {"train": str(tmp_path / "x"), "validation": str(tmp_path / "v")}
    found = open_corpus(Data(**settings, tokenizer="bytes", unique_tokens=3))
    assert found.train.tokens.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="holds the id 400"):
        open_corpus(Data(**settings, tokenizer="bytes"))


def test_parts_that_are_missing(tmp_path, folder):
    with pytest.raises(DataError, match=r"`data.corpus` = .*nowhere; make one with `epochal data"):
        open_corpus(Data(corpus=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"there is no token store .*nowhere"):
        open_corpus(Data(corpus=str(folder), train=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"there is no token store .*nowhere"):
        open_corpus(Data(corpus=str(folder), validation=str(tmp_path / "nowhere")))
    prepare(
        tmp_path / "x.jsonl", tmp_path / "alone", PrepareOptions(tokenizer="bytes", validation=0)
    )
    with pytest.raises(DataError, match=r"no validation set in .*alone; set `data.validation`"):
        open_corpus(Data(corpus=str(tmp_path / "alone")))


def test_a_tokenizer_that_did_not_make_the_corpus(folder, english):
    with pytest.raises(DataError, match=r"there is no tokenizer 'byts'. Did you mean `bytes`"):
        open_corpus(Data(corpus=str(folder), tokenizer="byts"))
    prepare(folder.parent / "x.jsonl", folder.parent / "d", PrepareOptions(tokenizer="bpe:300"))
    other = folder.parent / "d" / "tokenizer.json"
    with pytest.raises(DataError, match=r"made with the tokenizer bytes .*, not with bpe:300"):
        open_corpus(Data(corpus=str(folder), tokenizer=str(other)))
    load_tokenizer(other).save(folder / "tokenizer.json")
    with pytest.raises(DataError, match=r"made with the tokenizer bytes .*, not with bpe:300"):
        open_corpus(Data(corpus=str(folder)))

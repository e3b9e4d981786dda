"""What a person is told about a store."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from data_helpers import FILES, TEXTS, lines, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.inspection import inspect
from epochal.data.notes import StoreNote
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError
from epochal.results import to_json

SAMPLE = FILES / "bpe500_pub_text_document"


@given(st.lists(st.integers(0, 70), min_size=1, max_size=20).filter(any))
@settings(deadline=None, max_examples=60)
def test_every_document_is_in_one_bin(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("bins")
    write_pair(folder / "x", np.arange(sum(sizes)), sizes)
    found = inspect(folder / "x")
    assert sum(bin.documents for bin in found.lengths) == len(sizes)
    assert sum(bin.tokens for bin in found.lengths) == sum(sizes)
    for bin in found.lengths:
        here = [size for size in sizes if bin.shortest <= size <= bin.longest]
        assert (len(here), sum(here)) == (bin.documents, bin.tokens)
    ends = [(bin.shortest, bin.longest) for bin in found.lengths]
    assert all(before[1] + 1 == after[0] for before, after in pairwise(ends))
    assert (found.shortest, found.longest) == (min(sizes), max(sizes))
    assert found.mean == pytest.approx(np.mean(sizes))
    assert found.median == np.median(sizes)
    assert found.documents == len(sizes)


def test_a_corpus_folder_shows_its_training_store(tmp_path):
    made = prepare(lines(tmp_path, TEXTS), tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    found = inspect(tmp_path / "c", samples=4)
    assert found.prefix == str(tmp_path / "c" / "train")
    assert found.bytes_per_token == made.train.metadata.text_bytes / found.unique_tokens
    assert found.metadata == made.train.metadata
    assert found.dtype == "uint16"
    assert found.bytes == sum(
        (tmp_path / "c" / f"train.{s}").stat().st_size for s in ("bin", "idx")
    )
    assert len(found.samples) == 4
    for sample in found.samples:
        ids = made.train.document(sample.document)
        assert sample.tokens == len(ids)
        assert sample.text == made.tokenizer.decode(ids[:120])
    assert json.loads(json.dumps(to_json(found)))["metadata"]["split"]["role"] == "train"


def test_samples_depend_on_the_seed_and_are_never_more_than_there_are():
    ones = [sample.document for sample in inspect(SAMPLE, samples=5).samples]
    assert ones == [sample.document for sample in inspect(SAMPLE, samples=5).samples]
    assert ones != [sample.document for sample in inspect(SAMPLE, samples=5, seed=1).samples]
    everything = [sample.document for sample in inspect(SAMPLE, samples=1000).samples]
    assert everything == list(range(59))
    assert inspect(SAMPLE, samples=0).samples == ()


def test_tokenizers(samples):
    assert inspect(SAMPLE).samples[0].text is None
    assert inspect(SAMPLE).metadata is None
    named = inspect(SAMPLE, tokenizer=samples / "bpe500").samples[0].text
    given = inspect(SAMPLE, tokenizer=load_tokenizer(samples / "bpe500")).samples[0].text
    assert named == given
    assert named.isprintable()
    with pytest.raises(DataError, match=r"holds the id 499, but the tokenizer bytes has only 257"):
        inspect(SAMPLE, tokenizer="bytes")


def test_a_store_that_was_put_right_says_so(tmp_path):
    write_pair(tmp_path / "x", [1, 2, 9, 3, 9], [2, 1])
    found = inspect(tmp_path / "x")
    assert found.notes == TokenStore.open(tmp_path / "x").notes
    assert found.notes[0].code is StoreNote.LENGTHS_CORRECTED


def test_no_documents(tmp_path):
    write_pair(tmp_path / "x", [1, 2], [2], [0])
    with pytest.raises(DataError, match="document list should rise from 0 to 1"):
        inspect(tmp_path / "x")

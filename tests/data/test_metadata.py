"""The metadata: readable, checked, and clear about what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from epochal.data.metadata import (
    Duplicates,
    Parent,
    SourceFile,
    Sources,
    Split,
    StoreMetadata,
    TokenizerFacts,
    read_metadata,
)
from epochal.errors import DataError

FULL = StoreMetadata(
    unique_tokens=10,
    documents=2,
    text_bytes=33,
    tokenizer=TokenizerFacts(
        name="t", kind="bytes", sha256="ab", vocabulary=257, end_of_document=256, mask=257
    ),
    content_sha256="cd",
    index_sha256="ef",
    sources=Sources(
        files=1,
        bytes=33,
        sha256="00",
        listed=(SourceFile(name="ä.txt", bytes=33, sha256="11", interpreter="CPython 3.11.7"),),
    ),
    duplicates=Duplicates(documents=1, share_of_tokens=0.5, dropped=0),
    split=Split(role="train", share_of_text=0.05, seed=1234, leaked_documents=0),
    parent=Parent(
        name="p", unique_tokens=20, documents=4, content_sha256="22", tokens_per_document=4.5
    ),
    preparation={"seed": 1234, "validation": None},
)


BARE = StoreMetadata(unique_tokens=1, documents=1)
UNSEEDED = replace(FULL, split=replace(FULL.split, seed=None), preparation={"a": None})


@pytest.mark.parametrize("metadata", [FULL, BARE, UNSEEDED])
def test_it_is_read_as_it_was_written(tmp_path, metadata):
    metadata.write(tmp_path / "x.json")
    assert read_metadata(tmp_path / "x.json") == metadata


def test_a_person_can_read_it(tmp_path):
    FULL.write(tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "format": "epochal token store",\n  "version": 2,\n')
    assert '"name": "ä.txt"' in text


def test_no_metadata(tmp_path):
    assert read_metadata(tmp_path / "x.json") is None


def edited(**changes):
    return json.dumps(FULL.as_json() | changes)


WRONG = {
    "cannot be read": "{",
    "is not the metadata of a store": '["a"]',
    "not the metadata": '{"format": "something else"}',
    "version 3 .* update epochal": edited(version=3),
    "`unique_tokens`": edited(unique_tokens="many"),
    "`colour`": edited(colour="red"),
    "`split.role`": edited(split={"role": "test"}),
}


@pytest.mark.parametrize(("sentence", "content"), WRONG.items(), ids=range(len(WRONG)))
def test_damaged_and_foreign_metadatas(tmp_path, sentence, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=f"x.json.*{sentence}"):
        read_metadata(tmp_path / "x.json")


HOW = {
    "the first 99 tokens": None,
    "the first 4 documents, as the paper cuts 1,000 tokens at 478.625835 a document": 478.625835,
}


@pytest.mark.parametrize(("how", "mean"), HOW.items(), ids=["exact", "paper"])
def test_version_1_described_split_and_cut_in_a_sentence(tmp_path, how, mean):
    content = FULL.as_json() | {"version": 1}
    content["split"] |= {"how": "0.05 of the text, whole documents"}
    content["parent"] |= {"how": how}
    del content["parent"]["tokens_per_document"]
    (tmp_path / "x.json").write_text(json.dumps(content))
    expected = replace(FULL, parent=replace(FULL.parent, tokens_per_document=mean))
    assert read_metadata(tmp_path / "x.json") == expected


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_metadata(tmp_path / "x.json")


def test_a_cut_makes_hashes_unknown_and_keeps_the_tokenizer():
    parent = Parent(name="p", unique_tokens=10, documents=2, content_sha256="cd")
    cut = FULL.cut(unique_tokens=5, documents=1, truncated=True, parent=parent)
    assert (cut.unique_tokens, cut.documents, cut.truncated_last_document) == (5, 1, True)
    assert cut.content_sha256 is cut.index_sha256 is cut.text_bytes is cut.preparation is None
    assert cut.tokenizer == FULL.tokenizer
    assert cut.sources == FULL.sources
    assert cut.parent == parent

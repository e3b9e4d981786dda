"""The passport: readable, checked, and clear about what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from epochal.data import Passport
from epochal.data.passport import (
    Duplicates,
    Parent,
    SourceFile,
    Sources,
    Split,
    TokenizerFacts,
    read_passport,
)
from epochal.errors import DataError

FULL = Passport(
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
    split=Split(role="train", how="h", share_of_text=0.05, seed=1234, leaked_documents=0),
    parent=Parent(name="p", unique_tokens=20, documents=4, content_sha256="22", how="first"),
    preparation={"seed": 1234, "validation": None},
)


BARE = Passport(unique_tokens=1, documents=1)
UNSEEDED = replace(FULL, split=replace(FULL.split, seed=None), preparation={"a": None})


@pytest.mark.parametrize("passport", [FULL, BARE, UNSEEDED])
def test_it_is_read_as_it_was_written(tmp_path, passport):
    passport.write(tmp_path / "x.json")
    assert read_passport(tmp_path / "x.json") == passport


def test_a_person_can_read_it(tmp_path):
    FULL.write(tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "format": "epochal token store",\n  "version": 1,\n')
    assert '"name": "ä.txt"' in text


def test_no_passport(tmp_path):
    assert read_passport(tmp_path / "x.json") is None


def edited(**changes):
    return json.dumps(FULL.as_dict() | changes)


WRONG = {
    "cannot be read": "{",
    "is not one": '["a"]',
    "should, but is not one": '{"format": "something else"}',
    "version 2 .* update epochal": edited(version=2),
    "`unique_tokens`": edited(unique_tokens="many"),
    "`colour`": edited(colour="red"),
    "`split.role`": edited(split={"role": "test"}),
}


@pytest.mark.parametrize(("sentence", "content"), WRONG.items(), ids=range(len(WRONG)))
def test_damaged_and_foreign_passports(tmp_path, sentence, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=f"x.json.*{sentence}"):
        read_passport(tmp_path / "x.json")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_passport(tmp_path / "x.json")


def test_a_cut_makes_hashes_unknown_and_keeps_the_tokenizer():
    parent = Parent(name="p", unique_tokens=10, documents=2, content_sha256="cd", how="h")
    cut = FULL.cut(unique_tokens=5, documents=1, truncated=True, parent=parent)
    assert (cut.unique_tokens, cut.documents, cut.truncated_last_document) == (5, 1, True)
    assert cut.content_sha256 is cut.index_sha256 is cut.text_bytes is cut.preparation is None
    assert cut.tokenizer == FULL.tokenizer
    assert cut.sources == FULL.sources
    assert cut.parent == parent

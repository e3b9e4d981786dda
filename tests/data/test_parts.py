"""Long documents are read, encoded and written in parts, and the store is that of the whole."""

from __future__ import annotations

import pytest
from data_helpers import contents
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data import prepare as prepare_module
from epochal.data import readers, shards
from epochal.data.fields import Part
from epochal.data.inputs import TextInputs
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store_writer import StoreWriter

RULES = ["file", "line", "blank-line", "endoftext"]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(readers, "PART", 60)
    monkeypatch.setattr(readers, "_LONGEST_PART", 200)
    monkeypatch.setattr(readers, "CHUNK", 16)
    monkeypatch.setattr(readers, "_SEARCHED", 20)
    monkeypatch.setattr(shards, "_CHARACTERS", 1500)
    monkeypatch.setattr(shards, "_KEPT_FROM", 0)
    monkeypatch.setattr(prepare_module, "_FOR_ONE_PROCESS", 0)


def documents(path, rule):
    return [text for text, _ in TextInputs.find([path], PrepareOptions(documents=rule)).documents()]


PIECES = st.sampled_from(
    ["word ", "é", "中。", "😀x", "\n", "\n\n", "\r\n", "<|endoftext|>\n", "a" * 90]
)


@pytest.mark.parametrize("rule", RULES)
@given(pieces=st.lists(PIECES, max_size=60))
@settings(max_examples=40, deadline=None)
def test_parts_join_to_the_documents(tmp_path_factory, rule, pieces):
    path = tmp_path_factory.getbasetemp() / "x.txt"
    path.write_text("".join(pieces), encoding="utf-8", newline="")
    whole = documents(path, rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "PART", 60)
        patch.setattr(readers, "_LONGEST_PART", 200)
        patch.setattr(readers, "CHUNK", 16)
        assert documents(path, rule) == whole


TEXT = "\n\n".join(f"Document {n}. " + "It goes on, and on. " * (n % 7 * 20) for n in range(40))


@pytest.mark.parametrize(
    ("tokenizer", "rule"),
    [("bytes", "file"), ("bpe:300", "file"), ("bpe:300", "blank-line"), ("char", "blank-line")],
)
def test_a_store_of_parts_is_that_of_the_whole(tmp_path, small_parts, monkeypatch, tokenizer, rule):
    path = tmp_path / "x.txt"
    path.write_text(TEXT + "ACGTTA" * 25)
    options = {"tokenizer": tokenizer, "documents": rule, "validation": 0}
    assert any(isinstance(text, Part) for text, _ in TextInputs.find([path]).parts())
    made = []
    for workers in (1, 2, 4):
        folder = tmp_path / f"c{workers}"
        prepare(path, folder, PrepareOptions(**options, workers=workers))
        made.append(contents(folder))
    monkeypatch.undo()
    prepare(path, tmp_path / "whole", PrepareOptions(**options))
    whole = contents(tmp_path / "whole")
    for each in made:
        for name in ("train.idx", "train.json", "tokenizer.json", "train.bin"):
            assert each[name] == whole[name], name


def test_a_change_within_a_document_in_parts_is_noticed(tmp_path, small_parts, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text(TEXT)
    original = prepare_module._write

    def change(*arguments):
        path.write_text(TEXT.replace("Document 5", "document 5"))
        original(*arguments)

    monkeypatch.setattr(prepare_module, "_write", change)
    options = PrepareOptions(tokenizer="bytes", documents="file", validation=0)
    with pytest.raises(Exception, match="changed while it was being prepared"):
        prepare(path, tmp_path / "c", options)


def test_a_document_is_added_in_parts(tmp_path):
    with StoreWriter(tmp_path / "x", "<u2") as writer:
        writer.add([1, 2], goes_on=True)
        writer.add([3])
        writer.add([4])
        store = writer.commit()
    assert store.document_starts.tolist() == [0, 3, 4]

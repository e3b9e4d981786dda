"""How one large text is cut is proposed by its look, said, and can be overridden."""

from __future__ import annotations

import io
import sys

import pytest
from data_helpers import TEXTS, lines
from test_kinds import table_bytes

from epochal.data.corpus import Corpus
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.errors import DataError
from epochal.report.text import describe

PLAY = "".join(f"First Citizen {n}:\nBefore we proceed,\nhear me speak {n}.\n\n" for n in range(50))
STORIES = [f"Once upon a time {n}.\n\nThe end." for n in range(30)]


def made(source, out, **options):
    corpus = prepare(source, out, PrepareOptions(tokenizer="bytes", **options))
    texts = []
    for store in corpus.stores:
        found = (store.document(number)[:-1] for number in range(store.documents))
        texts += [bytes(ids.astype("u1")).decode() for ids in found]
    rules = [note.values["rule"] for note in corpus.notes if "rule" in note.values]
    return sorted(texts), rules, corpus


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_paragraphs_of_one_book(tmp_path, end):
    (tmp_path / "input.txt").write_bytes(PLAY.replace("\n", end).encode())
    texts, rules, corpus = made(tmp_path / "input.txt", tmp_path / "c")
    assert (len(texts), rules) == (50, ["blank-line"])
    assert corpus.train.metadata.preparation["documents"] == "blank-line"
    [note] = [note for note in corpus.notes if note.code == CorpusNote.PROPOSED_DOCUMENTS]
    assert "input.txt: its paragraphs are the documents, by the look of it" in describe(note)
    assert made(tmp_path, tmp_path / "c")[2].already_existed  # its folder is the same text
    assert made(tmp_path / "input.txt", tmp_path / "d", documents="line")[1] == []


def test_lines_of_one_list(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(f"emma{n}" for n in range(60)))
    texts, rules, _ = made(tmp_path / "names.txt", tmp_path / "c")
    assert (len(texts), rules) == (60, ["line"])


def test_one_paragraph_among_lines_is_no_cut(tmp_path):
    """A title and one long paragraph would make a validation set of the title."""
    (tmp_path / "x.txt").write_text("Title\n\n" + "\n".join(f"line {n}" for n in range(60)))
    assert made(tmp_path / "x.txt", tmp_path / "c")[1] == ["line"]


def test_one_line_cannot_be_cut(tmp_path):
    (tmp_path / "x.txt").write_text("ACGT" * 900)
    with pytest.raises(DataError, match="all text is a single document"):
        made(tmp_path / "x.txt", tmp_path / "c")


def test_lines_that_separate_stories(tmp_path):
    text = "\n<|endoftext|>\n".join(STORIES)
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "valid.txt").write_text("Another story.\n<|endoftext|>\nAnd <|endoftext|> one.\n")
    texts, rules, corpus = made(
        tmp_path / "train.txt", tmp_path / "c", validation_inputs=[tmp_path / "valid.txt"]
    )
    assert texts == sorted([*STORIES, "Another story.", "And <|endoftext|> one."])
    assert rules == ["endoftext"]
    assert corpus.validation.documents == 2
    (tmp_path / "valid.txt").unlink()
    assert made(tmp_path, tmp_path / "d")[0] == sorted(STORIES)
    whole = made(tmp_path / "train.txt", tmp_path / "e", documents="file", validation=0)
    assert whole[:2] == ([text], [])


def test_what_could_be_read_before_is_not_cut(tmp_path):
    (tmp_path / "a.txt").write_text(PLAY)
    assert made(tmp_path / "a.txt", tmp_path / "c", validation=0)[:2] == ([PLAY], [])
    (tmp_path / "b.txt").write_text("other")
    texts, rules, corpus = made([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "d")
    assert (texts, rules) == ([PLAY, "other"], [])
    assert corpus.train.metadata.preparation["documents"] == "file"


@pytest.mark.parametrize("kind", ["text", "json", "parquet"])
def test_standard_input(tmp_path, monkeypatch, kind):
    content = {
        "text": "\n\n".join(TEXTS).encode(),
        "json": lines(tmp_path, TEXTS).read_bytes(),
        "parquet": table_bytes(TEXTS),
    }[kind]
    for folder in ("c", "c"):
        stdin = io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stdin)
        _, _, corpus = made("-", tmp_path / folder)
    assert corpus.already_existed
    assert corpus.train.documents + corpus.validation.documents == 60
    [source] = Corpus.open(tmp_path / "c").train.metadata.sources.listed
    assert (source.name, source.bytes) == ("stdin", len(content))


def test_a_fault_of_standard_input_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": 1}\n')))
    with pytest.raises(DataError, match=r"^standard input, line 1: the field 'text' holds int 1"):
        made("-", tmp_path / "c")

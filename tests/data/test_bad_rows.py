"""Rows that cannot be read: refused with their place, or skipped, counted and listed."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import TEXTS, contents, lines

from epochal.data import prepare as module
from epochal.data.inputs import TextInputs
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.errors import DataError

GOOD = ["one", "two"]


def parquet(path, values, kind):
    pq.write_table(pa.table({"text": pa.array(values, kind)}), path)


def files(folder):
    """Name → file with the texts GOOD and one row that cannot be read."""
    texts = {
        "a.jsonl": b'{"text": "one"}\n{"text": \n{"text": "two"}\n',
        "b.jsonl": b'{"text": "one"}\n{"text": 7}\n{"text": "two"}\n',
        "c.jsonl": b'{"text": "one"}\n{"text": "\xff"}\n{"text": "two"}\n',
        "d.json": b'["one", {"other": 1}, "two"]',
        "e.csv": b"text,n\none,1\nthree\ntwo,2\n",
    }
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    parquet(folder / "f.parquet", [b"one", b"\xff", b"two"], pa.binary())
    return folder


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.jsonl", "line 2 is not valid JSON"),
        ("b.jsonl", "line 2: the field 'text' holds int 7"),
        ("c.jsonl", "is not valid UTF-8 at byte 26"),
        ("d.json", "element 2 of the array has no field 'text'"),
        ("e.csv", "line 3 has 1 columns, its header 2"),
        ("f.parquet", "row 1, column 'text' is not valid UTF-8"),
    ],
)
def test_a_row(tmp_path, name, place):
    path = files(tmp_path) / name
    with pytest.raises(DataError, match=place):
        list(TextInputs.find([path]).documents())
    inputs = TextInputs.find([path], PrepareOptions(on_error="skip"))
    for _ in range(2):  # as prepare does
        assert [text for text, _ in inputs.documents()] == GOOD
    [told] = [one for one in inputs.notes() if one.code == CorpusNote.SKIPPED_ROWS]
    assert told.values["files"] == 1
    assert name in told.values["problems"][0]


def test_in_prepare(tmp_path):
    """The corpus is that of the good rows, the setting is kept, and each bad one is counted."""
    bad = "".join(f'{{"text": {n}}}\n' for n in range(9))
    path = lines(tmp_path, TEXTS)
    expected = prepare(path, tmp_path / "good", PrepareOptions(tokenizer="bytes"))
    path.write_text(path.read_text() + bad)
    options = PrepareOptions(tokenizer="bytes", on_error="skip")
    corpus = prepare(path, tmp_path / "corpus", options)
    assert corpus.train.content_sha256 == expected.train.content_sha256
    assert corpus.train.metadata.preparation["on_error"] == "skip"
    [told] = [one for one in corpus.notes if one.code == CorpusNote.SKIPPED_ROWS]
    assert (told.values["files"], len(told.values["problems"])) == (9, 5)


def test_a_file_that_vanishes(tmp_path, monkeypatch):
    """Between the scan and the writing: one sentence, and the older corpus is as it was."""
    folder = tmp_path / "texts"
    folder.mkdir()
    lines(folder, TEXTS[:30], "a.jsonl")
    lines(folder, TEXTS[30:], "b.jsonl")
    options = PrepareOptions(tokenizer="bytes")
    prepare(folder, tmp_path / "corpus", options)
    before = contents(tmp_path / "corpus")
    whole = module.split_corpus

    def split_corpus(*args):
        found = whole(*args)
        (folder / "b.jsonl").unlink()
        return found

    monkeypatch.setattr(module, "split_corpus", split_corpus)
    again = PrepareOptions(tokenizer="bytes", seed=2, overwrite=True)
    with pytest.raises(DataError, match=r"cannot read .*b\.jsonl: No such file"):
        prepare(folder, tmp_path / "corpus", again)
    assert contents(tmp_path / "corpus") == before

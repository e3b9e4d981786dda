"""Which files are read, in which order, and how their identity is known."""

from __future__ import annotations

import gzip
import json

import pytest

from epochal.data.builtin import builtin_documents
from epochal.data.inputs import TextInputs
from epochal.errors import DataError


def tree(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "json"}' if "json" in name else f"text of {name}")
    return folder


def names(*inputs):
    return [source.name for source in TextInputs.find(inputs).sources]


def test_a_folder_is_searched_and_sorted(tmp_path):
    tree(tmp_path, "b.txt", "a/z.md", "a/b/c.RST", "a.tex", "x.text", "d.jsonl", ".hidden/x.txt")
    tree(tmp_path, "c.py", "d.json", "e", ".x.txt", "f.PY")
    corpus = TextInputs.find([tmp_path])
    found = [source.name for source in corpus.sources]
    assert found == ["a.tex", "b.txt", "d.jsonl", "x.text", "a/z.md", "a/b/c.RST"]
    assert corpus.skipped == {".py": 2, ".json": 1, "no suffix": 1}
    assert [text for text, _ in corpus.documents()][2] == "json"


def test_a_named_file_may_have_any_suffix(tmp_path):
    tree(tmp_path, "code.py", "x.json", "NOTES")
    corpus = TextInputs.find([tmp_path / "code.py", tmp_path / "x.json", str(tmp_path / "NOTES")])
    assert [text for text, _ in corpus.documents()] == ["text of code.py", "json", "text of NOTES"]


def test_inputs_keep_their_order_and_progress_runs_to_the_end(tmp_path):
    tree(tmp_path, "1.txt", "f/2.txt", "f/3.txt")
    assert names(tmp_path / "f", tmp_path / "1.txt") == ["2.txt", "3.txt", "1.txt"]
    corpus = TextInputs.find([tmp_path])
    consumed = [done for _, done in corpus.documents()]
    assert consumed == sorted(consumed)
    assert consumed[-1] == corpus.bytes


def test_inputs_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"no input was given; give text files, folders or `built"):
        TextInputs.find([])
    with pytest.raises(DataError, match=r"there is no file or folder .*nowhere"):
        TextInputs.find([tmp_path / "nowhere"])
    with pytest.raises(
        DataError, match=r"no file or folder https://x.org/a.txt; download it first"
    ):
        TextInputs.find(["https://x.org/a.txt"])
    tree(tmp_path, "only/a.pdf", "only/b.pdf", "empty/.x")
    with pytest.raises(DataError, match=r"only holds no known text \(2 .pdf\); known are .txt, "):
        TextInputs.find([tmp_path / "only"])
    with pytest.raises(DataError, match=r"empty holds no known text \(empty\)"):
        TextInputs.find([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"a.pdf is not read as text; extract its text first"):
        TextInputs.find([tmp_path / "only" / "a.pdf"])


def test_the_identity_follows_content_and_not_place(tmp_path):
    tree(tmp_path / "one", "a.txt", "b.txt")
    tree(tmp_path / "two", "a.txt", "b.txt")
    one, two = TextInputs.find([tmp_path / "one"]), TextInputs.find([tmp_path / "two"])
    assert one.identity == two.identity
    assert one.facts() == two.facts()
    assert one.facts().files == 2
    assert one.facts().bytes == one.bytes
    assert [source.name for source in one.facts().listed] == ["a.txt", "b.txt"]
    (tmp_path / "two" / "b.txt").write_text("other")
    changed = TextInputs.find([tmp_path / "two"])
    assert changed.identity != one.identity
    assert changed.facts().sha256 != one.facts().sha256


def test_of_many_files_only_the_first_are_listed(tmp_path):
    tree(tmp_path, *(f"{n:03}.txt" for n in range(130)))
    facts = TextInputs.find([tmp_path]).facts()
    assert facts.files == 130
    assert len(facts.listed) == 100


def test_the_builtin_corpus_among_the_inputs(tmp_path):
    corpus = TextInputs.find(["builtin"])
    assert tuple(text for text, _ in corpus.documents()) == builtin_documents()
    [source] = corpus.facts().listed
    assert source.name == "builtin"
    assert source.interpreter.startswith("CPython 3.")
    assert source.bytes > 1_000_000
    assert len(source.sha256) == 64
    assert corpus.identity == TextInputs.find(["builtin"]).identity
    assert corpus.identity != TextInputs.find(["builtin", "builtin"]).identity


def test_a_file_that_goes_away(tmp_path):
    tree(tmp_path, "a.txt")
    corpus = TextInputs.find([tmp_path])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*a.txt: No such file"):
        list(corpus.documents())
    with pytest.raises(DataError, match=r"cannot read .*a.txt: No such file"):
        _ = corpus.identity


def test_a_packed_json_beside_texts_is_read_if_it_has_a_value_a_line(tmp_path):
    tree(tmp_path, "a.txt")
    packed = {"lines": '{"text": "x"}\n', "settings": json.dumps({"text": "x"}, indent=2)}
    for name, written in packed.items():
        (tmp_path / f"{name}.json.gz").write_bytes(gzip.compress(written.encode()))
    corpus = TextInputs.find([tmp_path])
    assert [source.name for source in corpus.sources] == ["a.txt", "lines.json.gz"]
    assert corpus.skipped == {".gz": 1}

"""The run record: what was written is read back, damage is named, two processes do not mix."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import RunError, StorageError
from epochal.recipe import load_recipe
from epochal.runs import RunFolder, RunRecord, read_lines
from made_runs import make_run, result


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "quick-ar", "ar", [5.0, 4.0, 4.5])


def test_a_record_reads_back(run):
    assert (run.name, run.family, run.status) == ("quick-ar", "ar", "finished")
    assert run.numbers["steps"] == 100
    changes = {"train.steps": 100, "family": "ar"}
    assert run.recipe == load_recipe(None, changes)
    assert [line["step"] for line in run.metrics("eval")] == [33, 67, 100]
    assert run.metrics("train") == []
    with run.folder.metrics_file.open("a", encoding="utf-8") as file:
        file.write('{"kind": "train", "step": 120}\n')
    assert run.last_step == 120
    assert run.samples() == []
    run.folder.write_samples([{"prompt": "a", "text": "ö"}])
    assert run.samples() == [{"prompt": "a", "text": "ö"}]


def test_a_run_finds_its_corpus_from_anywhere(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs/a", "ar", [5.0])
    train = {"data.train": "stores/x", "data.validation": "y", "data.tokenizer": "gpt2"}
    other = make_run(tmp_path / "runs/b", "ar", [5.0])
    other.folder.write_recipe(load_recipe(None, train | {"train.steps": 100}))
    for name in ("corpus", "runs/corpus", "stores", "elsewhere/corpus", "gpt2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "stores/x.idx").touch()
    monkeypatch.chdir(tmp_path)
    assert run.data.corpus == "corpus"  # as a path is read everywhere else
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.data.corpus == "corpus"
    (tmp_path / "elsewhere/corpus").rmdir()
    assert run.data.corpus == str(tmp_path / "runs/corpus")  # the nearest above the run
    assert other.data.train == str(tmp_path / "stores/x")
    assert (other.data.validation, other.data.tokenizer) == ("y", "gpt2")  # not found: as it was
    assert run.recipe.data.corpus == "corpus"


@pytest.mark.parametrize("documents", [0.01, None])
def test_evaluations_read_back(run, documents):
    other = result("mdm", 4.2, checkpoint="last", standard_error_documents=documents)
    sums = np.array([1.5, 2.5]), np.array([3, 4]), np.array([0.1, 0.2])
    run.folder.write_evaluation(other, *sums)
    best, last = run.evaluations()
    assert last == other
    assert best == result("ar", 4.0)
    for found, given_sums in zip(run.document_sums(last), sums, strict=True):
        assert np.array_equal(found, given_sums)
    assert run.evaluation("last") == other
    assert run.evaluation("first") is None


def test_our_estimate_goes_before_the_papers(run):
    sums = np.array([1.0]), np.array([1]), np.array([0.0])
    run.folder.write_evaluation(result("ar", 9.0, checkpoint="last", estimator="paper"), *sums)
    assert run.evaluation("last").estimator == "paper"
    run.folder.write_evaluation(result("ar", 4.0, checkpoint="last"), *sums)
    assert run.evaluation("last").estimator == "exact"


def test_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no run\.json"):
        RunRecord(tmp_path)
    (tmp_path / "run.json").write_text('{"family": ')
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        RunRecord(tmp_path)
    for content in ("[1]", '{"format": 2, "family": "ar"}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(RunError, match=r"run\.json is not in format 1"):
            RunRecord(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        RunRecord(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"family": "ar"}', "[1]"])
def test_a_damaged_evaluation_is_named(run, text):
    path = run.folder.evaluation_file("best", "exact")
    path.write_text(text)
    with pytest.raises(
        RunError, match=r"best-exact\.json is missing or damaged; run `epochal eval"
    ):
        run.evaluations()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn", b"not a zip"])
def test_damaged_sums_are_named(run, content):
    path = run.folder.evaluation_file("best", "exact").with_suffix(".npz")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"best-exact\.npz is missing or damaged"):
        run.document_sums(run.evaluation("best"))


LINES = [{"kind": "train", "step": 1, "loss": 5.25}, {"kind": "eval", "step": 2, "note": "grüße"}]


@given(st.integers(0, 200))
def test_a_torn_last_line_is_left_out(tmp_path_factory, cut):
    """Cut anywhere, even inside a character: all whole lines before remain."""
    whole = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES).encode()
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    path.write_bytes(whole[:cut])
    ends = [len(whole.split(b"\n")[0]), len(whole) - 1]
    assert read_lines(path) == [line for line, end in zip(LINES, ends, strict=True) if cut >= end]


def test_no_lines_yet(tmp_path):
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_two_processes_do_not_work_on_one_run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    program = (
        "import sys; from pathlib import Path; from epochal.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): pass\n"
    )
    command = [sys.executable, "-c", program, str(folder.path)]
    with folder.lock():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "RunError: another process is working on" in done.stderr
        assert "/STOP" in done.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_lock_is_given_back_after_an_error(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError), folder.lock():
        raise RuntimeError
    with folder.lock():
        pass


def test_a_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot write"),
        RunFolder(tmp_path / "file" / "r").lock(),
    ):
        pass


def test_a_run_that_is_held_names_its_holder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        expected = rf"process {os.getpid()} of \S+ on \S+, since 2"
        with pytest.raises(RunError, match=expected), RunFolder(tmp_path / "run").lock():
            pass
    with folder.lock():
        pass
    assert [path.name for path in folder.path.iterdir()] == [".lock"]

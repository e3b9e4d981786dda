"""`--profile` writes a trace and changes nothing."""

from __future__ import annotations

import gzip
import json

import pytest

from epochal.training.train import train
from tiny_runs import figures, final_files, overrides


@pytest.mark.filterwarnings("ignore")
def test_a_trace_of_three_steps(tiny_corpus, tmp_path):
    train(None, overrides(tiny_corpus, tmp_path / "plain", train__steps=8))
    train(None, overrides(tiny_corpus, tmp_path / "run", train__steps=8), profile=True)
    folder = tmp_path / "run" / "profile"
    with gzip.open(folder / "trace-step-3.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = [event for event in events if "Optimizer.step#AdamW" in event.get("name", "")]
    assert len(steps) == 3
    assert "aten::mm" in (folder / "table-step-3.txt").read_text()
    assert final_files(tmp_path / "run") == final_files(tmp_path / "plain")
    losses = [[line.get("loss") for line in figures(tmp_path / name)] for name in ("run", "plain")]
    assert losses[0] == losses[1]


@pytest.mark.filterwarnings("ignore")
def test_a_run_too_short_for_a_trace_says_so(tiny_corpus, tmp_path, capsys):
    train(None, overrides(tiny_corpus, tmp_path, train__steps=5), profile=True)
    assert not (tmp_path / "profile").exists()
    assert "no trace: it takes 6 steps, but only 5 were made" in capsys.readouterr().err

"""Runs side by side."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from click.testing import CliRunner

from epochal.cli.runs import runs as runs_command
from epochal.errors import RecipeError, RunError
from epochal.results import to_json
from epochal.runs.curves import CurveShape
from epochal.runs.find import Sort, list_runs
from epochal.runs.summary import summarise
from made_runs import make_run


def write(folder, name, *, status="finished", lines=(), **identity):
    path = folder / name
    path.mkdir(parents=True)
    info = {
        "family": identity.get("family", "ar"),
        "status": status,
        "identity": {
            "train.lr": 1e-3,
            "model.size": "7M",
            "corpus.train": "abcdef0123",
            **identity,
        },
        "numbers": {"params": 7_000_448, "unique_tokens": 10**6, "epochs": 50.0, "steps": 100},
        "seconds": 12.5,
    }
    (path / "run.json").write_text(json.dumps(info))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


LINES = [
    {"kind": "train", "step": 10, "loss": 4.0, "tokens_per_second": 900.0},
    {"kind": "eval", "step": 20, "epochs": 10, "flops": 1e9, "nll_nats_per_token": 3.5},
    {"kind": "train", "step": 40, "loss": 3.0, "tokens_per_second": 1000.0},
    {"kind": "eval", "step": 40, "epochs": 20, "flops": 2e9, "nll_nats_per_token": 3.7},
]


def test_progress_best_and_speed(tmp_path):
    write(tmp_path, "a", lines=LINES, status="running")
    [line] = list_runs([tmp_path])
    assert (line.status, line.family, line.size) == ("running", "ar", "7M")
    assert (line.step, line.progress) == (40, 0.4)
    assert (line.best_nll, line.best_step, line.best_epoch) == (3.5, 20, 10)
    assert line.nll == line.best_nll
    assert line.rise_since_best == pytest.approx(0.2)
    assert line.shape is CurveShape.OVERFITTED
    assert line.epochs_seen == pytest.approx(20)
    assert line.tokens_per_second == 1000.0
    assert line.seconds_since_update is not None
    assert line.seconds_since_update < 60
    assert line.evaluated_nll is None
    assert line.differs == {}


def test_settings_of_a_family_are_compared_within_it(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b", **{"family": "mdm", "mdm.eps": 1e-3})
    assert [line.differs for line in list_runs([tmp_path])] == [{}, {}]
    write(tmp_path, "c", **{"family": "mdm", "mdm.eps": 0.0})
    assert [line.differs for line in list_runs([tmp_path])] == [
        {},
        {"mdm.eps": 1e-3},
        {"mdm.eps": 0.0},
    ]


def test_settings_in_which_they_differ(tmp_path):
    write(tmp_path, "a", **{"train.lr": 1e-3})
    write(tmp_path, "b", **{"train.lr": 2e-3, "train.ema": 0.9, "family": "mdm"})
    write(tmp_path, "deep/c", **{"corpus.train": "ffffffff99"})
    lines = list_runs([tmp_path])
    assert [line.run.rpartition("/")[2] for line in lines] == ["a", "b", "c"]
    assert lines[0].differs == {"corpus.train": "abcdef01", "train.ema": "unset", "train.lr": 1e-3}
    assert lines[1].differs == {"corpus.train": "abcdef01", "train.ema": 0.9, "train.lr": 2e-3}
    assert lines[2].differs["corpus.train"] == "ffffffff"
    assert lines[0].seconds_since_update is None
    assert lines[0].progress == 0.0
    json.dumps(to_json(lines))


def test_a_real_pair(tiny_pair):
    lines = list_runs([tiny_pair])
    assert [line.family for line in lines] == ["ar", "mdm"]
    for line in lines:
        assert line.progress == 1.0
        assert line.status == "finished"
        assert line.best_nll is not None
        assert line.evaluated_nll is not None


def test_a_summary(tmp_path):
    """An evaluated run that is half done."""
    record = make_run(tmp_path / "r", "ar", [5.0, 4.0, 4.5], nll=3.9, flops=2e15)
    record.numbers["steps"] = 200
    line = summarise(record)
    assert (line.name, line.family, line.status) == ("r", "ar", "finished")
    assert (line.evaluated_nll, line.evaluated_error, line.bits_per_byte) == (3.9, 0.01, 1.1)
    assert (line.nll, line.best_nll) == (3.9, 4.0)
    assert (line.epochs, line.flops) == (10.0, 2e15)
    assert (line.progress, line.epochs_seen, line.flops_spent) == (0.5, 5.0, 1e15)


def test_the_best_nll_of_a_run(tmp_path):
    """Evaluated, else the lowest finite one in training, else none."""
    assert make_run(tmp_path / "a", "ar", [5.0, 4.0], nll=3.9).best_nll == 3.9
    curve = [5.0, float("nan"), 4.0]
    assert make_run(tmp_path / "b", "ar", curve, evaluated=False).best_nll == 4.0
    record = make_run(tmp_path / "c", "ar", [], evaluated=False)
    assert record.best_nll is None
    record.info["best"] = {"step": 3, "nll_nats_per_token": 4.5}  # imported without a log
    assert (record.best_nll, record.last_step) == (4.5, 3)


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="'x'"):
        list_runs([tmp_path], family="x")


def test_a_place_without_runs(tmp_path):
    with pytest.raises(RunError, match="holds no runs"):
        list_runs([tmp_path])


def test_sorted_and_filtered(tmp_path):
    write(tmp_path, "a", lines=LINES, status="running")
    lower = [LINES[0] | {"tokens_per_second": 5000.0}, LINES[1] | {"nll_nats_per_token": 3.1}]
    write(tmp_path, "b", lines=lower, **{"family": "mdm"})
    write(tmp_path, "c", status="diverged")

    def names(**options):
        return "".join(line.run[-1] for line in list_runs([tmp_path], **options))

    assert names() == "abc"
    assert names(sort="nll") == "bac"
    assert names(sort="progress") == "abc"
    assert names(sort="speed") == "bac"
    assert names(status=["diverged", "running"]) == "ac"
    assert names(family="mdm") == "b"
    assert names(family="mdm", status=["running"]) == ""


def test_an_evaluation_that_was_not_finite_is_not_the_best(tmp_path):
    nan = [{"kind": "eval", "step": 5, "nll_nats_per_token": float("nan")}]
    write(tmp_path, "a", lines=[*nan, *LINES], status="diverged")
    write(tmp_path, "b", lines=nan, status="diverged")
    first, second = list_runs([tmp_path])
    assert (first.best_nll, first.best_step) == (3.5, 20)
    assert second.best_nll is None


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_list_fits_the_terminal(tmp_path, width, monkeypatch):
    name = "ar-" + "long-" * 15
    write(tmp_path, name, lines=LINES, status="running", **{"train.lr": 1e9})
    write(tmp_path, "mdm", lines=LINES, **{"family": "mdm", "data.corpus": "x" * 30})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    result = CliRunner().invoke(runs_command, ["."])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= width
    assert name in result.output.replace("\n", "")
    for text in ("running", "finished", "3.5000", "train.lr=1000000000"):
        assert text in result.output


def test_in_a_pipe_nothing_is_left_out(tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    write(tmp_path, "a", lines=LINES)
    result = CliRunner().invoke(runs_command, [str(tmp_path)])
    header, row = result.output.splitlines()
    for name in ("run", "status", "unique", "at step", "tok/s"):
        assert name in header
    assert str(tmp_path / "a") in row
    result = CliRunner().invoke(runs_command, [str(tmp_path), "--status", "diverged"])
    assert "no such runs" in result.output


def test_the_choices_are_those_of_the_function():
    [option] = [one for one in runs_command.params if one.name == "sort"]
    assert tuple(option.type.choices) == get_args(Sort)

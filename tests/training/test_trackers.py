"""Trackers get the run's figures, and none of them can harm the run."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from epochal.runs import RunRecord
from epochal.training import trackers
from epochal.training.trackers import Trackers
from epochal.training.train import train
from tiny_runs import final_files, overrides

NAMES = ("wandb", "trackio", "mlflow")


class Fake(ModuleType):
    """One of the three libraries; what it was told is in `calls`. `fails` at one of them."""

    def __init__(self, name, fails=None, how=RuntimeError):
        super().__init__(name)
        self.calls, self.fails, self.how = [], fails, how

    def _call(self, what, *given, **named):
        self.calls.append((what, given, named))
        if what == self.fails:
            raise self.how("the server is gone\nwith many lines")
        return SimpleNamespace(
            info=SimpleNamespace(run_id="r1"),
            log=lambda *a, **k: self._call("log", *a, **k),
            finish=lambda **k: self._call("finish", **k),
        )

    def __getattr__(self, what):
        if what.startswith("_"):
            raise AttributeError(what)
        return lambda *given, **named: self._call(what, *given, **named)

    def told(self, what):
        return [(given, named) for name, given, named in self.calls if name == what]


@pytest.fixture
def fakes(monkeypatch):
    made = {name: Fake(name) for name in NAMES}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_each_gets_every_figure_in_its_own_words(tiny_corpus, tmp_path, fakes):
    changes = {"log__trackers": list(NAMES), "log__project": "few tokens"}
    train(None, overrides(tiny_corpus, tmp_path / "run", **changes))
    lines = RunRecord(tmp_path / "run").metrics("train")
    losses = [(line["step"], line["loss"]) for line in lines]

    [(_, started)] = fakes["wandb"].told("init")
    assert (started["project"], started["name"], started["resume"]) == (
        "few tokens",
        "run",
        "allow",
    )
    assert started["config"]["train.lr"] == 1e-2
    assert started["config"]["params"] > 0
    for name in ("wandb", "trackio"):
        logged = [
            (named["step"], given[0]["train/loss"])
            for given, named in fakes[name].told("log")
            if "train/loss" in given[0]
        ]
        assert logged == losses
        assert (
            sum("eval/nll_nats_per_token" in given[0] for given, _ in fakes[name].told("log")) == 4
        )
    logged = [
        (named["step"], given[0]["train/loss"])
        for given, named in fakes["mlflow"].told("log_metrics")
        if "train/loss" in given[0]
    ]
    assert logged == losses
    assert fakes["mlflow"].told("set_experiment") == [(("few tokens",), {})]
    assert fakes["mlflow"].told("end_run") == [((), {"status": "FINISHED"})]
    assert fakes["wandb"].told("finish") == [((), {"exit_code": 0})]
    assert len(fakes["trackio"].told("finish")) == 1
    parameters = {}
    for given, _ in fakes["mlflow"].told("log_params"):
        assert len(given[0]) <= 100
        parameters |= given[0]
    assert parameters["train.lr"] == "0.01"


def test_a_run_that_goes_on_is_the_same_run_there(tmp_path, fakes):
    for _ in range(2):
        Trackers(NAMES, tmp_path, "p", {"a": 1}).close("stopped")
    first, second = (named["id"] for _, named in fakes["wandb"].told("init"))
    assert first == second
    first, second = (named["name"] for _, named in fakes["trackio"].told("init"))
    assert first == second
    assert [named for _, named in fakes["mlflow"].told("start_run")] == [
        {"run_name": tmp_path.name},
        {"run_id": "r1"},
    ]
    assert set(json.loads((tmp_path / "trackers.json").read_text())) == set(NAMES)


MOMENTS = {
    "wandb": ("init", "log", "finish"),
    "trackio": ("init", "log", "finish"),
    "mlflow": ("set_experiment", "start_run", "log_params", "log_metrics", "end_run"),
}


@pytest.mark.parametrize(
    ("name", "moment"), [(name, moment) for name, all_ in MOMENTS.items() for moment in all_]
)
@pytest.mark.parametrize("how", [RuntimeError, SystemExit])
def test_one_that_fails_is_named_once_and_dropped(tmp_path, monkeypatch, capsys, name, moment, how):
    others = [other for other in NAMES if other != name]
    for other in others:
        monkeypatch.setitem(sys.modules, other, Fake(other))
    failing = Fake(name, moment, how)
    monkeypatch.setitem(sys.modules, name, failing)
    place, config = (tmp_path / "fresh", {"a": 1}) if moment == "log_params" else (tmp_path, {})
    made = Trackers(NAMES, place, "p", config)
    for step in range(3):
        made.log("train", step, {"loss": 1.0})
    made.close("finished")
    said = capsys.readouterr().err
    assert said.count(f"the tracker {name} failed (the server is gone)") == 1
    assert len(failing.told(moment)) == 1
    for other in others:
        log = "log_metrics" if other == "mlflow" else "log"
        assert len(sys.modules[other].told(log)) == 3


@pytest.mark.parametrize("moment", ["init", "log", "finish"])
def test_one_that_hangs_does_not_hold_the_run_up(tmp_path, monkeypatch, capsys, moment):
    never = threading.Event()

    class Hanging(Fake):
        def _call(self, what, *given, **named):
            if what == self.fails:
                never.wait()
            return super()._call(what, *given, **named)

    monkeypatch.setattr(trackers, "START_SECONDS", 0.2)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(trackers, "WAITING_LINES", 50)
    monkeypatch.setitem(sys.modules, "wandb", Hanging("wandb", moment))
    monkeypatch.setitem(sys.modules, "trackio", Fake("trackio"))
    begin = time.monotonic()
    made = Trackers(("wandb", "trackio"), tmp_path, "p", {})
    lines = 3 if moment == "finish" else 80
    for step in range(lines):
        made.log("train", step, {"loss": 1.0})
        time.sleep(0.005)
    made.close("finished")
    assert time.monotonic() - begin < 5
    said = capsys.readouterr().err
    assert said.count("the tracker wandb failed (") == 1
    assert ("50 lines wait for it" in said) == (moment != "finish")
    assert ("did not end within 0.2 s" in said) == (moment == "finish")
    assert len(sys.modules["trackio"].told("log")) == lines
    assert sys.modules["trackio"].told("finish")
    never.set()


def test_mlflow_gives_a_dead_server_up_soon_unless_told_otherwise(tmp_path, monkeypatch, fakes):
    retries, timeout = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.setenv(timeout, "3")
    monkeypatch.setenv(retries, "")  # so that what is set below is taken back
    monkeypatch.delenv(retries)
    Trackers(("mlflow",), tmp_path, "project", {}).close("finished")
    assert (os.environ[retries], os.environ[timeout]) == ("2", "3")


def test_the_run_is_not_harmed(tiny_corpus, tmp_path, monkeypatch, capsys):
    train(None, overrides(tiny_corpus, tmp_path / "plain"))
    monkeypatch.setitem(sys.modules, "wandb", Fake("wandb", "log"))
    monkeypatch.setitem(sys.modules, "mlflow", None)  # importing it raises ImportError
    changes = {"log__trackers": ["wandb", "mlflow"]}
    train(None, overrides(tiny_corpus, tmp_path / "tracked", **changes))
    assert final_files(tmp_path / "plain") == final_files(tmp_path / "tracked")
    said = capsys.readouterr().err
    assert "the tracker wandb failed" in said
    assert "nothing goes to mlflow: it is not installed (pip install mlflow)" in said


def test_tensorboard_by_either_name(tiny_corpus, tmp_path):
    pytest.importorskip("tensorboard")
    changes = {"log__tensorboard": True, "log__trackers": ["tensorboard"], "train__steps": 4}
    train(None, overrides(tiny_corpus, tmp_path, **changes))
    [events] = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_numbers_also_in_lists(tmp_path, fakes):
    values = {"a": 1, "b": [0.5, None, 2], "c": {"d": 3.0, "e": "x"}, "f": True, "g": None}
    sent = Trackers(("trackio",), tmp_path, "p", {})
    sent.log("train", 7, values)
    sent.close("finished")
    [((found,), named)] = fakes["trackio"].told("log")
    assert named == {"step": 7}
    assert found == {
        "train/a": 1.0,
        "train/b/0": 0.5,
        "train/b/2": 2.0,
        "train/c/d": 3.0,
    }

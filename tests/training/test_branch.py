"""A trunk at a constant rate and the runs that branch off from it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from epochal.errors import CheckpointError, RecipeError, RunError
from epochal.recipe import load_recipe
from epochal.runs import RunRecord
from epochal.training.branch import _check_rules
from epochal.training.train import train
from tiny_runs import figures, final_files, overrides

TRUNK = {
    "train__steps": 16,
    "train__schedule": "constant",
    "train__warmup": 0.25,
    "checkpoint__every": "16 steps",
}
BRANCH = {"train__schedule": "wsd", "train__decay": 0.25, "train__ema": 0.9}


@pytest.fixture(scope="module")
def trunk(tiny_corpus, tmp_path_factory):
    """16 steps, 4 of them warm-up."""
    folder = tmp_path_factory.mktemp("trunks") / "trunk"
    train(None, overrides(tiny_corpus, folder, train__ema=0.9, **TRUNK))
    return folder


def branch(tiny_corpus, trunk, folder, **changes):
    more = {"train__start_from": str(trunk)} | BRANCH | changes
    return train(None, overrides(tiny_corpus, folder, **more))


def test_a_branch_is_the_run_that_was_trained_alone(tiny_corpus, trunk, tmp_path):
    """24 steps with the same 4 of warm-up, the last 6 of them decay: bit for bit."""
    branched = branch(tiny_corpus, trunk, tmp_path / "branch")
    alone = overrides(tiny_corpus, tmp_path / "alone", train__warmup=4 / 24, **BRANCH)
    train(None, alone)
    assert final_files(tmp_path / "branch") == final_files(tmp_path / "alone")
    late = [line for line in figures(tmp_path / "alone") if line["step"] > 16]
    assert figures(tmp_path / "branch") == late
    assert branched.numbers["steps"] == 24
    assert branched.info["start"]["step"] == 16


def test_a_branch_goes_on_without_its_trunk(tiny_corpus, trunk, tmp_path, monkeypatch):
    branch(tiny_corpus, trunk, tmp_path / "whole")
    from epochal.training.step import Stepper

    plain = Stepper.__call__

    def step(self, number, lr):
        if number == 18:
            raise KeyError
        return plain(self, number, lr)

    changes = {"checkpoint__every": "1 steps"}
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", step)
        with pytest.raises(KeyError):
            branch(tiny_corpus, trunk, tmp_path / "cut", **changes)
    branch(tiny_corpus, tmp_path / "moved away", tmp_path / "cut", **changes)
    assert final_files(tmp_path / "cut") == final_files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train__steps": 20}, CheckpointError, "up to step 15.*of steps: 16"),
        ({"train__steps": 20, "train__start_step": 16}, RecipeError, "decays from step 15"),
        ({"train__start_step": 8}, CheckpointError, "of step 8 to resume"),
        ({"train__lr": 5e-3}, RunError, r"another experiment: `train.lr` 0.01 → 0.005"),
        ({"seed": 3}, RunError, "another experiment: `seed`"),
    ],
)
def test_no_place_to_branch_off(tiny_corpus, trunk, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        branch(tiny_corpus, trunk, tmp_path, **changes)


def test_trunks_that_are_none(tiny_corpus, trunk, tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        branch(tiny_corpus, tmp_path / "nowhere", tmp_path / "a")
    changes = {"train__ema": 0.9, "train__steps": 16, "checkpoint__every": "16 steps"}
    train(None, overrides(tiny_corpus, tmp_path / "cosine", **changes))
    with pytest.raises(RunError, match='"cosine", which has no steps'):
        branch(tiny_corpus, tmp_path / "cosine", tmp_path / "b")
    late = {"train__schedule": "wsd", "train__decay": 0.5}
    train(None, overrides(tiny_corpus, tmp_path / "decayed", **changes, **late))
    with pytest.raises(CheckpointError, match="up to step 8"):
        branch(tiny_corpus, tmp_path / "decayed", tmp_path / "c")
    with pytest.raises(RecipeError, match="constant from step 1 to 8 only"):
        branch(tiny_corpus, tmp_path / "decayed", tmp_path / "c", train__start_step=16)


def test_a_rule_that_gives_the_trunk_another_number(tiny_corpus, tmp_path):
    changes = {"family": "dual", "dual__causal_share": "16/R"}
    values = overrides(tiny_corpus, tmp_path / "a", **changes)
    settings = load_recipe(None, values)
    trunk = SimpleNamespace(path="trunk", numbers={"epochs": 64.0}, recipe=settings)
    _check_rules(trunk, settings, SimpleNamespace(epochs=64.0))
    with pytest.raises(RunError, match=r"0\.25"):
        _check_rules(trunk, settings, SimpleNamespace(epochs=32.0))


def test_a_run_keeps_its_beginning(tiny_corpus, trunk, tmp_path):
    branch(tiny_corpus, trunk, tmp_path / "branch")
    with pytest.raises(RunError, match="started from another run's checkpoint"):
        train(None, overrides(tiny_corpus, tmp_path / "branch", **BRANCH))
    with pytest.raises(RunError, match="at step 16 of its trunk"):
        branch(tiny_corpus, trunk, tmp_path / "branch", train__start_step=12)
    train(None, overrides(tiny_corpus, tmp_path / "alone", **BRANCH))
    with pytest.raises(RunError, match="trained from the beginning"):
        branch(tiny_corpus, trunk, tmp_path / "alone")
    info = json.loads((tmp_path / "branch" / "run.json").read_text())
    assert info["start"]["identity_sha256"] == RunRecord(trunk).info["identity_sha256"]

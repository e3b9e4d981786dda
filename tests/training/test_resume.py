"""A run that was ended, however, and goes on is the run that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import time

import pytest

from epochal.errors import RunError, TrainingDiverged, TrainingStopped
from epochal.runs import RunFolder, RunRecord
from epochal.sweeps.fork_server import start_epochal
from epochal.training.step import Stepper
from epochal.training.stop import RELAY_SECONDS, StopRequest
from epochal.training.train import train
from tiny_runs import as_words, figures, final_files, overrides

KINDS = {
    "ar": {"family": "ar"},
    "mdm": {"family": "mdm"},
    "mdm-masking-dropout-accumulation": {
        "family": "mdm",
        "mdm__noise": "stratified",
        "train__hidden_dropout": 0.1,
        "train__attention_dropout": 0.1,
        "train__micro_batch_size": 3,
        "train__cycles": 3,
        "mdm__schedule": "gaussian",
        "mdm__second_share": 0.5,
        "mdm__second_epochs": 2.0,
        "mdm__softening": 0.1,
        "mdm__frequency_power": 0.5,
        "mdm__frequency_epochs": 2.0,
        "mdm__mask_unit": "word",
    },
    "ar-ablations-ema-wsd": {
        "family": "ar",
        "ar__orders": 3,
        "ar__token_masking": 0.5,
        "train__ema": 0.9,
        "eval__ema": True,
        "train__schedule": "wsd",
        "train__decay": 0.5,
        "train__cycles": 2,
    },
    "ar-muon-average-depth": {
        "family": "ar",
        "train__optimizer": "muon",
        "train__cautious_decay": True,
        "train__average_epochs": 1.5,
        "eval__ema": True,
        "model__stochastic_depth": 0.3,
        "train__micro_batch_size": 3,
    },
    "mdm-completep-ema": {
        "family": "mdm",
        "model__parametrisation": "completep",
        "train__ema": 0.9,
    },
    "anyorder": {"family": "anyorder", "train__micro_batch_size": 3},
    "block": {"family": "block", "block__size": 8},
    "dual": {"family": "dual", "train__micro_batch_size": 3},
    "hybrid": {"family": "hybrid", "train__micro_batch_size": 3},
    "uniform": {"family": "uniform"},
}


class Cut(Exception):
    """The power going out."""


def disturb(monkeypatch, at, how):
    """Let `how` happen when step `at` begins, once."""
    plain, done = Stepper.__call__, []

    def step(self, number, lr):
        if number == at and not done:
            done.append(number)
            how()
        return plain(self, number, lr)

    monkeypatch.setattr(Stepper, "__call__", step)


def cut():
    raise Cut


@pytest.fixture(scope="module")
def undisturbed(tiny_corpus, tmp_path_factory):
    """Folder of each kind's run that nothing happened to."""
    place = tmp_path_factory.mktemp("undisturbed")
    for kind, changes in KINDS.items():
        train(None, overrides(tiny_corpus, place / kind, **changes))
    return place


@pytest.mark.parametrize(
    ("kind", "at"),
    [(kind, 13) for kind in KINDS]
    + [("mdm-masking-dropout-accumulation", at) for at in (1, 8, 23)],
)
def test_after_a_cut(tiny_corpus, tmp_path, monkeypatch, undisturbed, kind, at):
    """8 is just at a checkpoint and an epoch's rows are 31, so 13 is inside the second one."""
    values = overrides(tiny_corpus, tmp_path, **KINDS[kind])
    disturb(monkeypatch, at, cut)
    with pytest.raises(Cut):
        train(None, values)
    assert train(None, values).status == "finished"
    assert final_files(tmp_path) == final_files(undisturbed / kind)
    assert figures(tmp_path) == figures(undisturbed / kind)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (None, 75)]
)
def test_after_a_clean_stop(tiny_corpus, tmp_path, monkeypatch, undisturbed, number, code):
    values = overrides(tiny_corpus, tmp_path, **KINDS["mdm"])
    if number is None:
        disturb(monkeypatch, 10, lambda: RunFolder(tmp_path).stop_file.touch())
    else:
        disturb(monkeypatch, 10, lambda: os.kill(os.getpid(), number))
    with pytest.raises(TrainingStopped, match="after step 11 of 24") as stopped:
        train(None, values)
    assert stopped.value.exit_code == code
    assert RunRecord(tmp_path).status == "stopped"
    assert not (tmp_path / "STOP").exists()
    train(None, values)
    assert final_files(tmp_path) == final_files(undisturbed / "mdm")
    assert figures(tmp_path) == figures(undisturbed / "mdm")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_that_comes_from_slurm_and_again_from_torchrun_is_one_request(tmp_path, number):
    with StopRequest(tmp_path / "STOP").listening() as stop:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert stop.asked() == 128 + number
        stop._since -= RELAY_SECONDS
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_ctrl_c_twice_breaks_off_at_once(tmp_path):
    with StopRequest(tmp_path / "STOP").listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked() == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_after_kill_9(tiny_corpus, tmp_path):
    """Killed in mid-flight in a process of its own; the same recipe, then, the same weights."""
    changes = {"train__steps": 400, "checkpoint__every": "50 steps", "eval__every": "100 steps"}

    def values(folder):
        return overrides(tiny_corpus, folder, family="mdm", **changes)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(None, values(whole))
    words = ["train", *as_words(values(killed))]
    process = start_epochal(words, dict(os.environ), tmp_path / "said")
    try:
        deadline = time.monotonic() + 120
        while not list((killed / "checkpoints").glob("last-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert RunRecord(killed).status == "running", "it ended before it was killed"
    train(None, values(killed))
    assert final_files(killed) == final_files(whole)
    assert figures(killed) == figures(whole)


def test_a_finished_run_is_left_as_it_is(tiny_corpus, tmp_path, monkeypatch):
    values = overrides(tiny_corpus, tmp_path)
    train(None, values)
    before = final_files(tmp_path)
    disturb(monkeypatch, 0, cut)
    assert train(None, values).status == "finished"
    assert final_files(tmp_path) == before


def test_another_recipe_is_refused_with_what_differs(tiny_corpus, tmp_path):
    train(None, overrides(tiny_corpus, tmp_path))
    with pytest.raises(RunError, match=r"`train.lr` 0.01 → 0.005.*--restart"):
        train(None, overrides(tiny_corpus, tmp_path, train__lr=5e-3))
    with pytest.raises(RunError, match=r"`corpus.train`"):
        train(None, overrides(tiny_corpus, tmp_path, data__unique_tokens=900))
    # How often things are written down may change.
    train(None, overrides(tiny_corpus, tmp_path, log__every="5 steps"))


def test_restart_puts_the_old_run_aside(tiny_corpus, tmp_path):
    run_dir = tmp_path / "run"
    train(None, overrides(tiny_corpus, run_dir))
    old = final_files(run_dir)
    train(None, overrides(tiny_corpus, run_dir, seed=5), restart=True)
    assert final_files(tmp_path / "run.old-1") == old
    assert final_files(run_dir) != old


def test_a_run_that_another_process_holds_is_refused(tiny_corpus, tmp_path):
    with RunFolder(tmp_path).lock(), pytest.raises(RunError, match="another process"):
        train(None, overrides(tiny_corpus, tmp_path))


def test_divergence_ends_the_run_before_the_update(tiny_corpus, tmp_path, monkeypatch):
    import torch

    plain = Stepper.__call__

    def step(self, number, lr):
        if number == 10:
            with torch.no_grad():
                self.model.final_norm.weight.fill_(float("nan"))
        return plain(self, number, lr)

    monkeypatch.setattr(Stepper, "__call__", step)
    with pytest.raises(TrainingDiverged, match="step 11") as ended:
        train(None, overrides(tiny_corpus, tmp_path))
    assert ended.value.exit_code == 1
    assert RunRecord(tmp_path).status == "diverged"
    assert (tmp_path / "checkpoints" / "last-00000008").is_dir()
    assert not list((tmp_path / "checkpoints").glob("interrupt-*")), "these weights are of no use"

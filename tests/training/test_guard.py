"""Steps that are not taken: what counts as one, and how a run goes on after it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from epochal.errors import RecipeError, RunError, TrainingDiverged, TrainingStopped
from epochal.recipe import load_recipe
from epochal.recipe.schema import Train
from epochal.runs import RunFolder, RunRecord
from epochal.training import guard
from epochal.training.checkpoint import TrainState
from epochal.training.step import Stepper
from epochal.training.train import train
from tiny_runs import figures, final_files, overrides


def settings(**changes):
    return Train(**({"steps": 10, "on_spike": "skip", "on_nan": "skip"} | changes))


def test_a_spike_is_so_many_medians_of_the_last_norms():
    state = TrainState()
    for number in range(guard.MIN_NORMS):
        assert guard.norm_limit(settings(), state) == math.inf
        guard.count_taken(state, float(number))
    assert guard.norm_limit(settings(), state) == 10 * 9.5
    assert guard.norm_limit(settings(spike_factor=3.0), state) == 3 * 9.5
    assert guard.norm_limit(settings(on_spike="ignore"), state) == math.inf
    for _ in range(guard.WINDOW):
        guard.count_taken(state, 2.0)
    assert state.norms == [2.0] * guard.WINDOW


def test_faults_and_those_that_end_the_run():
    assert guard.find_fault(settings(), 3, 1.0, 5.0, 5.0) is None
    assert guard.find_fault(settings(), 3, 1.0, 5.1, 5.0) == "spike"
    for loss, norm in ((math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)):
        assert guard.find_fault(settings(), 3, loss, norm, math.inf) == "nan"
        with pytest.raises(TrainingDiverged, match=r"step 3: the loss is .*on_nan"):
            guard.find_fault(settings(on_nan="stop"), 3, loss, norm, math.inf)
    with pytest.raises(TrainingDiverged, match=r"step 3: the gradient's norm is 5\.1"):
        guard.find_fault(settings(on_spike="stop"), 3, 1.0, 5.1, 5.0)


def test_faults_that_do_not_end_end_the_run():
    state = TrainState()
    for _ in range(guard.MAX_IN_A_ROW - 1):
        guard.count_fault(state, 7, "nan")
    guard.count_taken(state, 1.0)
    for _ in range(guard.MAX_IN_A_ROW - 1):
        guard.count_fault(state, 7, "nan")
    with pytest.raises(TrainingDiverged, match="step 7: the 10th step in a row") as caught:
        guard.count_fault(state, 7, "nan")
    assert "spike_factor" not in str(caught.value)
    with pytest.raises(TrainingDiverged, match=r"or a higher `train\.spike_factor`"):
        guard.count_fault(state, 7, "spike")
    assert state.faults == 2 * guard.MAX_IN_A_ROW


@pytest.mark.parametrize("key", ["on_nan", "on_spike"])
def test_rewinding_needs_checkpoints_at_fixed_steps(key):
    values = {"model.size": "7M", "train.steps": 5, f"train.{key}": "rewind"}
    with pytest.raises(RecipeError, match=r"`checkpoint.every` = '10 minutes' would"):
        load_recipe(None, values)
    load_recipe(None, values | {"checkpoint.every": "2 steps"})


# --- whole runs ----


def spoil(patch, steps, factor):
    """Multiply the loss of some steps."""
    plain = Stepper.problems

    def problems(self, step):
        made = plain(self, step)
        if step not in steps:
            return made
        return [dataclasses.replace(one, weights=one.weights * factor) for one in made]

    patch.setattr(Stepper, "problems", problems)


def weights_before(patch, into):
    """Keep the weights that each step meets."""
    plain = Stepper.__call__

    def step(self, number, lr):
        into[number] = torch.cat([w.detach().flatten() for w in self.model.parameters()])
        return plain(self, number, lr)

    patch.setattr(Stepper, "__call__", step)


def stop_at(patch, at, folder):
    plain = Stepper.__call__

    def step(self, number, lr):
        if number == at:
            RunFolder(folder).stop_file.touch()
        return plain(self, number, lr)

    patch.setattr(Stepper, "__call__", step)


CASES = {
    "nan-skip": ({"train__on_nan": "skip"}, math.nan, 13),
    "nan-rewind": ({"train__on_nan": "rewind", "train__ema": 0.9}, math.nan, 13),
    "spike-skip": ({"train__on_spike": "skip"}, 1000.0, 22),
    "spike-rewind": ({"train__on_spike": "rewind"}, 1000.0, 22),
}


@pytest.mark.parametrize("case", CASES)
def test_the_update_is_not_made_and_the_run_goes_on(
    tiny_corpus, tmp_path, monkeypatch, capsys, case
):
    changes, factor, at = CASES[case]
    spoil(monkeypatch, {at}, factor)
    seen = {}
    with monkeypatch.context() as patch:
        weights_before(patch, seen)
        record = train(None, overrides(tiny_corpus, tmp_path / "run", **changes))
    assert record.status == "finished"
    there = 8 * (at // 8) if case.endswith("rewind") else at
    assert torch.equal(seen[at + 1], seen[there])
    assert not torch.equal(seen[at + 1], seen[at - 1])
    faults = [line for line in figures(tmp_path / "run") if line["kind"] == "fault"]
    assert [line["step"] for line in faults] == [at + 1]
    assert f"step {at + 1}: " in capsys.readouterr().err, "as in the file of metrics"
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def wholes(tiny_corpus, tmp_path_factory):
    """Folder of each case's run that was never stopped."""
    place = tmp_path_factory.mktemp("wholes")
    for case, (changes, factor, at) in CASES.items():
        with pytest.MonkeyPatch.context() as patch:
            spoil(patch, {at}, factor)
            train(None, overrides(tiny_corpus, place / case, **changes))
    return place


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [-3, -1, 1])
def test_stops_around_a_fault_change_nothing(
    tiny_corpus, tmp_path, monkeypatch, wholes, case, stop
):
    """Neither a stop between a checkpoint and the fault, which saves out of turn, nor one after."""
    changes, factor, at = CASES[case]
    spoil(monkeypatch, {at}, factor)
    values = overrides(tiny_corpus, tmp_path / "stopped", **changes)
    with monkeypatch.context() as patch:
        stop_at(patch, at + stop, tmp_path / "stopped")
        if at + stop < 23:
            with pytest.raises(TrainingStopped):
                train(None, values)
    train(None, values)
    assert final_files(tmp_path / "stopped") == final_files(wholes / case)
    assert figures(tmp_path / "stopped") == figures(wholes / case)
    assert not list((tmp_path / "stopped" / "checkpoints").glob("interrupt-*"))


def test_a_spike_is_taken_unless_asked_otherwise(tiny_corpus, tmp_path, monkeypatch):
    spoil(monkeypatch, {22}, 1000.0)
    record = train(None, overrides(tiny_corpus, tmp_path, train__grad_clip=1.0))
    assert {line["kind"] for line in figures(tmp_path)} == {"train", "eval"}
    norms = [line["grad_norm"] for line in record.metrics("train")]
    assert norms[22] > 100 * norms[21]


def test_a_run_that_does_not_recover_ends(tiny_corpus, tmp_path, monkeypatch):
    spoil(monkeypatch, set(range(5, 24)), math.nan)
    with pytest.raises(TrainingDiverged, match="step 15: the 10th step in a row"):
        train(None, overrides(tiny_corpus, tmp_path, train__on_nan="skip"))


def test_lines_tell_waiting_memory_and_noise_levels(tiny_corpus, tmp_path):
    record = train(None, overrides(tiny_corpus, tmp_path, family="mdm", log__every="12 steps"))
    for line in record.metrics("train"):
        assert 0 < line["data_wait"] < 1
        assert line["peak_memory_bytes"] > 10**7
        levels = [value for key, value in line.items() if key.startswith("nll_noise_")]
        assert len(levels) > 5
        assert all(1 < value < 8 for value in levels)


@pytest.mark.parametrize("at", [0, 13])
def test_a_run_that_diverged_goes_on_as_its_message_advises(tiny_corpus, tmp_path, monkeypatch, at):
    spoil(monkeypatch, {at}, math.nan)
    whole = overrides(tiny_corpus, tmp_path / "whole", train__on_nan="skip")
    train(None, whole)
    folder = tmp_path / "run"
    with pytest.raises(TrainingDiverged, match=rf'step {at + 1}: .*resume .* train\.on_nan="skip"'):
        train(None, overrides(tiny_corpus, folder))
    assert (folder / "checkpoints" / f"interrupt-{at:08d}").is_dir(), "nothing done is lost"
    record = train(None, overrides(tiny_corpus, folder, train__on_nan="skip"))
    assert record.status == "finished"
    assert final_files(folder) == final_files(tmp_path / "whole")
    assert figures(folder) == figures(tmp_path / "whole")
    # It is now a run of the new settings, in every respect.
    for key in ("identity", "identity_sha256"):
        assert record.info[key] == RunRecord(tmp_path / "whole").info[key]


def test_a_run_that_met_faults_keeps_its_answer_to_them(tiny_corpus, tmp_path, monkeypatch):
    spoil(monkeypatch, {13}, math.nan)
    with monkeypatch.context() as patch:
        stop_at(patch, 15, tmp_path)
        with pytest.raises(TrainingStopped):
            train(None, overrides(tiny_corpus, tmp_path, train__on_nan="skip"))
    with pytest.raises(RunError, match=r"on_nan` 'skip' → None"):
        train(None, overrides(tiny_corpus, tmp_path))


def test_a_spike_that_stopped_a_run_may_be_passed_over(tiny_corpus, tmp_path, monkeypatch):
    spoil(monkeypatch, {22}, 1000.0)
    with pytest.raises(TrainingDiverged, match=r'resume with train\.on_spike="skip"'):
        train(None, overrides(tiny_corpus, tmp_path, train__on_spike="stop"))
    for changes in ({"train__on_spike": "skip"}, {"train__on_spike": "skip"}):
        record = train(None, overrides(tiny_corpus, tmp_path, **changes))
    assert record.status == "finished"
    assert record.info["identity"]["train.on_spike"] == "skip"

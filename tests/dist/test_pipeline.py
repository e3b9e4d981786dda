"""Stages of a pipeline give the loss curve of one process, and checkpoints that anything reads."""

from __future__ import annotations

import pytest
import torch

from epochal.runs import RunRecord
from epochal.workflows.load import load
from epochal.workflows.train import train
from many_runs import train_one
from tiny_runs import figures, overrides
from torchrun import many

STAGES = {"parallel__pipeline": 2}
LAST_STEP = 12
# name: (processes of the whole run, changes); three layers are cut unevenly
RUNS = {
    "ar": (2, {"family": "ar", "train__micro_batch": 1}),
    "mdm": (2, {"family": "mdm", "train__micro_batch": 2, "train__ema": 0.9, "eval__ema": True}),
    "mdm-data": (4, {"family": "mdm", "train__ema": 0.9}),
    "mdm-zero-2": (4, {"family": "mdm", "parallel__zero": 2, "train__global_batch": 8}),
    "ar-zero-3": (4, {"family": "ar", "parallel__zero": 3}),
    "mdm-tensor": (4, {"family": "mdm", "parallel__tensor": 2}),
    "ar-untied": (
        4,
        {"family": "ar", "model__untied": True, "parallel__activation_checkpointing": "full"},
    ),
}
MOVES = ("2-to-1", "1-to-2")


def values(corpus, folder, name, **changes):
    steady = {
        "model__layers": 3,
        "train__lr": 5e-4,
        "train__min_lr": 1e-4,
        "parallel__timeout": 60,
        "train__clip": 0.5,
    }
    return overrides(corpus, folder / name, **(steady | changes))


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory):
    """Folder of runs NAME-one of one process and NAME-stages of several, and of MOVES."""
    folder = tmp_path_factory.mktemp("stages")
    for name, (_, changes) in RUNS.items():
        train(None, values(tiny_corpus, folder, f"{name}-one", **changes))
    mdm = RUNS["mdm"][1]
    half = {"stop_at": LAST_STEP}
    train_one(values(tiny_corpus, folder, "1-to-2", **mdm) | half)
    for processes in (2, 4):
        jobs = [
            values(tiny_corpus, folder, f"{name}-stages", **changes, **STAGES)
            for name, (size, changes) in RUNS.items()
            if size == processes
        ]
        if processes == 2:
            jobs.append(values(tiny_corpus, folder, "2-to-1", **mdm, **STAGES) | half)
            jobs.append(values(tiny_corpus, folder, "1-to-2", **mdm, **STAGES))
        many(processes, jobs, folder)
    assert RunRecord(folder / "2-to-1").status == "stopped"
    train(None, values(tiny_corpus, folder, "2-to-1", **mdm))
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_stages_give_the_loss_curve_of_one_process(runs, name):
    _same(figures(runs / f"{name}-one"), figures(runs / f"{name}-stages"))


@pytest.mark.parametrize("name", MOVES)
def test_a_checkpoint_of_stages_and_of_one_process_go_on_as_each_other(runs, name):
    assert RunRecord(runs / name).status == "finished"
    _same(figures(runs / "mdm-one"), figures(runs / name))


@pytest.mark.parametrize("name", [f"{name}-stages" for name in RUNS] + list(MOVES))
@pytest.mark.parametrize("which", ["last", "best"])
def test_one_process_reads_the_whole_model(runs, name, which):
    alone = "mdm-one" if name in MOVES else name.replace("stages", "one")
    expected, found = load(runs / alone, which), load(runs / name, which)
    assert found.step == expected.step
    weights = found.model.state_dict()
    assert len(list((runs / name / "checkpoints").glob("best-*/model.safetensors"))) == 1
    for key, weight in expected.model.state_dict().items():
        torch.testing.assert_close(
            weights[key], weight, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


def _same(expected, found):
    assert len(expected) >= 24
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(expected, found, strict=True):
        for key, value in one.items():
            if key != "kind":
                assert other[key] == pytest.approx(value, rel=1e-5, abs=1e-9), (one["step"], key)

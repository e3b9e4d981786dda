"""One, two and four processes, in every mode, give one loss curve; and a checkpoint of any number
of processes, in any mode, is gone on with by any other.

All that two processes have to do is done by one start of them, and likewise for four. `make test`
takes some pairs of family and mode; EPOCHAL_EVERY_MODE=1 takes all of them (six minutes).
"""

from __future__ import annotations

import os

import pytest
import torch
from many_runs import train_one
from one_after_another import many
from safetensors.torch import load_file

from epochal.device import has_compiler
from epochal.interop.exports import export_safetensors
from epochal.interop.load import load
from epochal.runs import RunRecord, checkpoints
from epochal.training.train import train
from tiny_runs import figures, overrides

STEPS, FIRST = 12, 6
ZERO3 = {"parallel__zero": 3}
TENSOR = {"parallel__tensor": 2}
SEQUENCE = TENSOR | {"parallel__sequence": True}
STAGES = {"parallel__pipeline": 2}
ONE_ROW = {"train__micro_batch_size": 1}
SOME, FULL = ({"parallel__activation_checkpointing": what} for what in ("selective", "full"))
COMPILED = {"train__compile": "on"} if has_compiler() else {}
"""Per block. Without a C++ compiler the same, uncompiled."""
BOTH = ("ar", "mdm")
SCALED, MUON = (*BOTH, "completep"), (*BOTH, "muon")
NAMED = ("anyorder", "block", "dual", "hybrid", "uniform")
# name: (families, further families of EPOCHAL_EVERY_MODE, processes, mode). What does not depend
# on the mode (micro-batches, recomputing) goes along. Three layers are cut unevenly by two stages.
OFFLOAD = ZERO3 | FULL | {"parallel__offload": True}
MODES = {
    "ddp-accumulating": ((*BOTH, "muon", *NAMED), (), 2, ONE_ROW),
    "zero-1-accumulating": (("mdm",), ("ar",), 2, {"parallel__zero": 1} | ONE_ROW),
    "zero-2-recomputing-some": (("completep",), BOTH, 2, {"parallel__zero": 2} | SOME),
    "zero-3-recomputing-offload": (("muon", "told"), BOTH, 2, OFFLOAD),
    "ddp-compiled": ((), ("ar",), 2, COMPILED),
    "zero-3-compiled": (("mdm",), ("ar",), 2, ZERO3 | COMPILED),
    "zero-3-bf16": (("bf16",), (), 2, ZERO3 | SOME),
    "ddp-student": ((), ("student",), 2, ONE_ROW),
    "zero-3-student": (("student",), (), 2, ZERO3),
    "tensor": ((*NAMED, "told"), BOTH, 2, TENSOR),
    "tensor-sequence": (("mdm", "muon", "hybrid"), ("ar", "completep", "uniform"), 2, SEQUENCE),
    "hybrid": (("mdm",), ("ar",), 4, ZERO3 | {"parallel__shard": 2}),
    "zero-3-tensor": (("mdm",), ("ar", "muon", "told"), 4, ZERO3 | TENSOR),
    "stages": (("mdm", "muon", "told"), ("ar", "completep"), 2, STAGES | ONE_ROW),
    "stages-data": (("mdm",), (), 4, STAGES),
    "stages-zero-2": ((), ("mdm8",), 4, STAGES | {"parallel__zero": 2}),
    "stages-zero-3": ((), ("ar",), 4, STAGES | ZERO3),
    "stages-tensor": (("mdm",), (), 4, STAGES | TENSOR),
    "stages-tensor-sequence": ((), ("ar",), 4, STAGES | SEQUENCE),
    "stages-untied": (("ar-untied",), (), 4, STAGES | FULL),
}
RUNS = [
    (family, mode)
    for mode, (families, more, *_) in MODES.items()
    for family in (*families, *(more if os.environ.get("EPOCHAL_EVERY_MODE") else ()))
]
MODELS = {
    "ar": {"family": "ar"},
    "ar-untied": {"family": "ar", "model__tie_embeddings": False},
    "mdm": {"family": "mdm", "train__ema": 0.9, "eval__ema": True},
    "mdm8": {"family": "mdm", "train__global_batch_size": 8},
    # Rounding is the same where micro-batches have the same rows.
    "bf16": {"family": "mdm", "train__precision": "bf16", "train__micro_batch_size": 2},
    "completep": {
        "family": "ar",
        "model__parametrisation": "completep",
        "model__base_width": 16,
        "model__base_depth": 2,
        "model__base_head_dim": 4,
    },
    "muon": {
        "family": "ar",
        "train__optimizer": "muon",
        "train__cautious_decay": True,
        "train__weight_decay": 2.0,
        "train__average_epochs": 1.5,
        "eval__ema": True,
        "model__stochastic_depth": 0.3,
    },
    **{name: {"family": name} for name in NAMED},
    "told": {"family": "uniform", "model__noise_conditioning": True},
    "student": {"family": "mdm", "seed": 5, "distill__teachers": ["mdm", "mdm8"]},
}
# name: ((processes and mode of the first half), (processes and mode from there on)), of mdm
MOVES = {
    "2-to-1": ((2, ZERO3), (1, {})),
    "fsdp-to-tensor": ((2, ZERO3), (2, TENSOR)),
    "1-to-4": ((1, {}), (4, ZERO3 | {"parallel__shard": 2})),
    "tensor-to-4": ((2, TENSOR), (4, ZERO3 | TENSOR)),
    "stages-to-1": ((2, STAGES), (1, {})),
    "1-to-stages": ((1, {}), (2, STAGES)),
}


def values(corpus, folder, name, model, **changes):
    """A run of 12 steps at a rate at which rounding does not grow."""
    steady = {"model__layers": 3, "train__lr": 5e-4, "train__min_lr": 1e-4, "train__grad_clip": 0.5}
    steady |= {"checkpoint__every": f"{FIRST} steps", "eval__every": f"{FIRST} steps"}
    steady |= {"train__steps": STEPS, "parallel__timeout": 120}
    given = overrides(corpus, folder / name, **(steady | MODELS[model] | changes))
    if teachers := given.get("distill.teachers"):
        given["distill.teachers"] = [str(folder / teacher) for teacher in teachers]
    return given


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory):
    """Folder of the runs of one process, named after the model, of those of several, and of
    those that changed processes and mode half way."""
    folder = tmp_path_factory.mktemp("runs")
    for model in MODELS:
        train(None, values(tiny_corpus, folder, model, model))

    def halves(which, processes, only=None):
        """Jobs of the first (0) or second (1) halves that so many processes do."""
        more = {} if which else {"stop_at": FIRST}
        return [
            values(tiny_corpus, folder, name, "mdm", **move[which][1]) | more
            for name, move in MOVES.items()
            if move[which][0] == processes and only in (None, move[0][0])
        ]

    def wholes(processes):
        return [
            values(tiny_corpus, folder, f"{model}-{mode}", model, **MODES[mode][3])
            for model, mode in RUNS
            if MODES[mode][2] == processes
        ]

    for job in halves(0, 1):
        train_one(job)
    said = many(2, [*wholes(2), *halves(0, 2), *halves(1, 2)], folder)
    assert f"resuming from step {FIRST} of {STEPS}" in said
    assert "FutureWarning" not in said  # nor of names that torch gives up
    unfinished = [name for name, (_, second) in MOVES.items() if second[0] != 2]
    assert {RunRecord(folder / name).status for name in unfinished} == {"stopped"}
    for job in halves(1, 1):
        train_one(job)
    many(4, [*wholes(4), *halves(1, 4)], folder)
    return folder


@pytest.mark.parametrize(("model", "mode"), RUNS, ids=map("-".join, RUNS))
def test_every_mode_gives_the_loss_curve_of_one_process(runs, model, mode):
    _same(runs / model, runs / f"{model}-{mode}")


@pytest.mark.parametrize("name", MOVES)
def test_moving_half_way_changes_nothing(runs, name):
    _same(runs / "mdm", runs / name)


def _same(alone, other):
    assert RunRecord(other).status == "finished"
    expected, found = figures(alone), figures(other)
    assert len(expected) >= STEPS
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, many_ in zip(expected, found, strict=True):
        for key, value in one.items():
            if key != "kind":
                where = f"{other.name}: {key} at step {one['step']}"
                # CPUs with bf16 products of their own round 1e-4 apart, a fortieth of bf16's step.
                rel = 5e-4 if alone.name == "bf16" else 3e-6
                # A small difference of entropies of some nats, in float32.
                least = 1e-6 if key == "teacher_kl" else 1e-9
                assert many_[key] == pytest.approx(value, rel=rel, abs=least), where


@pytest.mark.parametrize("which", ["last", "best", "ema"])
@pytest.mark.parametrize(
    "name", [*MOVES, "mdm-stages", "mdm-stages-data", "mdm-stages-tensor", "mdm-zero-3-tensor"]
)
def test_one_process_without_a_group_reads_it(runs, name, which):
    expected, found = load(runs / "mdm", which), load(runs / name, which)
    assert found.step == expected.step
    assert len(list((runs / name / "checkpoints").glob("best-*/model.safetensors"))) == 1
    weights = found.model.state_dict()
    for key, weight in expected.model.state_dict().items():
        torch.testing.assert_close(
            weights[key], weight, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_the_form_follows_the_number_of_processes(runs):
    parts = max((runs / "fsdp-to-tensor" / "checkpoints").glob("last-*"))
    assert len(list((parts / "shards").glob("*.distcp"))) == 2
    assert checkpoints.find(parts.parent, "last") == parts
    alone = max((runs / "2-to-1" / "checkpoints").glob("last-*"))
    assert (alone / "model.safetensors").exists()


@pytest.mark.parametrize("which", ["last", "ema"])
def test_parts_become_one_file_on_request(runs, tmp_path, which):
    made = export_safetensors(runs / "fsdp-to-tensor", tmp_path / "x.safetensors", checkpoint=which)
    expected = load(runs / "fsdp-to-tensor", which).model.state_dict()
    found = load_file(made.path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())

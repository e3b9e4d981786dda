"""A checkpoint of any number of processes, in any mode, is gone on with by any other."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from epochal.runs import RunRecord
from epochal.training import checkpoint
from epochal.workflows.exports import export_safetensors
from epochal.workflows.load import load
from epochal.workflows.train import train
from many_runs import train_one
from tiny_runs import figures, overrides
from torchrun import many

FIRST = 12
ZERO3 = {"parallel__zero": 3}
TENSOR = {"parallel__tensor": 2}
# name: (processes and mode until step 12, processes and mode from there on)
MOVES = {
    "2-to-1": ((2, ZERO3), (1, {})),
    "fsdp-to-tensor": ((2, ZERO3), (2, TENSOR)),
    "1-to-4": ((1, {}), (4, ZERO3 | {"parallel__shard": 2})),
    "tensor-to-4": ((2, TENSOR), (4, ZERO3 | TENSOR)),
}


def values(corpus, folder, name, **changes):
    """The keys that may change on the way are neutral, so it stays the same run."""
    steady = {"family": "mdm", "model__layers": 2, "train__lr": 2e-3, "parallel__timeout": 120}
    steady |= {"checkpoint__every": "4 steps", "train__ema": 0.9}
    return overrides(corpus, folder / name, **(steady | changes))


@pytest.fixture(scope="module")
def moved(tiny_corpus, tmp_path_factory):
    """Folder of runs that changed processes and mode half way, and of one that did not.

    Processes are started as seldom as may be: two and four of them once.
    """
    folder = tmp_path_factory.mktemp("moved")
    train(None, values(tiny_corpus, folder, "still"))

    def halves(which, processes, only=None):
        """Jobs of the first (0) or second (1) halves that so many processes do."""
        more = {} if which else {"stop_at": FIRST}
        return [
            values(tiny_corpus, folder, name, **move[which][1]) | more
            for name, move in MOVES.items()
            if move[which][0] == processes and only in (None, move[0][0])
        ]

    for job in halves(0, 1):
        train_one(job)
    done = many(2, halves(0, 2) + halves(1, 2, only=2), folder)
    assert f"going on from step {FIRST} of 24" in done.stderr
    statuses = {name: RunRecord(folder / name).status for name in MOVES}
    assert statuses.pop("fsdp-to-tensor") == "finished"
    assert set(statuses.values()) == {"stopped"}
    for job in halves(1, 1):
        train_one(job)
    many(4, halves(1, 4), folder)
    return folder


@pytest.mark.parametrize("name", MOVES)
def test_moving_half_way_changes_nothing(moved, name):
    assert RunRecord(moved / name).status == "finished"
    expected, found = figures(moved / "still"), figures(moved / name)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(expected, found, strict=True):
        for key, value in one.items():
            if key != "kind":
                assert other[key] == pytest.approx(value, rel=2e-5, abs=1e-9), (one["step"], key)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("which", ["last", "best"])
def test_one_process_without_a_group_reads_it(moved, name, which):
    expected, found = load(moved / "still", which), load(moved / name, which)
    assert found.step == expected.step
    for (key, one), other in zip(
        expected.model.state_dict().items(), found.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            other, one, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_the_form_follows_the_number_of_processes(moved):
    parts = max((moved / "fsdp-to-tensor" / "checkpoints").glob("last-*"))
    assert len(list((parts / "shards").glob("*.distcp"))) == 2
    assert checkpoint.find(parts.parent, "last") == parts
    alone = max((moved / "2-to-1" / "checkpoints").glob("last-*"))
    assert (alone / "model.safetensors").exists()


@pytest.mark.parametrize("which", ["last", "ema"])
def test_parts_become_one_file_on_request(moved, tmp_path, which):
    made = export_safetensors(
        moved / "fsdp-to-tensor", tmp_path / "x.safetensors", checkpoint=which
    )
    expected = load(moved / "fsdp-to-tensor", which).model.state_dict()
    found = load_file(made.path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())

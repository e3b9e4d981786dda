"""What clusters do to a run, and that nothing done is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch

from epochal.errors import CheckpointError
from epochal.interop.load import load
from epochal.runs import RunRecord, checkpoints
from epochal.training import checkpoint
from processes import errors, start, torchrun
from tiny_runs import figures, overrides


def values(corpus, folder, **changes):
    """24 steps, saved every 4 steps, on two processes with sharded weights."""
    steady = {"model__layers": 2, "train__lr": 2e-3, "checkpoint__every": "4 steps"}
    steady |= {"parallel__zero": 3, "parallel__timeout": 120, "log__every": "4 steps"}
    return overrides(corpus, folder, **(steady | changes))


def faulty(corpus, folder, fault, **changes):
    """The words of a run on which the fault comes."""
    job = folder / f"{fault}.json"
    job.write_text(json.dumps(values(corpus, folder / fault, **changes)))
    return [str(Path(__file__).with_name("faulty_run.py")), str(job), fault]


@pytest.fixture(scope="module")
def killed(tiny_corpus, tmp_path_factory):
    """(folder, what was said) of a run killed in a step, and in a save after that."""
    folder = tmp_path_factory.mktemp("kills")
    words = faulty(tiny_corpus, folder, "kills", train__ema=0.9)
    return folder / "kills", torchrun(2, *words, restarts=2, folder=folder)


def test_killed_in_a_step_and_in_a_save_it_goes_on_by_itself(killed):
    """And is, bit for bit, what the same processes make undisturbed."""
    folder, said = killed
    still = folder.with_name("still")
    assert RunRecord(folder).status == RunRecord(still).status == "finished"
    assert figures(folder) == figures(still)
    for which in ("last", "best", "ema"):
        expected, found = load(still, which), load(folder, which)
        assert found.step == expected.step
        for name, weight in expected.model.state_dict().items():
            assert torch.equal(found.model.state_dict()[name], weight), (which, name)
    assert "resuming from step 8 of 24" in said, "the save after step 8 was whole"
    assert "resuming from step 12 of 24" in said, "that after step 16 was not"
    assert not list((folder / "checkpoints").glob(".*")), "what was half written is gone"


def test_the_process_that_died_is_named_with_its_step(killed):
    _, said = killed
    # It tells of itself once a second, in which these steps are many.
    assert re.search(r"rank 1 \(\S+, process \d+\) was last heard of after step \d+, at ", said)


def test_a_truncated_part_is_named_and_the_one_before_used(killed, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(killed[0], folder)
    newest, before = sorted((folder / "checkpoints").glob("last-*"), reverse=True)
    part = newest / "shards" / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-7])
    assert checkpoints.find(folder / "checkpoints", "last") == before
    said = capsys.readouterr().err
    assert f"{newest} is damaged (shards/__1_0.distcp does not have the content" in said
    (before / "shards" / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"shards/__1_0.distcp.*shards/.metadata is missing"):
        load(folder, "last")


def test_a_table_of_contents_that_would_run_code_is_refused(killed, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, ("echo ran > ran",)

    path = tmp_path / "last-00000001"
    shutil.copytree(max((killed[0] / "checkpoints").glob("last-*")), path)
    (path / "shards" / ".metadata").write_bytes(pickle.dumps(Evil()))
    from epochal.training import sharded

    with pytest.raises(CheckpointError, match=r"posix.system"):
        sharded.read(path, {"model:final_norm.weight": torch.zeros(32)})


def test_weights_of_another_model_are_refused(killed):
    from epochal.training import sharded

    path = max((killed[0] / "checkpoints").glob("last-*"))
    with pytest.raises(CheckpointError, match=r"\[32\].*\[16\]\) for model:final_norm"):
        sharded.read(path, {"model:final_norm.weight": torch.zeros(16)})


def test_a_process_that_hangs_ends_the_job_and_is_named(tiny_corpus, tmp_path):
    begin = time.monotonic()
    words = faulty(tiny_corpus, tmp_path, "hang", parallel__timeout=8)
    both, logs = start(2, ["python", *words], tmp_path)
    assert 0 not in [one.wait() for one in both]
    assert time.monotonic() - begin < 120
    assert "rank 1 (" in errors(logs)
    assert "is after step 6, at" in errors(logs)
    assert (
        checkpoint.load_state(checkpoints.find(tmp_path / "hang" / "checkpoints", "last")).step == 4
    )


@pytest.fixture(scope="module")
def full_disk(tiny_corpus, tmp_path_factory):
    """(folder, what was said) of a run whose second save finds the disk full; before it, the
    same processes are asked for a mesh that does not fit."""
    folder = tmp_path_factory.mktemp("full")
    words = faulty(tiny_corpus, folder, "full-disk")
    both, logs = start(2, ["python", *words], folder)
    assert 0 not in [one.wait() for one in both]
    return folder, errors(logs)


def test_a_full_disk_during_a_save(full_disk):
    folder, said = full_disk
    assert "the disk is full; free some space" in said
    place = folder / "full-disk" / "checkpoints"
    assert checkpoint.load_state(checkpoints.find(place, "last")).step == 4
    assert not list(place.glob(".*")), "room was made"


def test_a_mesh_that_does_not_fit_is_said_once_and_makes_nothing(full_disk):
    folder, said = full_disk
    assert said.count("`parallel.data` × ") == 1
    assert not (folder / "no-mesh").exists()

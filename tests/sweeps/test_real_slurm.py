"""A job of a real Slurm that is warned, saves, is queued again and finishes."""

from __future__ import annotations

import shutil
import subprocess
import time

import pytest

from epochal.recipe import load_recipe, recipe_toml
from epochal.runs import RunFolder, RunRecord
from epochal.sweeps.options import Resources
from epochal.sweeps.submit import submit
from tiny_runs import overrides

pytest.importorskip("submitit")


def slurm(*command):
    """What it prints; nothing for a job that is not known any more."""
    while True:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode >= 0:  # a busy controller may cut the line: SIGPIPE
            return answer.stdout.strip()


@pytest.fixture
def nodes():
    """How many of the cluster's nodes to use: two, if there are, so that they have to meet."""
    if shutil.which("sbatch") is None:
        pytest.skip("there is no Slurm here: sbatch is not found")
    found = subprocess.run(["sinfo", "-h", "-N", "-t", "idle"], capture_output=True, text=True)
    if found.returncode or not found.stdout.strip():
        pytest.skip("Slurm has no idle node here")
    return min(2, len(found.stdout.split("\n")) - 1)


def wait_for(what, seconds=240):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.slow
def test_a_warned_job_saves_is_queued_again_and_finishes(tiny_corpus, tmp_path, nodes):
    folder = RunFolder(tmp_path / "run")
    changes = {"train__steps": 1500, "checkpoint__every": "1500 steps", "eval__every": "50%"}
    values = overrides(tiny_corpus, folder.path, **changes)
    (tmp_path / "r.toml").write_text(recipe_toml(load_recipe(None, values)))
    made = submit(tmp_path / "r.toml", (), Resources(gpus=0, nodes=nodes, minutes=15))
    [job] = made.jobs.values()
    try:
        wait_for(lambda: folder.metrics_file.exists() and folder.metrics_file.stat().st_size)
        slurm("scancel", "--signal=USR2", job)
        wait_for(lambda: slurm("squeue", "-h", "-j", job, "-o", "%T") == "PENDING")
        record = RunRecord(folder.path)
        assert record.status == "stopped"
        [saved] = folder.checkpoints.glob("last-*")
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # it waits for two minutes
        wait_for(lambda: not slurm("squeue", "-h", "-j", job))
    finally:
        subprocess.run(["scancel", job], capture_output=True, check=False)
    log = (made.logs / f"{job}_0_log.out").read_text()
    assert f"resuming from step {int(saved.name[5:]):,} of 1,500" in log
    record = RunRecord(folder.path)
    assert record.status == "finished"
    assert record.evaluation("best") is not None

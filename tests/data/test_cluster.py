"""Encoding through datatrove's executors gives the same store, byte for byte."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
from data_helpers import TEXTS, contents, lines

from epochal.data import cluster, shards
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.errors import DataError, OptionError

ON_SLURM = PrepareOptions(
    executor="slurm", tasks=3, tokenizer="bpe:300", partition="cpu", time="1:00:00",
    setup=("module load python",), sbatch={"account": "mine"},
)  # fmt: skip


@pytest.fixture
def texts(tmp_path, monkeypatch):
    pytest.importorskip("datatrove", reason="needs epochal[cluster]")
    monkeypatch.setattr(shards, "_CHARACTERS", 300)
    return lines(tmp_path, TEXTS)


@pytest.fixture
def expected(texts, tmp_path):
    made = prepare(texts, tmp_path / "expected", PrepareOptions(tokenizer="bpe:300"))
    return contents(made.folder)


def test_local(texts, expected, tmp_path, monkeypatch):
    """Every shard is made by a task, none twice; what a failed task left out is made here."""
    made = []
    work = cluster.Fidelity.work
    monkeypatch.setattr(
        cluster.Fidelity, "work", lambda self, task: (made.append(task.path), work(self, task))[1]
    )
    ran = []
    run = cluster.EncodeShare.__call__

    def share(self, data, rank, world_size):
        ran.append((rank, world_size))
        if rank != 2:
            run(self, data, rank, world_size)

    monkeypatch.setattr(cluster.EncodeShare, "__call__", share)
    options = PrepareOptions(tokenizer="bpe:300", executor="local", tasks=3, workers=1)
    corpus = prepare(texts, tmp_path / "corpus", options)
    assert contents(corpus.folder) == expected
    assert sorted(ran) == [(0, 3), (1, 3), (2, 3)]
    number = len(set(made))
    assert number > 3
    assert len(made) == number + sum(n % 3 != 2 for n in range(number))  # again, to be found
    assert not (corpus.folder / ".parts").exists()
    assert prepare(texts, tmp_path / "corpus", PrepareOptions(tokenizer="bpe:300")).already_existed


def test_slurm(texts, expected, tmp_path, monkeypatch):
    """The script has what was asked for; its tasks, run by hand, give the same."""
    from datatrove.executor import slurm

    scripts, asked = [], []

    def launch(script, retriever, *arguments):
        scripts.append(script)
        if "merge_stats" not in script:
            path = script.split("launch_pickled_pipeline ")[1].split()[0]
            monkeypatch.setenv("SLURM_NODELIST", "node1")
            monkeypatch.setattr(slurm, "expand_slurm_nodelist", lambda nodes: [nodes])
            for task in range(3):
                monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
                pickle.loads(Path(path).read_bytes()).run()
            monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
        return "17"

    def queued(job):
        asked.append(job)
        return len(asked) < 2

    monkeypatch.setattr(slurm, "launch_slurm_job", launch)
    monkeypatch.setattr(cluster, "_is_queued", queued)
    monkeypatch.setattr(cluster, "_POLL_SECONDS", 0)
    corpus = prepare(texts, tmp_path / "corpus", ON_SLURM)
    assert contents(corpus.folder) == expected
    assert asked == ["17", "17"]
    for wanted in ("partition=cpu", "time=1:00:00", "array=0-2", "account=mine"):
        assert f"#SBATCH --{wanted}\n" in scripts[0]
    assert "\nmodule load python\n" in scripts[0]
    assert "qos" not in scripts[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tasks": 2}, "tasks"),
        ({"executor": "slurm"}, "partition"),
        ({"executor": "local", "partition": "cpu"}, "partition"),
        ({"executor": "other"}, "executor"),
    ],
)
def test_bad_options(options, named):
    with pytest.raises(OptionError) as raised:
        PrepareOptions(**options)
    assert raised.value.name == named


def test_without_datatrove(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove.executor.local", None)
    with pytest.raises(DataError, match=r"pip install 'epochal\[cluster\]'"):
        prepare(lines(tmp_path, TEXTS), tmp_path / "corpus", PrepareOptions(executor="ray"))
    assert not list(tmp_path.glob("corpus/*.bin"))

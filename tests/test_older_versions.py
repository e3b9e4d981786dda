"""Files made by version 0.1.0: runs, laws, recipes, sweeps, exports. They open and resume.

tests/data_files/version_0_1_0.tar.gz was written by that version: a corpus, for each family a run
that was stopped on its way and one that was not (`-whole`), law files, a sweep, Hugging Face
folders, and the losses of the whole runs.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from epochal.cli.main import main
from epochal.recipe import identity, load_recipe
from epochal.recipe.renames import RENAMED, rename_flat, rename_tree
from epochal.runs import RunRecord
from epochal.runs.find import find_runs
from tiny_runs import final_files

ARCHIVE = Path(__file__).parent / "data_files" / "version_0_1_0.tar.gz"
FAMILIES = ["ar", "mdm"]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The archive's content; tests that write copy it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(unpacked, tmp_path, monkeypatch):
    """A copy of it, as the working folder."""
    shutil.copytree(unpacked, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def losses(run, kind="train", key="loss"):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return np.array([line[key] for line in lines if line["kind"] == kind])


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stopped_run_resumes_bit_for_bit(old, family):
    """With the recipe of that time, and with its old keys on the command line."""
    assert RunRecord(old / family).status == "stopped"
    before = losses(old / family)
    assert command("train", old / family / "recipe.toml", "train.clip=0.5") == 0
    assert RunRecord(old / family).status == "finished"
    # What was not trained anew is as it was; the rest is what a run without a stop gives here.
    resumed = losses(old / family)
    assert np.array_equal(resumed[: len(before)], before)
    whole = old / "anew"
    assert command("train", old / family / "recipe.toml", f"run_dir={whole}") == 0
    fresh = losses(whole)
    assert np.allclose(resumed, fresh, rtol=1e-4)
    then = losses(old / f"{family}-whole")
    assert np.allclose(fresh, then, rtol=1e-4)
    if np.array_equal(fresh, then):  # the same kind of CPU
        assert final_files(old / family) == final_files(whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finished_run_is_finished_and_scores_the_same(old, family):
    run = old / f"{family}-whole"
    assert command("train", run / "recipe.toml") == 0
    (before,) = RunRecord(run).evaluations()
    expected = json.loads((old / "expected.json").read_text())[family]
    assert np.allclose(losses(run, "eval", "nll_nats_per_token"), expected["eval"])
    shutil.rmtree(run / "evaluations")
    assert command("eval", run, "--draws", 4) == 0
    (found,) = RunRecord(run).evaluations()
    assert found.nll_nats_per_token == pytest.approx(before.nll_nats_per_token, rel=1e-5)
    assert found.standard_error == pytest.approx(before.standard_error, rel=1e-4)


def test_commands_read_its_runs(old, capsys):
    assert len(find_runs([old])) == 4
    whole = [old / f"{family}-whole" for family in FAMILIES]
    for words in (
        ["runs", old],
        ["compare", *whole],
        ["report", *whole, "--out", "page.html"],
        ["generate", whole[0], "--prompt", "The", "--tokens", 4],
        ["eval", whole[1], "--draws", 2],
    ):
        assert command(*words) == 0, (words, capsys.readouterr().err)


@pytest.mark.parametrize("file", ["law.toml", "law.json", "law_overfitting.toml"])
def test_law_files_plan(old, file, capsys):
    assert command("plan", "-U", "100M", "--flops", "1e20", "--laws", file, "--json") == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("folder", ["hf", "hf-mdm"])
def test_exports_import(old, folder):
    assert command("import", "hf", folder, "--out", "back") == 0
    assert RunRecord(old / "back").recipe.model.d_ff == 24


def test_a_sweep_file_is_listed(old, capsys):
    assert command("sweep", "sweep.toml", "--dry-run") == 0


def test_recipe_keys_are_read_under_their_old_names(old, capsys):
    record = RunRecord(old / "ar")
    values = {key: value for key, value in record.info["identity"].items() if key in RENAMED}
    assert not values  # read under today's names
    recipe = record.recipe
    assert (recipe.model.head_dim, recipe.model.d_ff, recipe.model.tie_embeddings) == (6, 24, False)
    assert recipe.train.grad_clip_reduction == "sum"
    stored = {k: v for k, v in record.info["identity"].items() if not k.startswith("corpus.")}
    assert identity(recipe) == stored


def test_every_rename_leads_to_a_key_of_today():
    from epochal.recipe import known_keys

    assert set(RENAMED.values()) <= set(known_keys())
    assert not set(RENAMED) & set(known_keys())


def test_old_names_of_keys_in_all_forms():
    assert rename_flat({"model.untied": True, "train.lr": 1}) == {
        "train.lr": 1,
        "model.tie_embeddings": False,
    }
    # In a sweep's grid a switch is a list; a key under both names keeps today's.
    assert rename_flat({"model.untied": [True, False]})["model.tie_embeddings"] == [False, True]
    both = {"train.clip": 1.0, "train.grad_clip": 2.0}
    assert rename_flat(both) == {"train.grad_clip": 2.0}
    tree = {"train": {"global_batch": 4}, "model": {"untied": True}}
    assert rename_tree(tree) == {
        "train": {"global_batch_size": 4},
        "model": {"tie_embeddings": False},
    }
    assert tree["model"] == {"untied": True}
    recipe = load_recipe(None, ["train.steps=1", "model.size=7M", "train.micro_batch=3"])
    assert recipe.train.micro_batch_size == 3


def test_a_renamed_key_is_noticed_once(capfd):
    for _ in range(2):
        load_recipe(None, ["train.steps=1", "model.size=7M", "train.clip=3"])
    assert capfd.readouterr().err.count("train.grad_clip") == 1


def test_renamed_keys_of_a_recipe_are_one_notice_and_those_of_a_run_none(old, capfd):
    run = RunRecord(old / "ar-whole")
    assert run.recipe.train.global_batch_size
    assert capfd.readouterr().err == ""
    assert load_recipe(run.folder.recipe_file) == run.recipe
    (notice,) = capfd.readouterr().err.splitlines()
    assert "train.global_batch → train.global_batch_size" in notice

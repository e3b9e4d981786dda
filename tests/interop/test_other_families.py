"""What is of one family is never read as of another: runs, checkpoints, exported folders."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest

from epochal.errors import CheckpointError, RecipeError, RunError, UserError
from epochal.evaluation.ensemble import average
from epochal.evaluation.evaluate import evaluate
from epochal.families import family_names
from epochal.interop.exports import export_hf, export_safetensors
from epochal.interop.imports import import_hf
from epochal.interop.load import load
from epochal.interop.options import ImportOptions
from epochal.recipe import recipe_toml
from epochal.runs import RunRecord
from epochal.training.train import train
from tiny_runs import overrides

NAMES = family_names()
PAIRS = list(itertools.permutations(NAMES, 2))


def values(corpus, folder, family, **changes):
    return overrides(corpus, folder, family=family, train__steps=2, **changes)


@pytest.fixture(scope="module")
def folder(tiny_corpus, tmp_path_factory):
    """A short run of each family, and its export."""
    folder = tmp_path_factory.mktemp("each")
    for name in NAMES:
        train(None, values(tiny_corpus, folder / name, name))
        export_hf(folder / name, folder / "hf" / name)
    return folder


@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_a_run_is_resumed_by_its_own_recipe_alone(tiny_corpus, folder, own, other):
    with pytest.raises(RunError, match=rf"`family` '{own}' → '{other}'"):
        train(None, values(tiny_corpus, folder / own, other))
    assert RunRecord(folder / own).family == own


@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_a_checkpoint_says_its_family(tiny_corpus, folder, tmp_path, own, other):
    """In a run's folder, the checkpoints of another; or its recipe changed by hand."""
    for case in ("checkpoints", "recipe"):
        run = tmp_path / case
        shutil.copytree(folder / own, run)
        if case == "checkpoints":
            shutil.rmtree(run / "checkpoints")
            shutil.copytree(folder / other / "checkpoints", run / "checkpoints")
        else:
            record = RunRecord(folder / other)
            (run / "recipe.toml").write_text(recipe_toml(record.recipe))
        for read in (load, evaluate, lambda run: export_hf(run, tmp_path / "x")):
            with pytest.raises(CheckpointError, match=rf"the family ({own}|{other}), but its run"):
                read(run)
        with pytest.raises(CheckpointError, match="of the family"):
            export_safetensors(run, tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("x*"))
    run = tmp_path / "checkpoints"
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"status": "stopped"}))
    with pytest.raises(CheckpointError, match=rf"family {other}, but its run is of {own}"):
        train(None, values(tiny_corpus, run, own))


@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_an_exported_folder_says_its_family(folder, tmp_path, own, other):
    with pytest.raises(CheckpointError, match=rf"the family given is {other}"):
        import_hf(folder / "hf" / own, tmp_path / "run", ImportOptions(family=other))
    with pytest.raises(CheckpointError, match=rf"the family given is {other}"):
        load(folder / "hf" / own, family=other)
    mixed = tmp_path / "mixed"
    for taken in ("config.json", "recipe.toml"):  # with or without a mask among the tokens
        shutil.copytree(folder / "hf" / own, mixed)
        shutil.copy(folder / "hf" / other / taken, mixed / taken)
        with pytest.raises(CheckpointError, match=r"by recipe\.toml|tokenizer of 300 tokens"):
            load(mixed)
        shutil.rmtree(mixed)
    config = json.loads((folder / "hf" / own / "config.json").read_text())
    for odd in ("spiral", [1]):
        shutil.copytree(folder / "hf" / own, mixed)
        changed = config | {"epochal": config["epochal"] | {"family": odd}}
        (mixed / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=r"config\.json says that the model"):
            load(mixed)
        shutil.rmtree(mixed)
    assert load(folder / "hf" / own).family == own
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("own", "other"), [("ar", "dual"), ("mdm", "uniform"), ("block", "mdm")])
def test_neither_students_nor_averages_mix_them(tiny_corpus, folder, tmp_path, own, other):
    changes = {"distill.teachers": [str(folder / other)]}
    with pytest.raises((RecipeError, UserError), match=r"differ in family|cannot be students"):
        train(None, values(tiny_corpus, tmp_path / "student", own) | changes)
    with pytest.raises(UserError, match="family"):
        average([folder / own, folder / other], tmp_path / "mean")

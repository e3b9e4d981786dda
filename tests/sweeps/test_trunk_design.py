"""The design `trunk`: one run at a constant rate, and branches that decay."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.cli.main import main
from epochal.errors import RecipeError
from epochal.recipe import load_recipe, run_numbers
from epochal.recipe.load import apply_overrides
from epochal.runs import RunRecord
from epochal.scaling.points import DropReason
from epochal.scaling.read import read_points
from epochal.sizes import GPT2_VOCABULARY
from epochal.sweeps.designs import CorpusFacts, design_runs
from epochal.sweeps.file import sweep_from_tree
from epochal.sweeps.listing import list_sweep
from epochal.sweeps.record import SweepFolder
from epochal.sweeps.sweep import plan_states
from epochal.training.optim import learning_rate
from epochal.training.train import train
from tiny_runs import final_files, overrides

UNIQUE = 3_000_000


def tree(epochs, decay=0.1, warmup=0.01, lr_progress="steps", **more):
    return {
        "sweep": {"design": "trunk", "epochs": epochs, "unique_tokens": UNIQUE, **more},
        "base": {
            "model": {"size": "7M"},
            "data": {"sequence_length": 128},
            "train": {
                "global_batch_size": 48,
                "decay": decay,
                "warmup": warmup,
                "lr_progress": lr_progress,
            },
        },
    }


def made(values):
    return design_runs(sweep_from_tree(values, "test"))


def numbers(run):
    return run_numbers(run.recipe, UNIQUE, GPT2_VOCABULARY)


@settings(max_examples=30)
@given(
    epochs=st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True),
    decay=st.floats(0.02, 0.6),
    warmup=st.floats(0, 0.006),
    lr_progress=st.sampled_from(["steps", "samples"]),
    families=st.sampled_from([["ar"], ["ar", "mdm"]]),
    seeds=st.sampled_from([[1], [1, 2]]),
)
def test_trunk_and_branches_have_the_rates_of_runs_trained_alone(
    epochs, decay, warmup, lr_progress, families, seeds
):
    values = tree(epochs, decay, warmup, lr_progress, families=families, seeds=seeds)
    runs = made(values)
    trunks = {run.name: run for run in runs if run.after is None}
    branches = [run for run in runs if run.after is not None]
    assert len(trunks) == len(families) * len(seeds)
    assert len(branches) == len(trunks) * len(epochs)
    for run in branches:
        trunk, alone = trunks[run.after], run.recipe.train
        assert (trunk.recipe.family, trunk.recipe.seed) == (run.recipe.family, run.recipe.seed)
        total, length = numbers(run), numbers(trunk).steps
        assert run.start_step == int(total.steps * (1 - decay)) <= length
        assert run.start_step in {*trunk.recipe.checkpoint.keep_at, length}
        # Before the start the trunk has the rates of the run alone, and after it the branch.
        steps = {0, 1, 2, run.start_step // 100, run.start_step // 2, run.start_step - 1}
        for step in steps & set(range(run.start_step)):
            assert learning_rate(trunk.recipe.train, step, numbers(trunk)) == pytest.approx(
                learning_rate(alone, step, total), rel=1e-9
            )
        assert learning_rate(alone, run.start_step - 1, total) == alone.lr
        assert learning_rate(alone, total.steps - 1, total) < alone.lr
    for name, trunk in trunks.items():
        starts = [run.start_step for run in branches if run.after == name]
        assert numbers(trunk).steps == max(starts)
        assert trunk.recipe.train.schedule == "constant"
    # What is spent: each trunk once and the decays, step by step.
    listing = list_sweep(sweep_from_tree(values, "test"))
    per_step = numbers(runs[0]).flops_per_token * numbers(runs[0]).tokens_per_step
    steps = sum(numbers(run).steps - run.start_step for run in runs)
    assert listing.total.flops == pytest.approx(steps * per_step)
    assert listing.total.tokens == steps * 48 * 128
    assert [row.flops for row in listing.runs] == pytest.approx(
        [numbers(run).flops for run in runs]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.schedule": "cosine"}, '`train.schedule` = "cosine" has no place'),
        ({"train.start_from": "x", "train.schedule": "wsd"}, "`train.start_from` has no place"),
        ({"train.decay": 0.9995, "train.warmup": 0.0}, "leaves no step for the trunk"),
        ({"train.warmup": 0.2}, "the branch ar-U3M-1ep begins to decay at step .* warm-up"),
        ({"sweep.epochs": []}, "the design trunk needs the lengths"),
        ({"sweep.tokens": [10**8]}, "both set the lengths"),
    ],
)
def test_branches_that_cannot_start(changes, message):
    with pytest.raises(RecipeError, match=message):
        design_runs(sweep_from_tree(tree([1, 50]), "test", changes))


def test_max_epochs_leaves_out_branches_and_shortens_the_trunk():
    [trunk, branch] = made(tree([2, 50], max_epochs=10))
    assert (trunk.name, branch.name) == ("ar-U3M-trunk", "ar-U3M-2ep")
    assert numbers(trunk).steps == branch.start_step
    assert math.isclose(numbers(branch).epochs, 2, abs_tol=0.01)


def hashes(run_dir):
    return {name: hashlib.sha256(data).hexdigest() for name, data in final_files(run_dir).items()}


def test_a_real_trunk_with_its_branches(tiny_corpus, tmp_path, capsys):
    keys = overrides(tiny_corpus, "none", train__decay=0.25, train__warmup=0.25)
    values = {"sweep": {"design": "trunk", "tokens": ["1536", "2048"], "evaluate": False}}
    values["base"] = {}
    apply_overrides(values["base"], keys)
    del values["base"]["run_dir"], values["base"]["train"]["steps"]
    file, out = tmp_path / "two.toml", tmp_path / "runs" / "two"
    file.write_text(tomlkit.dumps(values))
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(file), "--out", str(out), "--json"])
    assert ended.value.code == 0
    states = {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert [run["state"] for run in states.values()] == ["finished"] * 3
    assert states["ar-1.54ktok"]["after"] == ["ar-trunk"]
    # Branches of 12 and 16 steps leave the trunk at 9 and 12.
    starts = {name: RunRecord(out / name).info.get("start", {}).get("step") for name in states}
    assert starts == {"ar-trunk": None, "ar-1.54ktok": 9, "ar-2.05ktok": 12}
    alone = out / "recipes" / "ar-1.54ktok.toml"
    changes = {"train.start_from": None, "run_dir": str(tmp_path / "alone")}
    recipe = load_recipe(alone, changes)
    assert (recipe.train.warmup, recipe.train.schedule) == (3 / 12, "wsd")
    train(recipe)
    assert hashes(tmp_path / "alone") == hashes(out / "ar-1.54ktok")

    # The trunk is no point of a law; the branches are.
    points = read_points([out])
    assert sorted(Path(run).name for run in points.run) == ["ar-1.54ktok", "ar-2.05ktok"]
    assert points.dropped[0].reason.code is DropReason.BRANCHED_FROM

    def planned(tokens, place):
        changed = sweep_from_tree(copy.deepcopy(values), "two", {"sweep.tokens": tokens})
        facts = CorpusFacts.of(changed)
        places = [tmp_path / "runs"]
        runs = design_runs(changed, facts)
        found = plan_states(runs, facts, SweepFolder(place), 1, retry=False, places=places)
        return {state.name: state for state in found}

    # In another folder all is known, and the trunk too where it kept what a branch starts from.
    again = planned([1536, 2048], tmp_path / "runs" / "again")
    assert {state.state for state in again.values()} == {"finished"}
    assert again["ar-trunk"].run_dir == str(out / "ar-trunk")
    more = planned([1280, 2048], tmp_path / "runs" / "more")
    assert [state.state for state in more.values()] == ["waiting", "waiting", "finished"]
    # A trunk that none of the branches needs any more is not trained.
    shutil.rmtree(out / "ar-trunk")
    rest = planned([1536, 2048], tmp_path / "runs" / "rest")
    assert [state.state for state in rest.values()] == ["left_out", "finished", "finished"]

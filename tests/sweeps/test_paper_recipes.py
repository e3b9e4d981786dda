"""The shipped recipes of the paper's experiments: each is read, dry-run and true to the paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import epochal
from epochal.data.paper_sets import PAPER_SETS
from epochal.recipe import find_recipe, load_recipe
from epochal.recipe.load import read_toml
from epochal.sweeps.designs import design_runs
from epochal.sweeps.file import load_sweep
from epochal.sweeps.listing import list_sweep
from epochal.training.dry_run import dry_run
from epochal.training.options import DryRunOptions

FOLDER = Path(epochal.__file__).parent / "recipes"
NAMES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.toml")
)
PAPER = [name for name in NAMES if name.startswith("paper/")]
SWEEPS = [name for name in PAPER if "sweep" in read_toml(find_recipe(name))]
FIELD = [
    name for name in NAMES if name.startswith("field/") and "sweep" in read_toml(find_recipe(name))
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def runs(name):
    return design_runs(load_sweep(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SWEEPS])
def test_recipes_are_dry_run_without_their_corpus(name):
    if "sweep" in read_toml(find_recipe(name)):
        pytest.skip("a sweep of another experiment, tested with it")
    result = dry_run(name, options=DryRunOptions(gpus=8))
    assert result.numbers.steps > 0
    assert result.memory.total > 0
    assert result.time.gpu_hours > 0


@pytest.mark.parametrize("name", [*SWEEPS, *FIELD])
def test_sweeps_are_dry_run_without_their_corpus(name):
    listing = list_sweep(load_sweep(name), gpu="H100")
    assert len(listing.runs) >= 2
    assert listing.total.gpu_hours is not None
    assert listing.total.gpu_hours > 1
    assert all(row.steps > 0 for row in listing.runs)


@pytest.mark.parametrize("name", PAPER)
def test_all_train_as_the_paper_did(name):
    recipes = (
        [run.recipe for run in runs(name)] if name in SWEEPS else [load_recipe(find_recipe(name))]
    )
    for recipe in recipes:
        train = recipe.train
        assert (recipe.data.sequence_length, train.global_batch_size) == (2048, 256)
        assert recipe.data.order == "megatron"
        assert train.hidden_dropout == 0.1
        assert (train.grad_clip, train.grad_clip_reduction, train.lr_progress) == (
            1.0,
            "sum",
            "samples",
        )
        assert (train.beta1, train.weight_decay, train.schedule) == (0.9, 0.1, "cosine")
        assert getattr(recipe.options, "noise", "iid") == "iid"
        assert recipe.model.size is not None
        if name != "paper/attention-dropout":
            assert train.attention_dropout == 0.1
        if name != "paper/learning-rate":
            assert (train.lr, train.min_lr, train.beta2, train.warmup) == (2e-4, 2e-5, 0.95, 0.01)


@pytest.mark.parametrize(
    ("family", "steps", "tokens", "flops"),
    [("ar", 9532, 4.998e9, 4.34e18), ("mdm", 95_322, 4.998e10, 1.25e20)],
)
def test_quickstart(family, steps, tokens, flops):
    """Paper.md §4: the quick-start scripts."""
    result = dry_run(f"paper/quickstart-{family}", options=DryRunOptions(gpus=8))
    assert result.numbers.steps == steps
    assert result.numbers.tokens == pytest.approx(tokens, rel=1e-3)
    assert result.numbers.flops == pytest.approx(flops, rel=1e-3)
    assert (result.micro_batch_size, result.accumulation) == (8, 4)


def test_isoflop_has_the_papers_budgets_and_its_optima():
    listing = list_sweep(load_sweep("recipes/paper/isoflop.toml"))
    grid = {}
    for row in listing.runs:
        budget = round(row.flops / 1e18)
        grid.setdefault((row.family, budget), []).append(row)
        assert row.flops == pytest.approx(budget * 1e18, rel=1e-2)
        assert row.tokens == pytest.approx(row.flops / 6 / row.params)
    assert sorted(grid) == [(f, c) for f in ("ar", "mdm") for c in (6, 10, 30, 100)]
    optima = {
        ("ar", 10): "217M",
        ("ar", 30): "425M",
        ("ar", 100): "724M",
        ("mdm", 10): "117M",
        ("mdm", 30): "217M",
        ("mdm", 100): "425M",
    }
    for key, size in optima.items():
        sizes = [row.size for row in sorted(grid[key], key=lambda row: row.params)]
        assert 2 <= sizes.index(size) <= len(sizes) - 3  # sizes on both sides of it


def test_data_value_uses_the_papers_sets_and_spends_one_budget():
    found = runs("paper/data-value")
    assert len(found) == 40
    known = {one.tokens for one in PAPER_SETS.values() if one.size is not None}
    assert {run.recipe.data.unique_tokens for run in found} == known
    for row in list_sweep(load_sweep("paper/data-value")).runs:
        budget = float(row.name.split("-")[2])
        epochs = float(row.name.split("-")[3].removesuffix("ep"))
        assert row.flops == pytest.approx(budget, rel=1e-3)
        assert row.epochs == pytest.approx(epochs, rel=6e-3)


def test_the_hundred_million_grid_is_the_one_of_figure_2():
    """Paper.md §7.1: 68 and 71 cells."""
    families = [run.recipe.family for run in runs("paper/epochs-100M")]
    assert (families.count("ar"), families.count("mdm")) == (68, 71)
    assert {"ar-140M-50ep", "mdm-425M-500ep"} <= {run.name for run in runs("paper/epochs-100M")}


def test_an_unknown_one_is_refused_with_the_list():
    with pytest.raises(epochal.EpochalError, match="paper/isoflop"):
        find_recipe("paper/isoflops")


@pytest.mark.parametrize("name", SWEEPS)
def test_the_costs_in_the_docs_are_those_of_the_dry_run(name):
    short = name.removeprefix("paper/")
    folder = Path(__file__).parents[2] / "docs" / "experiments"
    listing = list_sweep(load_sweep(name), gpu="H100")
    assert listing.total.gpu_hours is not None
    hours, runs_ = f"{listing.total.gpu_hours:,.0f}", len(listing.runs)
    if short.startswith("epochs-"):
        row = rf"\| {short.removeprefix('epochs-')} \| {runs_} \| .* \| {hours} \|"
        assert re.search(row, (folder / "epochs.md").read_text(encoding="utf-8"))
    else:
        page = (folder / f"{short}.md").read_text(encoding="utf-8")
        assert f"{runs_} runs" in page
        assert f"{hours} H100 hours" in page
        index = (folder / "README.md").read_text(encoding="utf-8")
        assert re.search(rf"`{name}` \| {runs_} \| .* \| {hours} \|", index)


def test_infinite_compute_has_the_certified_settings_of_209_million_tokens():
    """arXiv 2509.14786: an epoch is 800 steps; decay grows with the size."""
    found = {run.name: run.recipe for run in runs("field/infinite-compute")}
    settings = [(r.train.epochs, r.train.lr, r.train.weight_decay) for r in found.values()]
    assert settings[:4] == [(16, 3e-3, 0.8), (16, 3e-3, 1.6), (8, 1e-3, 3.2), (8, 1e-3, 3.2)]
    assert settings[4:] == [(8, 3e-3, 0.1), (8, 1e-3, 0.1), (4, 1e-3, 0.1), (4, 3e-4, 0.1)]
    for row in list_sweep(load_sweep("field/infinite-compute")).runs:
        assert row.steps == 800 * row.epochs


def test_dual_objective_and_super_data_learners_see_the_same_tokens_in_all_runs():
    for name, seen in (("field/dual-objective", 32e9), ("field/super-data-learners", 96e9)):
        for row in list_sweep(load_sweep(name)).runs:
            if row.name != "mdm-480ep":
                assert row.tokens == pytest.approx(seen, rel=1e-3)
    shares = [r.recipe.options.causal_share for r in runs("field/dual-objective")[1::2]]
    assert shares == [*[63 / 64] * 5, 3 / 4, 1 / 4, 1 / 8]


@pytest.mark.parametrize("track", ["strict", "strict-small"])
def test_babylms_winners_share_data_and_shape(track):
    """Each track's two recipes, of 2024 and 2025, differ in the objective alone."""
    first, second = (load_recipe(f"babylm/{name}-{track}") for name in ("gpt-bert", "diffusion"))
    assert (first.family, second.family) == ("dual", "mdm")
    assert (first.data, first.model, first.eval) == (second.data, second.model, second.eval)
    assert first.train.epochs == second.train.epochs == 10
    assert first.train.global_batch_size == second.train.global_batch_size
    masks = second.options
    assert (masks.schedule, masks.noise, masks.frequency_power) == ("cosine", "stratified", 0.02)
    # 31M and 112M parameters with the vocabulary of 16,384.
    millions = second.model.architecture().params(16_384) / 1e6
    assert millions == pytest.approx({"strict": 112, "strict-small": 31}[track], rel=0.15)

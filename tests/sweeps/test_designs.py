"""Designs: which runs a sweep file makes, and that each meets its budget within one step."""

from __future__ import annotations

import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import RecipeError
from epochal.recipe import run_numbers
from epochal.results import note
from epochal.sizes import GPT2_VOCABULARY, LADDER, get_gpu
from epochal.sweeps.designs import CorpusFacts, design_runs
from epochal.sweeps.file import load_sweep, sweep_from_tree
from epochal.sweeps.listing import ListingNote, list_sweep

UNIQUE = 50_000_000
SMALL = list(LADDER)[:12]


def made(tree, *overrides, **facts):
    return design_runs(sweep_from_tree(tree, "test", overrides), CorpusFacts(**facts))


def numbers(run, unique=UNIQUE):
    return run_numbers(run.recipe, run.recipe.data.unique_tokens or unique, GPT2_VOCABULARY)


def base(length=256, batch=16):
    return {"data": {"sequence_length": length}, "train": {"global_batch_size": batch}}


sizes = st.lists(st.sampled_from(SMALL), min_size=1, max_size=3, unique=True)
lengths = st.sampled_from([64, 256, 1000])
batches = st.sampled_from([1, 16, 60])


@given(
    sizes=sizes,
    flops=st.lists(st.floats(1e16, 1e20), min_size=1, max_size=3, unique=True),
    length=lengths,
    batch=batches,
)
def test_isoflop_budgets_are_met_within_one_step(sizes, flops, length, batch):
    # Budgets that read alike would share a name.
    flops = list({f"{c:.3g}": c for c in flops}.values())
    runs = made(
        {
            "sweep": {
                "design": "isoflop",
                "families": ["ar", "mdm"],
                "sizes": sizes,
                "flops": flops,
            },
            "base": base(length, batch),
        }
    )
    assert len(runs) == 2 * len(sizes) * len(flops)
    for run, (family, size, budget) in zip(
        runs, itertools.product(["ar", "mdm"], sizes, flops), strict=True
    ):
        n = numbers(run)
        assert (run.recipe.family, run.recipe.model.size) == (family, size)
        step = n.tokens_per_step * n.flops_per_token
        assert budget - step < n.flops <= budget * (1 + 1e-9)


@given(
    epochs=st.lists(st.integers(1, 800), min_size=1, max_size=4, unique=True),
    unique=st.integers(1_000_000, 100_000_000),
    length=lengths,
    batch=batches,
)
def test_epochs_are_met_within_one_step(epochs, unique, length, batch):
    runs = made(
        {
            "sweep": {"design": "epochs", "epochs": epochs, "unique_tokens": unique},
            "base": base(length, batch) | {"model": {"size": "7M"}},
        }
    )
    for run, wanted in zip(runs, epochs, strict=True):
        n = numbers(run)
        assert n.unique_tokens == unique
        assert wanted - batch / n.rows_per_epoch < n.epochs <= wanted + 1e-9


@given(tokens=st.integers(1_000_000, 10**11), length=lengths, batch=batches)
def test_tokens_are_met_within_one_step(tokens, length, batch):
    tree = {"sweep": {"design": "grid", "tokens": [tokens]}, "base": base(length, batch)}
    [run] = made(tree, "model.size=14M")
    n = numbers(run)
    assert tokens - n.tokens_per_step < n.tokens <= tokens


@given(
    size=st.sampled_from(SMALL),
    budget=st.floats(1e17, 1e20),
    epochs=st.lists(st.integers(1, 100), min_size=1, max_size=5, unique=True),
)
def test_data_value_spends_one_budget_on_one_kth_of_the_data(size, budget, epochs):
    runs = made(
        {
            "sweep": {"design": "data-value", "sizes": size, "flops": budget, "epochs": epochs},
            "base": base(64, 4),
        }
    )
    for run, k in zip(runs, epochs, strict=True):
        n = numbers(run)
        step = n.tokens_per_step * n.flops_per_token
        assert budget - step < n.flops <= budget * (1 + 1e-9)
        assert n.unique_tokens == int(budget / n.flops_per_token / k)
        # k epochs up to the rows that a cut to whole rows leaves out.
        assert n.epochs == pytest.approx(k, abs=0.01 + k * 64 / n.unique_tokens)


def test_data_value_with_the_papers_sets():
    """217M row at 1e19 (reference/paper.md, section 3): k epochs over the set of k."""
    sets = [7_659_172_026, 3_828_933_780, 1_912_366_531, 765_785_518]
    runs = made(
        {
            "sweep": {
                "design": "data-value",
                "families": ["ar"],
                "sizes": ["217M"],
                "flops": "1e19",
                "epochs": [1, 2, 4, 10],
                "unique_tokens": sets,
            },
            "base": base(2048, 256),
        }
    )
    assert [run.recipe.data.unique_tokens for run in runs] == sets
    for run, k, tokens in zip(runs, [1, 2, 4, 10], sets, strict=True):
        # The original's train samples follow from the FLOPs alone; the sets only come near 1/k.
        assert numbers(run).steps == round(1e19 / 6 / 217_503_104 / 2048) // 256
        assert numbers(run).epochs == pytest.approx(k, rel=5e-3)
        assert numbers(run).unique_tokens == tokens


def test_parts_grid_variants_and_seeds_multiply():
    tree = {
        "sweep": {"design": "ablation", "families": ["ar"], "epochs": 2, "seeds": [1, 2]},
        "part": [{"sizes": ["7M"]}, {"sizes": ["14M"], "seeds": [1]}],
        "grid": {"train": {"weight_decay": [0.1, 1.0]}},
        "variants": {"dropout": {"train": {"attention_dropout": 0.1, "lr": 1e-3}}},
        "base": base(),
    }
    runs = made(tree)
    assert len(runs) == (2 + 1) * 2 * 2
    assert len({run.name for run in runs}) == len(runs)
    names = {run.name: run.recipe for run in runs}
    assert names["ar-7M-2ep-weight_decay1-dropout-s2"].train.lr == 1e-3
    assert names["ar-7M-2ep-weight_decay0.1-plain-s1"].train.lr == 2e-4


def test_runs_that_parts_share_come_once():
    part = {"sizes": ["7M", "14M"]}
    tree = {"sweep": {"design": "epochs", "epochs": [1]}, "part": [part, part], "base": base()}
    assert [run.name for run in made(tree)] == ["ar-7M-1ep", "ar-14M-1ep"]


def test_two_runs_of_one_name_are_refused():
    tree = {
        "sweep": {"design": "grid", "tokens": ["100M", 100_000_100], "sizes": ["7M"]},
        "base": base(),
    }
    with pytest.raises(RecipeError, match="ar-7M-100Mtok"):
        made(tree)


def test_shapes_beside_the_ladder_replace_that_of_the_base():
    tree = {
        "sweep": {"design": "epochs", "epochs": [1], "sizes": ["96x3x4", "7M"]},
        "base": base() | {"model": {"d_model": 64, "layers": 9, "heads": 2, "d_ff": 64}},
    }
    shapes = [run.recipe.model.architecture() for run in made(tree)]
    assert (shapes[0].d_model, shapes[0].layers, shapes[0].heads) == (96, 3, 4)
    assert shapes[1] == LADDER["7M"]


def test_runs_that_repeat_too_often_are_left_out():
    sizes = ["7M", "44M", "217M"]
    tree = {
        "sweep": {"design": "isoflop", "sizes": sizes, "flops": [1e17], "max_epochs": 1},
        "base": base(),
    }
    fits = {s: 1e17 / LADDER[s].flops_per_token(GPT2_VOCABULARY) <= 400e6 for s in sizes}
    left = [run.recipe.model.size for run in made(tree, unique_tokens=400_000_000)]
    assert left == [size for size in sizes if fits[size]]
    assert 0 < len(left) < 3
    assert len(made(tree)) == 3  # the corpus is not known, so nothing can be left out
    with pytest.raises(RecipeError, match="max_epochs"):
        made(tree, unique_tokens=1_000_000)


def test_members_of_an_ensemble_are_trained_longer_with_less_decay():
    """From a tuned recipe on the command line, as its page shows."""
    tree = {"base": base() | {"family": "mdm", "model": {"size": "7M"}}}
    tree["base"]["train"] |= {"epochs": 20, "weight_decay": 0.8, "lr": 3e-3}
    made_of = ("sweep.design=ensemble", "sweep.seeds=[1,2,3]")
    runs = made(copy.deepcopy(tree), *made_of)
    assert [run.name for run in runs] == ["mdm-s1", "mdm-s2", "mdm-s3"]
    assert [run.recipe.seed for run in runs] == [1, 2, 3]
    for train in (run.recipe.train for run in runs):
        assert (train.epochs, train.weight_decay, train.lr) == (40, 0.4, 3e-3)
    own = ("sweep.epochs_factor=1.5", "sweep.decay_factor=0", "train.steps=3")
    own = made(copy.deepcopy(tree), *made_of, *own)
    assert own[0].recipe.train.steps == 4
    assert own[0].recipe.train.weight_decay == 0
    both = made(tree, *made_of, 'sweep.families=["ar", "mdm"]', "sweep.epochs=[1, 2]")
    assert [(run.recipe.family, run.recipe.train.epochs) for run in both][::3] == [
        ("ar", 2), ("ar", 4), ("mdm", 2), ("mdm", 4)
    ]  # fmt: skip


def test_a_recipe_becomes_a_sweep_by_overrides_of_sweep(tmp_path):
    file = tmp_path / "tuned.toml"
    file.write_text('run_dir = "x"\nfamily = "mdm"\n[train]\nepochs = 4\n[model]\nsize = "7M"\n')
    sweep = load_sweep(file, ["sweep.design=grid", "sweep.seeds=[1, 2]"])
    assert [run.name for run in design_runs(sweep)] == ["mdm-s1", "mdm-s2"]
    with pytest.raises(RecipeError, match=r"is a recipe; `epochal train .* sweep.design"):
        load_sweep(file, ["train.epochs=2"])


def test_a_list_of_runs():
    tree = {
        "sweep": {"design": "list", "seeds": [5]},
        "runs": [
            {"name": "small", "model": {"size": "7M"}, "train": {"epochs": 2}},
            {"name": "large", "family": "mdm", "model.size": "14M", "train.flops": 1e15},
        ],
        "base": base() | {"train": {"tokens": "1M"}},
    }
    small, large = made(tree)
    assert (small.name, small.recipe.train.epochs, small.recipe.seed) == ("small", 2, 5)
    assert (large.recipe.family, large.recipe.train.flops) == ("mdm", 1e15)


def test_overrides_reach_base_sweep_parts_and_grid():
    tree = {
        "sweep": {"design": "isoflop", "sizes": ["7M"], "flops": [1e15]},
        "part": [{"flops": [2e15]}, {"flops": [3e15], "sizes": ["14M"]}],
        "base": base() | {"train": {"global_batch_size": 8}},
    }
    words = ["sweep.flops=[5e15]", "train.global_batch_size=32", "grid.train.lr=[1e-3, 2e-3]"]
    runs = made(tree, *words, "base.seed=9")
    assert {run.recipe.train.flops for run in runs} == {5e15}
    assert {run.recipe.train.global_batch_size for run in runs} == {32}
    assert {run.recipe.train.lr for run in runs} == {1e-3, 2e-3}
    assert {run.recipe.seed for run in runs} == {9}
    assert len(runs) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sweep": {"design": "isoflop", "flop": [1e18]}}, ["sweep.flop", "flops"]),
        ({"sweep": {"design": "isoflops"}}, ["sweep.design", "isoflops", "isoflop"]),
        ({"sweep": {"flops": [1]}}, ["sweep.design", "missing"]),
        ({"sweep": {"design": "isoflop", "flops": [1e18]}}, ["sweep.sizes", "missing"]),
        ({"sweep": {"design": "epochs", "flops": [1e18]}}, ["sweep.flops", "sweep.epochs"]),
        ({"sweep": {"design": "grid", "flops": [1], "epochs": [1]}}, ["both"]),
        ({"sweep": {"design": "epochs", "epochs": ["many"]}}, ["sweep.epochs", "many"]),
        ({"sweep": {"design": "epochs", "epochs": [1], "sizes": ["7B"]}}, ["7B"]),
        ({"sweep": {"design": "epochs", "epochs": [1], "evaluate": 3}}, ["evaluate", "3"]),
        ({"sweep": {"design": "data-value", "epochs": [1, 2]}}, ["sweep.flops", "missing"]),
        ({"sweep": {"design": "ensemble"}}, ["sweep.seeds", "missing"]),
        ({"sweep": {"design": "ensemble", "seeds": [1, 1]}}, ["sweep.seeds", "two or more"]),
        ({"sweep": {"design": "grid", "decay_factor": 0.5}}, ["decay_factor", "ensemble"]),
        ({"sweep": {"design": "ensemble", "epochs_factor": 0}}, ["epochs_factor", "greater"]),
        ({"sweep": {"design": "list"}}, ["[[runs]]"]),
        ({"sweep": {"design": "ablation", "epochs": [1]}}, ["variants"]),
        ({"grid": {"train": {"lrr": [1]}}}, ["train.lrr", "train.lr"]),
        ({"grid": {"train": {"lr": 1e-3}}}, ["grid.train.lr", "list"]),
        ({"base": {"run_dir": "x"}}, ["run_dir"]),
        ({"train": {"lr": 1}}, ["base.train"]),
        ({"bas": {}}, ["bas", "base"]),
        ({"runs": [{"family": "ar"}]}, ["name"]),
    ],
)
def test_mistakes_are_named(change, words):
    tree = {"sweep": {"design": "epochs", "epochs": [1], "sizes": ["7M"]}, "base": base()}
    with pytest.raises(RecipeError) as refused:
        made(tree | change)
    for word in words:
        assert word in str(refused.value)


def test_a_key_that_no_run_reads_is_refused():
    tree = {
        "sweep": {"design": "grid", "families": ["ar", "mdm"]},
        "grid": {"mdm": {"eps": [0.1, 0.2]}},
        "base": {"train": {"epochs": 2}, "model": {"size": "7M"}, "block": {"size": 8}},
    }
    assert len(made(copy.deepcopy(tree), unique_tokens=UNIQUE)) == 4
    for key in ("grid.block.size=[1,2]", 'variants.x={"dual.causal_share"=0.5}'):
        with pytest.raises(RecipeError, match="is a setting of the family"):
            made(copy.deepcopy(tree), key, unique_tokens=UNIQUE)


def test_a_listing_without_the_corpus(tmp_path):
    tree = {
        "sweep": {"design": "isoflop", "sizes": ["217M", "425M"], "flops": ["6e18"]},
        "base": {"data": {"corpus": str(tmp_path / "nowhere"), "sequence_length": 2048}},
    }
    listing = list_sweep(sweep_from_tree(tree, "iso"), gpu="h100", mfu=0.5)
    assert [row.params for row in listing.runs] == [217_503_104, 416_887_040]
    assert all(row.epochs is None and row.unique_tokens is None for row in listing.runs)
    assert listing.total.flops == pytest.approx(1.2e19, rel=1e-3)
    spent = sum(
        LADDER[row.size].matmul_flops_per_token(GPT2_VOCABULARY, 2048) * row.tokens
        for row in listing.runs
    )
    assert listing.total.gpu_hours == pytest.approx(spent / (0.5 * get_gpu("H100").peak) / 3600)
    assert [note.code for note in listing.notes] == [
        ListingNote.CORPUS_MISSING,
        ListingNote.GPU_HOURS,
    ]
    with pytest.raises(RecipeError, match=r"ar-217M-3ep.*base\.data\.unique_tokens"):
        list_sweep(
            sweep_from_tree(
                tree | {"sweep": {"design": "epochs", "sizes": ["217M"], "epochs": [3]}}, "e"
            )
        )


@pytest.mark.parametrize("name", ["a/b", ".hidden"])
def test_a_variant_that_is_no_name_of_a_folder_is_refused(name):
    tree = {"sweep": {"design": "ablation"}, "variants": {name: {"train.lr": 1e-3}}}
    with pytest.raises(RecipeError, match=r"the variant .* needs a name without slashes"):
        sweep_from_tree(tree, "t")


@pytest.mark.parametrize("size", ["96x3", "107M"])
def test_a_size_that_is_none_says_what_can_be_written(size):
    tree = {"sweep": {"design": "epochs", "epochs": [1], "sizes": [size]}, "base": base()}
    with pytest.raises(RecipeError, match=rf"'{size}' is no size; .*epochal sizes.*\"96x3x3\""):
        made(tree)


def test_the_listing_says_which_runs_are_the_same():
    tree = {
        "sweep": {"design": "ablation"},
        "variants": {"a": {"train.lr": 1e-3}, "b": {"train.lr": 1e-3}, "c": {"train.lr": 2e-3}},
        "base": {"model": {"size": "7M"}, "train": {"steps": 4}, "data": {"corpus": "no/corpus"}},
    }
    notes = list_sweep(sweep_from_tree(tree, "t")).notes
    assert note(ListingNote.SAME_RUN, run="ar-b", other="ar-a") in notes
    assert sum(one.code == ListingNote.SAME_RUN for one in notes) == 1


def test_the_old_key_of_early_stopping_is_read_with_a_notice(capsys):
    tree = {"sweep": {"design": "epochs", "epochs": [1], "stop_hopeless": True}, "base": base()}
    assert sweep_from_tree(copy.deepcopy(tree), "t").early_stopping
    assert capsys.readouterr().err.count("sweep.early_stopping") == 1
    off = sweep_from_tree(copy.deepcopy(tree), "t", ["sweep.stop_hopeless=false"])
    assert not off.early_stopping

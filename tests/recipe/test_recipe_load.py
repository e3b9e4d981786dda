"""Recipes: defaults, mistakes in one sentence, and text that reads back as the same recipe."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import RecipeError
from epochal.families import family_names
from epochal.recipe import (
    Recipe,
    annotated_toml,
    find_recipe,
    key_docs,
    load_recipe,
    recipe_toml,
    recipe_tree,
)
from epochal.units import Interval

LEAST = {"train.steps": 10}


def reload(text, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def test_defaults_are_the_papers():
    recipe = load_recipe(None, LEAST)
    train = recipe.train
    assert (train.lr, train.min_lr, train.warmup, train.grad_clip) == (2e-4, 2e-5, 0.01, 1.0)
    assert (train.beta1, train.beta2, train.adam_eps) == (0.9, 0.95, 1e-8)
    assert (train.weight_decay, train.global_batch_size, train.schedule) == (0.1, 256, "cosine")
    assert (recipe.seed, recipe.objectives["mdm"].eps, recipe.objectives["mdm"].noise) == (
        1234,
        1e-3,
        "iid",
    )
    assert (recipe.model.norm_eps, recipe.model.rope_theta) == (1e-5, 10000)
    # The exception that schema.py states.
    assert train.attention_dropout == train.hidden_dropout == 0
    assert recipe.run_dir == "runs/run-ar"


def test_defaults_then_file_then_overrides(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('family = "mdm"\n[train]\nepochs = 3\nlr = 1e-3\n')
    recipe = load_recipe(path, ["train.lr=2e-3", "data.corpus=x/y"])
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.grad_clip) == (2e-3, 3, 1.0)
    assert recipe.data.corpus == "x/y"
    assert recipe.run_dir == "runs/mine-mdm"
    assert load_recipe(path, {"run_dir": "z"}).run_dir == "z"


def test_a_length_given_replaces_the_files(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[train]\nepochs = 3\n")
    train = load_recipe(path, ["train.tokens=5M"]).train
    assert (train.epochs, train.tokens) == (None, 5_000_000)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.epochs=20", 20),
        ("train.lr = 1e-3", 1e-3),
        ("data.corpus=my folder", "my folder"),
        ('data.corpus="12"', "12"),
        ("data.corpus=a=b", "a=b"),
        ("model.tie_embeddings=true", True),
        ("run_dir=None", None),
        ("train.flops=3e18", 3e18),
    ],
)
def test_override_syntax(text, value):
    from epochal.recipe.load import read_overrides

    key = text.partition("=")[0].strip()
    assert read_overrides([text]) == {key: value}


MISTAKES = [
    (["train.lrr=1"], "unknown recipe key `train.lrr`. Did you mean `train.lr`?"),
    (["epochs=2"], "unknown recipe key `epochs`. Did you mean `train.epochs`?"),
    (["modle.size=7M"], "unknown recipe key `modle`. Did you mean `model`?"),
    (["qqqq=1"], "unknown recipe key `qqqq`. `epochal recipe` lists all keys."),
    (["train.lr=fast"], "`train.lr` = 'fast': it should be a valid number"),
    (["train.lr=inf"], "`train.lr` = inf: it should be a finite number"),
    (
        ["train.global_batch_size=2.5"],
        "`train.global_batch_size` = 2.5: it should be a valid integer",
    ),
    (["train.global_batch_size=0"], "`train.global_batch_size` = 0: it should be greater than 0"),
    (
        ["train.global_batch_size=true"],
        "`train.global_batch_size` = true: it is not a true/false setting",
    ),
    (["data.corpus=3"], "`data.corpus` = 3: it should be a valid string"),
    (["model.tie_embeddings=7"], "`model.tie_embeddings` = 7: it should be a valid boolean"),
    (["family=bert"], "`family` = 'bert': it should be 'ar' or 'block' or 'dual' or"),
    (["eval.every=often"], "`eval.every` = 'often': 'often' is not an interval; write for"),
    (["eval.every=5 minutes"], "`eval.every` = '5 minutes' would differ from run to run"),
    (["data.unique_tokens=1.5"], "`data.unique_tokens` = 1.5: 1.5 is not a whole number"),
    (["train.min_lr=1"], "`train.min_lr` = 1 is above `train.lr` = 0.0002"),
    (["train.epochs=3"], "`train.epochs` and `train.steps` both set the length"),
    (["data=3"], "`data` is a section; write `data.<key> = …`"),
    (["seed.x=3"], "`seed` = {'x': 3}: it should be a valid integer"),
    (["uniform.shift=1"], "unknown recipe key `uniform.shift`. Did you mean `hybrid.shift`?"),
    (["dual.schedule=cosine"], "unknown recipe key `dual.schedule`. Did you mean `mdm.schedule`?"),
    (["mdm.window=[0.6,0.4]"], "`mdm.window` = [0.6, 0.4]: give the lowest and the highest mask"),
    (["mdm.window=[-0.1,1]"], "`mdm.window` = [-0.1, 1]: give the lowest and the highest mask"),
    (["mdm.window=[0.5,1.5]"], "`mdm.window` = [0.5, 1.5]: give the lowest and the highest mask"),
    (["mdm.softening=0.5"], "`mdm.softening` = 0.5 only counts with another schedule than linear"),
    (["mdm.span_length=4"], '`mdm.span_length` = 4 only counts with mask_unit = "span"; set that'),
    (["mdm.gaussian_std=0.1"], '`mdm.gaussian_std` = 0.1 only counts with schedule = "gaussian"'),
    (
        ["mdm.schedule=gaussian", "mdm.window=[0.9,1]", "mdm.gaussian_std=0.05"],
        "`mdm.gaussian_mean` = 0.2 with a standard deviation of 0.05 leaves nothing of the",
    ),
    (["mdm.mask_unit=span", "mdm.ar_ratio=0.5"], '`mdm.mask_unit` = "span" masks whole units, `'),
    (["mdm.window=[0,0.5]", "mdm.low_noise_start=true"], "`mdm.low_noise_start` = true is less"),
    (
        ["model.noise_conditioning=true"],
        "`model.noise_conditioning` = true is for the families hybrid and uniform; rows of ar",
    ),
    (["mdm.eps=0.1"], "`mdm.eps` is a setting of the family mdm, which ar does not have; leave"),
    (["just words"], "'just words' is not an override; write key=value"),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES)
def test_a_mistake_is_one_sentence(overrides, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, ["train.steps=10", *overrides])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_length_is_needed():
    with pytest.raises(RecipeError, match="the length of the run is missing: give one of"):
        load_recipe()


@pytest.mark.parametrize("key", ["train.epochs", "train.lr"])
def test_a_section_that_is_a_value(tmp_path, key):
    path = tmp_path / "r.toml"
    path.write_text("train = 5\n")
    with pytest.raises(RecipeError, match=f"`{key}`: `train` is a value, not a section"):
        load_recipe(path, {key: 1})


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"there is no recipe .*none\.toml; give a TOML file"):
        load_recipe(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[train\nepochs = 3")
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML: .*line 1"):
        load_recipe(bad)
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot read the recipe file"):
        load_recipe(bad)
    with pytest.raises(RecipeError, match="there is no recipe nowhere; give a TOML file"):
        find_recipe("nowhere")
    assert find_recipe(str(bad)) == bad


def test_every_key_is_documented_and_printed():
    text = annotated_toml()
    for key, meaning in key_docs().items():
        assert meaning, key
        name = key.rpartition(".")[2]
        assert f"\n{name} = " in f"\n{text}" or f"\n# {name} =" in text, key


def test_the_annotated_defaults_are_the_defaults(tmp_path):
    text = annotated_toml()
    recipe = reload(text.replace("# steps =", "steps = 10"), tmp_path)
    assert recipe == load_recipe(tmp_path / "r.toml", LEAST)
    assert dataclasses.replace(recipe, run_dir=None) == Recipe(train=recipe.train)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
SMALL = st.integers(1, 10**6)
EVERY = st.builds(
    Interval,
    st.floats(1e-9, 1e21),
    st.sampled_from(["steps", "tokens", "epochs", "flops", "percent"]),
)
RECIPES = st.fixed_dictionaries(
    {"train.steps": SMALL},
    optional={
        "family": st.sampled_from(["ar", "mdm"]),
        "seed": st.integers(0, 2**62),
        "run_dir": TEXT,
        "data.corpus": TEXT,
        "data.train": TEXT,
        "data.unique_tokens": st.integers(1, 2**62),
        "data.sequence_length": SMALL,
        "model.size": TEXT,
        "model.head_dim": SMALL,
        "model.tie_embeddings": st.booleans(),
        "model.rope_theta": st.floats(1e-3, 1e9),
        "mdm.noise": st.sampled_from(["iid", "stratified"]),
        "mdm.eps": st.floats(0, 0.999),
        "train.micro_batch_size": SMALL,
        "train.lr": st.floats(2e-5, 1e3),
        "train.schedule": st.sampled_from(["cosine", "linear", "constant"]),
        "train.device": TEXT,
        "train.deterministic": st.booleans(),
        "eval.every": EVERY,
        "eval.max_tokens": SMALL,
        "checkpoint.every": EVERY | st.builds(Interval, st.floats(0.1, 1e4), st.just("minutes")),
        "log.every": EVERY,
    },
)


@given(RECIPES)
def test_written_recipes_read_back_the_same(tmp_path_factory, changes):
    recipe = load_recipe(None, changes, family_names())
    folder = tmp_path_factory.getbasetemp()
    assert reload(recipe_toml(recipe), folder) == recipe
    assert reload(annotated_toml(recipe), folder) == recipe
    assert recipe_tree(recipe) == tomllib.loads(recipe_toml(recipe))

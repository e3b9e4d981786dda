"""A family that is registered later: its options and its defaults in recipes and identities."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest
from pydantic.dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.families import families, family_names, get_family, register, unregister
from epochal.families.family import OPTIONS_CONFIG, Share
from epochal.recipe import (
    Recipe,
    annotated_toml,
    identity,
    key_docs,
    load_recipe,
    recipe_from_tree,
    recipe_toml,
    recipe_tree,
)
from epochal.recipe.load import apply_overrides
from epochal.recipe.schema import Model, Train


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class SpiralOptions:
    """Options of a made-up family."""

    turns: int = 3
    """Turns of a row."""
    blur: Share = 0.0
    """Share of blurred tokens."""


BASE = {"train.steps": 10, "model.size": "7M"}
SPIRAL = BASE | {"family": "spiral"}
DEFAULTS = {"train.ema": 0.99, "train.lr": 1e-3, "eval.ema": True, "seed": 7}


def nested(values):
    """Dotted keys as a file has them."""
    tree = {}
    apply_overrides(tree, values)
    return tree


@pytest.fixture(autouse=True)
def spiral():
    known = get_family("ar")
    register(
        dataclasses.replace(
            known,
            name="spiral",
            title="spiral",
            short="SP",
            options=SpiralOptions,
            recipe_defaults=DEFAULTS,
            added_options=frozenset({"blur"}),
        )
    )
    yield
    unregister("spiral")


def test_its_options_are_keys_like_any_other():
    keys = key_docs()
    assert keys["spiral.turns"] == "Turns of a row."
    assert "spiral: spiral." in keys["family"]
    assert tomllib.loads(annotated_toml())["spiral"] == {"turns": 3, "blur": 0.0}
    recipe = load_recipe(None, SPIRAL | {"spiral.turns": 5})
    assert recipe.options == SpiralOptions(turns=5)
    assert tomllib.loads(recipe_toml(recipe))["spiral"]["turns"] == 5
    with pytest.raises(RecipeError, match=r"`spiral.turn`.*`spiral.turns`"):
        load_recipe(None, SPIRAL | {"spiral.turn": 5})
    with pytest.raises(RecipeError, match=r"`spiral.blur` = 2"):
        load_recipe(None, SPIRAL | {"spiral.blur": 2})


def test_a_recipe_made_in_python_is_the_one_from_a_file():
    made = Recipe(family="ar", train=Train(steps=10), model=Model(size="7M"))
    assert recipe_tree(made) == recipe_tree(
        dataclasses.replace(load_recipe(None, BASE), run_dir=None)
    )
    assert identity(made) == identity(load_recipe(None, BASE))


def test_its_defaults_lie_between_those_of_all_families_and_the_file(tmp_path):
    recipe = load_recipe(None, SPIRAL)
    assert (recipe.train.ema, recipe.train.lr, recipe.eval.ema, recipe.seed) == (
        0.99,
        1e-3,
        True,
        7,
    )
    other = load_recipe(None, BASE)
    assert (other.train.ema, other.train.lr, other.seed) == (0.0, 2e-4, 1234)
    file = tmp_path / "r.toml"
    file.write_text('family = "spiral"\n[train]\nsteps = 10\nlr = 3e-3\n[model]\nsize = "7M"\n')
    assert load_recipe(file).train.lr == 3e-3
    assert load_recipe(file, ["train.lr=4e-3"]).train.lr == 4e-3
    assert load_recipe(file, ["family=ar"]).train.ema == 0.0
    assert recipe_from_tree({"family": "spiral", "train": {"steps": 1}}).train.ema == 0.99


def test_a_written_recipe_reads_back_the_same(tmp_path):
    file = tmp_path / "r.toml"
    for changes in ({}, {"train.ema": 0.5}, {"train.ema": 0.0, "eval.ema": False}):
        recipe = load_recipe(None, SPIRAL | changes)
        for text in (recipe_toml(recipe), annotated_toml(recipe)):
            file.write_text(text)
            assert load_recipe(file) == recipe


def test_its_defaults_are_in_the_identity_and_other_families_keep_theirs():
    values = identity(load_recipe(None, SPIRAL))
    assert {key: values[key] for key in DEFAULTS} == DEFAULTS
    assert values["spiral.turns"] == 3
    assert "spiral.blur" not in values
    assert identity(load_recipe(None, SPIRAL | {"spiral.blur": 0.5}))["spiral.blur"] == 0.5
    plain = identity(load_recipe(None, BASE))
    assert not [key for key in plain if key.startswith("spiral.")]
    assert "train.ema" not in plain
    assert plain == identity(recipe_from_tree({**nested(BASE), "spiral": {"turns": 9}}))


def test_defaults_must_be_of_keys_that_have_one():
    unregister("spiral")
    register(
        dataclasses.replace(get_family("ar"), name="spiral", recipe_defaults={"train.steps": 5})
    )
    with pytest.raises(ValueError, match=r"spiral: train\.steps"):
        load_recipe(None, {"family": "spiral", "model.size": "7M"})


@pytest.mark.parametrize("family", family_names())
def test_an_override_for_another_family_is_refused_by_all_that_lack_it(family, tmp_path):
    own = BASE | {"family": family, "data.sequence_length": 64}
    for other in families():
        if other.options is None or other.name == family:
            continue
        first, *_ = other.options.__dataclass_fields__
        changes = {f"{other.name}.{first}": getattr(other.options(), first)}
        with pytest.raises(
            RecipeError, match=rf"`{other.name}\.{first}`.*give family={other.name}"
        ):
            load_recipe(None, own | changes)
        load_recipe(None, own | changes, [family, other.name])
        # What a file says of other families stays: one file is for many.
        file = tmp_path / "r.toml"
        file.write_text(recipe_toml(recipe_from_tree(nested(own | changes))))
        assert load_recipe(file).family == family


def test_options_are_checked_against_the_row():
    own = BASE | {"family": "block", "data.sequence_length": 24}
    with pytest.raises(RecipeError, match=r"`block.size` = 16 does not divide .*24.*is 12$"):
        load_recipe(None, own)
    assert load_recipe(None, own | {"block.size": 8}).options.size == 8
    load_recipe(None, own | {"family": "ar"})

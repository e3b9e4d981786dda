"""Recipes: the settings of an experiment, read from TOML and checked before anything runs."""

from epochal.recipe.load import (
    RecipeLike,
    annotated_toml,
    find_recipe,
    identity,
    key_docs,
    known_keys,
    load_recipe,
    recipe_from_tree,
    recipe_toml,
    recipe_tree,
)
from epochal.recipe.numbers import RunNumbers, run_numbers
from epochal.recipe.schema import Recipe

__all__ = [
    "Recipe",
    "RecipeLike",
    "RunNumbers",
    "annotated_toml",
    "find_recipe",
    "identity",
    "key_docs",
    "known_keys",
    "load_recipe",
    "recipe_from_tree",
    "recipe_toml",
    "recipe_tree",
    "run_numbers",
]

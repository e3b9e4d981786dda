"""`epochal recipe`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json, recipe_arguments, split_recipe


@click.command()
@recipe_arguments
@json_option
def recipe(recipe_and_overrides: tuple[str, ...], as_json: bool) -> None:
    """Print all recipe keys with their defaults and meanings, as TOML.

    With a RECIPE or KEY=VALUE, the values of that recipe, its family's defaults included.

    \b
    Examples:
      epochal recipe > my.toml
      epochal recipe quickstart train.epochs=20
    """
    from epochal.recipe import annotated_toml, key_docs, load_recipe, recipe_tree

    name, overrides = split_recipe(recipe_and_overrides)
    loaded = load_recipe(name, overrides) if name or overrides else None
    if not as_json:
        click.echo(annotated_toml(loaded), nl=False)
    elif loaded is None:
        print_json(key_docs())
    else:
        print_json(recipe_tree(loaded))

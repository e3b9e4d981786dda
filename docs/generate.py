"""Write the reference pages that follow from the code: docs/recipe.toml and docs/cli.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from epochal.cli.main import cli
from epochal.recipe import annotated_toml

HERE = Path(__file__).parent


def pages() -> dict[str, str]:
    """File name → content."""
    return {
        "recipe.toml": "# All recipe keys with their defaults. Written by `make docs`.\n\n"
        + annotated_toml(),
        "cli.md": "# Commands\n\nWritten by `make docs` from `--help`.\n\n" + "\n".join(_help()),
    }


def _help(
    command: click.Command = cli, name: str = "epochal", parent: click.Context | None = None
) -> Iterator[str]:
    settings = {**command.context_settings, "max_content_width": 90, "terminal_width": 90}
    context = click.Context(command, info_name=name.split()[-1], parent=parent, **settings)
    yield f"## {name}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _help(found, f"{name} {child}", context)


if __name__ == "__main__":
    for file, content in pages().items():
        (HERE / file).write_text(content, encoding="utf-8")
        print(HERE / file, file=sys.stderr)

"""How commands print: a short table for people, `--json` for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(
        command
    )


def recipe_arguments(command: Command) -> Command:
    """Add `[RECIPE] [KEY=VALUE]...`, read with `split_recipe`."""
    return click.argument("recipe_and_overrides", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")(
        command
    )


def split_recipe(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """(recipe or None, overrides): a first word without `=` is the recipe."""
    if words and "=" not in words[0]:
        return words[0], list(words[1:])
    return None, list(words)


def print_json(content: Any) -> None:
    """JSON on standard output."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def print_pairs(rows: Sequence[tuple[str, str]], title: str | None = None) -> None:
    """A two-column table on standard output."""
    table = Table(
        show_header=False, box=None, padding=(0, 2, 0, 0), title=title, title_justify="left"
    )
    table.add_column(style="bold")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table on standard output; the first `left` columns are flush left, the rest right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def console() -> Console:
    """Standard output; in a pipe or a log, lines are not cut at 80 columns."""
    plain = Console(highlight=False, markup=False)
    return plain if plain.is_terminal else Console(highlight=False, markup=False, width=120)

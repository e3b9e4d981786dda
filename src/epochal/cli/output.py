"""How commands print: a short table for people, `--json` for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

_NO_LIMIT = 10_000

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
    """JSON on standard output; JSON has no NaN and no infinity, so they become null."""
    click.echo(json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """A two-column table on standard output."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    _print(table)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table on standard output; the first `left` columns are flush left, the rest right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _print(table)


def _print(table: Table) -> None:
    """In a pipe or a log nothing is cut to a terminal's width, and no spaces are left at ends."""
    terminal = Console(highlight=False, markup=False)
    if terminal.is_terminal:
        terminal.print(table)
        return
    plain = Console(highlight=False, markup=False, width=_NO_LIMIT)
    with plain.capture() as captured:
        plain.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

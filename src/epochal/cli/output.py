"""How commands print: a short table for people, `--json` for programs."""

from __future__ import annotations

import contextlib
import json
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from epochal.progress import say
from epochal.results import to_json

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 92
_NO_LIMIT = 10_000

Command = TypeVar("Command", bound=Callable[..., Any])


_LOADING_SECONDS = 3.0


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


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around imports of torch: says so where they take long, as on a busy machine."""
    timer = threading.Timer(
        _LOADING_SECONDS, say, ["loading PyTorch; the first time takes longest"]
    )
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def print_json(content: Any) -> None:
    """A result as JSON on standard output (see `results.to_json`)."""
    click.echo(json.dumps(to_json(content), indent=2, ensure_ascii=False, allow_nan=False))


def print_paragraph(text: str) -> None:
    """A sentence on standard output, wrapped."""
    click.echo(textwrap.fill(text, WIDTH))


def print_note(text: str) -> None:
    """A sentence below a table, wrapped and set off by a dot; a deeper one starts with spaces."""
    indent = "      " if text.startswith("  ") else "    "
    first = indent[:-2] + "· "
    click.echo(textwrap.fill(text.strip(), WIDTH, initial_indent=first, subsequent_indent=indent))


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """A two-column table on standard output."""
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    _print(table)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table on standard output; the first `left` columns are flush left, the rest right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _print(table)


def _print(table: Table) -> None:
    """In a pipe or a log nothing is cut to a terminal's width, and no spaces are left at ends."""
    from rich.console import Console

    terminal = Console(highlight=False, markup=False)
    if terminal.is_terminal:
        terminal.print(table)
        return
    plain = Console(highlight=False, markup=False, width=_NO_LIMIT)
    with plain.capture() as captured:
        plain.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

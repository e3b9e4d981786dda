"""`epochal runs`."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from epochal.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from epochal.runs.listing import Sort
    from epochal.runs.record import Status
    from epochal.runs.summary import RunSummary

_QUIET_SECONDS = 600
_GAP = 2
_MAIN = ("run", "status", "family", "params", "unique", "epochs", "done", "best NLL")
_HEADER = (*_MAIN, "at step", "evaluated", "tok/s")
# Left out in this order where the terminal is too narrow.
_LEAST = ("at step", "unique", "tok/s", "params", "epochs", "evaluated", "family", "done")
_SORT = ("run", "nll", "flops", "epochs", "params", "progress", "speed")
_STATUS = ("running", "stopped", "diverged", "finished")


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@click.option(
    "--sort",
    type=click.Choice(_SORT),
    default="run",
    show_default=True,
    help="By folder, by NLL (lowest first), or by another column (largest first).",
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(_STATUS),
    help="Only runs of this status; repeatable.",
)
@click.option("--family", metavar="NAME", help="Only runs of this family.")
@json_option
def runs(
    folders: tuple[str, ...],
    sort: Sort,
    status: tuple[Status, ...],
    family: str | None,
    as_json: bool,
) -> None:
    """List runs and compare them: status, progress, NLL, speed, differing settings.

    Each FOLDER is a run or holds runs; `runs` if none is given. Runs in progress are listed, too.
    On a narrow terminal the less important columns are left out; --json has them all.

    \b
    Examples:
      epochal runs
      epochal runs --sort nll --status finished
      epochal runs runs/isoflop quickstart --json
    """
    from epochal.runs.listing import list_runs

    lines = list_runs(folders or ("runs",), sort=sort, status=status, family=family)
    if as_json:
        print_json(lines)
    elif not lines:
        click.echo("no such runs; leave out --status and --family to see the others")
    else:
        _print(lines, _width())


def _width() -> int | None:
    """Columns of the terminal; None where there is none, as in a pipe or a file."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


def _print(lines: Sequence[RunSummary], width: int | None) -> None:
    rows = [_cells(line) for line in lines]
    differing = [" ".join(f"{k}={_plain(v)}" for k, v in line.differs.items()) for line in lines]
    if width is None or _needed([*_HEADER, "differs in"], rows, differing) <= width:
        header, added = [*_HEADER], any(differing)
        if added:
            header.append("differs in")
        table = [
            [*row, settings][: len(header)] for row, settings in zip(rows, differing, strict=True)
        ]
        print_table(header, table, left=3)
        return
    shown = _columns(rows, width)
    _print_narrow(shown, rows, differing, width)


def _cells(line: RunSummary) -> list[str]:
    from epochal.units import format_count

    def count(value: float | None) -> str:
        return "–" if value is None else format_count(value)

    def nll(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    return [
        line.run,
        line.status + _quiet(line.seconds_since_update),
        line.family,
        count(line.params),
        count(line.unique_tokens),
        "–" if line.epochs is None else f"{line.epochs:.4g}",
        f"{100 * line.progress:.0f}%",
        nll(line.best_nll),
        "–" if line.best_step is None else f"{line.best_step:,}",
        nll(line.evaluated_nll),
        count(line.tokens_per_second),
    ]


def _needed(header: Sequence[str], rows: Sequence[Sequence[str]], last: Sequence[str]) -> int:
    """Columns that the whole table takes."""
    table = [header, *([*row, settings] for row, settings in zip(rows, last, strict=True))]
    return sum(max(map(len, column)) + _GAP for column in zip(*table, strict=True)) - _GAP


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indices of the columns that fit, without the run's name."""
    sizes = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    shown = list(range(1, len(_HEADER)))
    for name in _LEAST:
        if sum(sizes[place] + _GAP for place in shown) <= width:
            break
        shown.remove(_HEADER.index(name))
    return shown


def _print_narrow(
    shown: Sequence[int],
    rows: Sequence[Sequence[str]],
    differing: Sequence[str],
    width: int,
) -> None:
    """The name of a run on a line of its own, then its numbers, then the differing settings."""
    sizes = [max(len(_HEADER[place]), *(len(row[place]) for row in rows)) for place in shown]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cells[place].ljust(size)
            if _HEADER[place] in ("status", "family")
            else cells[place].rjust(size)
            for place, size in zip(shown, sizes, strict=True)
        ]
        return f"{' ' * _GAP}{(' ' * _GAP).join(parts)}".rstrip()

    click.echo(line(_HEADER))
    for row, settings in zip(rows, differing, strict=True):
        click.echo("\n".join(textwrap.wrap(row[0], width)))
        click.echo(line(row))
        if settings:
            indent = " " * 2 * _GAP
            folded = textwrap.wrap(
                settings,
                width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
            click.echo("\n".join(folded))


def _plain(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _quiet(seconds: float | None) -> str:
    """A run that has logged nothing for long may have been killed."""
    if seconds is None or seconds < _QUIET_SECONDS:
        return ""
    return f", no update for {seconds / 3600:.1f} h"

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
    from epochal.runs.find import Sort
    from epochal.runs.record import Status
    from epochal.runs.summary import RunSummary

_QUIET_SECONDS = 600
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
    from epochal.runs.find import list_runs

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
    from epochal.progress import table_width

    rows = [_cells(line) for line in lines]
    differing = [" ".join(f"{k}={_plain(v)}" for k, v in line.differs.items()) for line in lines]
    header = [*_HEADER, "differs in"]
    table = [[*row, settings] for row, settings in zip(rows, differing, strict=True)]
    if width is None or table_width([header, *table]) <= width:
        columns = len(header) if any(differing) else len(_HEADER)
        print_table(header[:columns], [row[:columns] for row in table], left=3)
    else:
        _print_narrow(rows, differing, width)


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


def _print_narrow(rows: Sequence[Sequence[str]], differing: Sequence[str], width: int) -> None:
    """The name of a run on a line of its own, then its numbers, then the differing settings."""
    from epochal.progress import COLUMN_GAP, fit_columns

    gap = " " * COLUMN_GAP
    numbers = [_HEADER[1:], *(row[1:] for row in rows)]
    shown = fit_columns(numbers, width - COLUMN_GAP, _LEAST)
    header, *kept = [[row[place] for place in shown] for row in numbers]
    sizes = [max(map(len, column)) for column in zip(header, *kept, strict=True)]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.ljust(size) if name in ("status", "family") else cell.rjust(size)
            for name, cell, size in zip(header, cells, sizes, strict=True)
        ]
        return f"{gap}{gap.join(parts)}".rstrip()

    click.echo(line(header))
    for row, cells, settings in zip(rows, kept, differing, strict=True):
        click.echo("\n".join(textwrap.wrap(row[0], width)))
        click.echo(line(cells))
        if settings:
            folded = textwrap.wrap(
                settings,
                width,
                initial_indent=2 * gap,
                subsequent_indent=2 * gap,
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

"""Measure how good `study`'s advice is: `python benchmarks/advice.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from advice_parts.grid import Extent
from advice_parts.record import (
    Record,
    budget_name,
    read_record,
    read_records,
    record_file,
    write_record,
)
from advice_parts.sources import SOURCES, Places
from advice_parts.stages import Cell, measure
from advice_parts.table import markdown
from advice_parts.texts import NotAvailable, chosen_sources, make_text
from epochal.cli.options import message_of
from epochal.cli.options import options as dataclass_options
from epochal.errors import EpochalError, OptionError, TrainingStopped, UserError
from epochal.options import option
from epochal.progress import say
from epochal.studies.options import LEAST_BUDGET
from epochal.units import parse_seconds

_HERE = Path(__file__).parent

_HELP = """How good the advice of `epochal study` is, on texts that this machine has.

\b
Texts (all that are not held out, if none is named):
{texts}

For each text and time: runs `study`; then a grid search of size, learning rate and weight decay
for each family with the same compute; writes one JSON record. What is finished is not done again,
so the same command resumes. A grid takes hours.

\b
Examples:
  python benchmarks/advice.py
  python benchmarks/advice.py builtin licences --budget 10min
  python benchmarks/advice.py --table
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and where it is kept."""

    budget: tuple[str, ...] = option(("10min", "20min"), metavar="TIME")
    """Time of a study, as for `epochal study`; may be repeated."""
    jobs: int = 2
    """Runs at a time, in studies and in grids."""
    bytes: int = 2_000_000
    """Size of a text, at most."""
    grid_sizes: int = 5
    """Sizes per family in the grid, around the recommended one."""
    grid_lr: tuple[float, ...] = option((0.5, 1.0, 2.0, 4.0), metavar="FACTOR")
    """Learning rate in the grid, as a multiple of the one that study gives the size; may be
    repeated."""
    grid_decay: tuple[float, ...] = option((0.1, 0.4, 1.6), metavar="DECAY")
    """Weight decay in the grid; may be repeated."""
    no_grid: bool = False
    """Only the studies: no regret, and no family to be right about. Without it the same command
    adds the grids."""
    work: Path = Path("runs/advice")
    """Folder for texts and runs."""
    records: Path = _HERE / "records"
    """Folder of the records."""

    def __post_init__(self) -> None:
        for name, least in (("jobs", 1), ("bytes", 100_000), ("grid_sizes", 1)):
            if getattr(self, name) < least:
                raise OptionError(name, getattr(self, name), f"should be at least {least:,}")
        for text, seconds in zip(self.budget, self.seconds, strict=True):
            if not seconds >= LEAST_BUDGET:
                raise OptionError("budget", text, f"give at least {LEAST_BUDGET:.0f}s")
        if not all(factor > 0 for factor in self.grid_lr):
            raise OptionError("grid_lr", self.grid_lr, "should be more than 0")
        if not all(decay >= 0 for decay in self.grid_decay):
            raise OptionError("grid_decay", self.grid_decay, "should be at least 0")

    @property
    def seconds(self) -> list[float]:
        """The budgets."""
        try:
            return [parse_seconds(text) for text in self.budget]
        except UserError as error:
            raise OptionError("budget", self.budget, str(error)) from None

    @property
    def extent(self) -> Extent | None:
        """How far a grid reaches; None for no grid."""
        if self.no_grid:
            return None
        return Extent(self.grid_sizes, self.grid_lr, self.grid_decay)


@click.command(
    help=_HELP.format(
        texts="\n".join(
            f"  {one.name:<9} {one.kind}{' (held out)' if one.held_out else ''}" for one in SOURCES
        )
    ),
    context_settings={"max_content_width": 100},
)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--held-out", is_flag=True, help="Look at the texts that are held out, too.")
@click.option("--texts-only", is_flag=True, help="Make the texts and say what is available.")
@click.option(
    "--kept-grid",
    is_flag=True,
    help="Plan for the compute of the grids in the records, and do not search again.",
)
@click.option("--table", is_flag=True, help="Print the records as Markdown; nothing is run.")
@dataclass_options(Options)
def main(
    texts: tuple[str, ...],
    held_out: bool,
    texts_only: bool,
    kept_grid: bool,
    table: bool,
    options: Options,
) -> None:
    """Measure the texts and budgets that are chosen."""
    problems = run(texts, options, held_out, texts_only, kept_grid, table)
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        raise SystemExit(1)


def run(
    names: tuple[str, ...],
    options: Options,
    held_out: bool = False,
    texts_only: bool = False,
    kept_grid: bool = False,
    table: bool = False,
) -> list[str]:
    """Do what is asked; what went wrong with single texts. Raises UserError for the choice."""
    sources = chosen_sources(names, held_out)
    if table:
        records = read_records(options.records, held_out, names)
        if not records:
            raise UserError(f"no records of these texts in {options.records}; leave out --table")
        click.echo(markdown(records))
        return []
    problems: list[str] = []
    for source in sources:
        folder = options.work / "texts" / source.name
        try:
            text = make_text(source, folder, options.bytes, Places())
        except NotAvailable as error:
            (problems.append if names else say)(str(error))
            continue
        if texts_only:
            click.echo(f"{text.name}: {text.kind}; {text.documents} documents, {text.bytes} bytes")
            continue
        for budget in options.seconds:
            place = options.work / f"{text.name}-{budget_name(budget)}"
            cell = Cell(text, folder, budget, place, options.jobs)
            path = record_file(options.records, text.name, budget)
            try:
                write_record(path, measure(cell, options.extent, _kept(path, kept_grid)))
                say(f"record: {path.name}")
            except TrainingStopped:
                raise
            except EpochalError as error:  # the other texts can still be measured
                problems.append(f"{text.name}, {budget_name(budget)}: {message_of(error)}")
    return problems


def _kept(path: Path, wanted: bool) -> Record | None:
    """The record whose grid is used again."""
    return read_record(path) if wanted else None


def command(words: Sequence[str] | None = None) -> None:
    """The command line; ends the process with 2 for bad input, as `epochal` does."""
    try:
        main(words)
    except EpochalError as error:
        click.echo(f"error: {message_of(error)}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    command()

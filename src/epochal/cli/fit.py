"""`epochal fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_note, print_table
from epochal.scaling.options import FitOptions

if TYPE_CHECKING:
    from epochal.scaling.result import FitReport

_MOST = 8


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="RUNS... | POINTS.csv")
@options(FitOptions)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Save the laws, .toml or .json, for `epochal plan --laws`.",
)
@json_option
def fit(sources: tuple[str, ...], options: FitOptions, out: Path | None, as_json: bool) -> None:
    """Fit a scaling law to each family of runs, with intervals and what is not identified.

    RUNS are run folders or folders that hold runs. A CSV has the columns params, tokens,
    unique_tokens, val_loss and, optionally, family, seed, run and setting.

    \b
    Examples:
      epochal fit runs/sweep --law auto --out law.toml
      epochal fit points.csv --law chinchilla --json
    """
    from epochal.scaling.fit import fit as run_fit

    report = run_fit(list(sources), options)
    if out is not None:
        report.save(out)
    if as_json:
        print_json(report)
        return
    _print_fit(report)
    if out is not None:
        click.echo(f"\nsaved: {out}")


def _print_fit(report: FitReport) -> None:
    """Tables and sentences, on standard output."""
    from epochal.families import get_family
    from epochal.report.text import describe
    from epochal.report.text.fit import choice_lines, choice_rows, constant_row, fit_lines

    for number, (family, fitted) in enumerate(report.families.items()):
        if number:
            click.echo("")
        click.echo(f"{get_family(family).title} ({family}): {fitted.form.formula}")
        click.echo(f"source of the form: {fitted.form.source}\n")
        if fitted.choice is not None:
            if fitted.choice.candidates:
                header = ["law", "constants", "held-out error", "AICc − lowest", ""]
                print_table(header, choice_rows(fitted.choice))
                click.echo("")
            for line in choice_lines(fitted.choice):
                print_note(line)
            click.echo("")
        print_table(
            ["constant", "value", "95 % interval", ""],
            [constant_row(fitted, name) for name in fitted.form.constants],
        )
        click.echo("")
        for line in fit_lines(fitted, _MOST):
            print_note(line)
    for reason in report.refused.values():
        print_note(f"refused: {reason}")
    for one in report.notes:
        print_note(describe(one))

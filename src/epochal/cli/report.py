"""`epochal report`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUNS...")
@click.option("--out", default="report.html", show_default=True, help="The page to write.")
@json_option
def report(runs: tuple[str, ...], out: str, as_json: bool) -> None:
    """One self-contained HTML page about some runs; it needs no network and no scripts.

    RUNS are run folders, or folders that hold runs. The page has the verdict, a table,
    validation loss against epochs and against compute, texts the models wrote, recipes and
    corpus. Runs that are not finished or not evaluated are shown as such.

    \b
    Examples:
      epochal report quickstart
      epochal report runs/a-ar runs/a-mdm --out a.html
    """
    from epochal.report import write_report

    made = write_report(runs, out)
    if as_json:
        print_json(made.as_dict())
        return
    for sentence in made.verdicts:
        click.echo(sentence)
    click.echo(f"\nReport on {len(made.runs)} run{'s' * (len(made.runs) != 1)}: {made.path}")

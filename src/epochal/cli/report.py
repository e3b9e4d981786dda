"""`epochal report`."""

from __future__ import annotations

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_paragraph
from epochal.report.options import ReportOptions


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUNS...")
@click.option("--out", default="report.html", show_default=True, help="The page to write.")
@options(ReportOptions)
@json_option
def report(runs: tuple[str, ...], out: str, options: ReportOptions, as_json: bool) -> None:
    """Write one self-contained HTML page about runs; it loads nothing from the network.

    RUNS are run folders, folders that hold runs, or archives of `epochal export records`. The page
    has the verdict, corpus, runs, validation loss against epochs and against compute, texts the
    models wrote, and recipes.
    Of a sweep it also has isoFLOP curves, loss over size and epochs, the value of repetition,
    the quality of the fit, and the plan. Runs that are not finished or not evaluated are shown
    as such.

    \b
    Examples:
      epochal report quickstart
      epochal report runs/a-ar runs/a-mdm --out a.html
      epochal report runs/my-sweep --figures pdf --flops 1e18
    """
    from epochal.report import write_report
    from epochal.report.text.comparison import verdict
    from epochal.report.text.format import count

    written = write_report(runs, out, options)
    if as_json:
        print_json(written)
        return
    for found in written.verdicts:
        print_paragraph(verdict(found))
    if written.figures:
        click.echo(f"\nFigures: {len(written.figures)} files in {written.figures[0].parent}")
    click.echo(f"\nReport on {count(len(written.runs), 'run')}: {written.path}")

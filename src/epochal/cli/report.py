"""`epochal report`."""

from __future__ import annotations

import textwrap

import click

from epochal.cli.compare import WIDTH
from epochal.cli.output import json_option, print_json
from epochal.units import parse_number


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUNS...")
@click.option("--out", default="report.html", show_default=True, help="The page to write.")
@click.option(
    "--figures",
    metavar="FORMAT",
    multiple=True,
    type=click.Choice(["pdf", "svg", "png"]),
    help="Also write each figure (pdf, svg or png) and its numbers (CSV) into a folder beside "
    "the page; may be given several times.",
)
@click.option(
    "--law",
    help="Law to fit where there are five runs of a family or more; auto: chosen by evidence.  "
    "[default: data-constrained]",
)
@click.option(
    "--flops", metavar="COUNT", help="Budget to plan for.  [default: the largest of any run]"
)
@json_option
def report(
    runs: tuple[str, ...],
    out: str,
    figures: tuple[str, ...],
    law: str | None,
    flops: str | None,
    as_json: bool,
) -> None:
    """One self-contained HTML page about some runs; it loads nothing from elsewhere.

    RUNS are run folders, or folders that hold runs. The page has the verdict, corpus, runs,
    validation loss against epochs and against compute, texts the models wrote, and recipes.
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
    from epochal.report.text.format import count
    from epochal.report.text.page import describe_verdict

    budget = None if flops is None else parse_number(flops)
    written = write_report(runs, out, law=law, flops=budget, figures=figures)
    if as_json:
        print_json(written)
        return
    for verdict in written.verdicts:
        click.echo(textwrap.fill(describe_verdict(verdict), WIDTH))
    if written.figures:
        click.echo(f"\nFigures: {len(written.figures)} files in {written.figures[0].parent}")
    click.echo(f"\nReport on {count(len(written.runs), 'run')}: {written.path}")

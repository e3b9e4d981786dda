"""`epochal quality`."""

from __future__ import annotations

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_table
from epochal.evaluation.options import QualityOptions


@click.command()
@click.argument("run")
@click.option(
    "--judge", required=True, metavar="RUN", help="A run of another family, or RUN@CHECKPOINT."
)
@options(QualityOptions)
@json_option
def quality(run: str, judge: str, options: QualityOptions, as_json: bool) -> None:
    """Measure the quality of a run's texts for several numbers of steps per text.

    The judge's NLL of the texts, how varied they are, and how often they repeat themselves,
    beside the same numbers for real text. Saved in the run's folder.

    \b
    Example:
      epochal quality quickstart/mdm --judge quickstart/ar --steps 1,4,16,64
    """
    from epochal.evaluation.quality import quality as judged
    from epochal.report.text.tasks import describe_quality, quality_cells

    result = judged(run, judge, options)
    if as_json:
        print_json(result)
        return
    header = ["steps", "NLL", "±", "distinct-1", "distinct-2", "repetition", "tokens", "tokens/s"]
    reference = [] if result.reference is None else [result.reference]
    print_table(header, [quality_cells(row) for row in [*result.rows, *reference]])
    click.echo(describe_quality(result))

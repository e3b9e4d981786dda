"""`epochal quality`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_table
from epochal.evaluation.options import QualityOptions

if TYPE_CHECKING:
    from epochal.evaluation.quality import QualityRow


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

    result = judged(run, judge, options)
    if as_json:
        print_json(result)
        return
    header = ["steps", "NLL", "±", "distinct-1", "distinct-2", "repetition", "tokens", "tokens/s"]
    reference = [] if result.reference is None else [result.reference]
    print_table(header, [_cells(row) for row in [*result.rows, *reference]])
    click.echo(
        f"{result.family} ({result.order}, temperature {result.temperature:g}), judged by "
        f"{result.judge} ({result.judge_family}), {result.samples} texts each"
    )


def _cells(row: QualityRow) -> list[str]:
    """Steps, NLL, ±, distinct-1, distinct-2, repetition, tokens, tokens per second."""
    return [
        "real text" if row.steps is None else f"{row.steps:,}",
        f"{row.nll_nats_per_token:.3f}",
        "–" if row.standard_error is None else f"{row.standard_error:.3f}",
        f"{row.distinct_1:.3f}",
        f"{row.distinct_2:.3f}",
        f"{row.repetition:.3f}",
        f"{row.tokens:,}",
        "–" if not row.seconds else f"{row.tokens / row.seconds:,.0f}",
    ]

"""`epochal study`."""

from __future__ import annotations

import re
import textwrap

import click

from epochal.cli.output import WIDTH, json_option, print_json

_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


@click.command()
@click.argument("text", required=False, metavar="[TEXT]")
@click.option("--budget", default="20min", show_default=True, help="Wall time: 20min, 2h, 600s.")
@click.option("--out", default="study", show_default=True, help="Folder for all that is made.")
@click.option("--flops", metavar="C", help="Compute to plan for.  [default: that of the check]")
@click.option("--jobs", type=int, help="Runs at a time.  [default: 2 on a CPU, one per GPU]")
@click.option("--tokenizer", help="As of data prepare.  [default: bpe, by the text's size]")
@json_option
def study(
    text: str | None,
    budget: str,
    out: str,
    flops: str | None,
    jobs: int | None,
    tokenizer: str | None,
    as_json: bool,
) -> None:
    """From a text and a time to a decision: which family, what size, how many epochs.

    Prepares TEXT (a file or a folder; the built-in text if not given), measures this machine,
    trains a sweep of small models of both families on subsets of the text, fits scaling laws,
    plans, trains what it recommends as a check, and writes a report. The budget is wall time over
    all sittings: the same command goes on where it was ended, and is then not repeated.

    \b
    Examples:
      epochal study
      epochal study my_text/ --budget 2h --out mine
      epochal study my_text/ --budget 1h --flops 1e17
    """
    from epochal.studies.study import study as run
    from epochal.units import parse_number

    result = run(
        text,
        budget=parse_seconds(budget),
        out=out,
        flops=None if flops is None else parse_number(flops),
        jobs=jobs,
        tokenizer=tokenizer,
    )
    if as_json:
        print_json(result.as_dict())
        return
    click.echo(textwrap.fill(result.verdict, WIDTH))
    click.echo(textwrap.fill(result.recommendation, WIDTH))
    click.echo("")
    for check in result.checks:
        mark = {True: "✓", False: "!", None: "·"}[check.held]
        text = check.text if check.held is not False else f"Warning: {check.text}"
        indent = f"  {mark} "
        click.echo(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent="    "))
    for note in result.notes:
        click.echo(textwrap.fill(note, WIDTH, initial_indent="  · ", subsequent_indent="    "))
    click.echo(f"\nReport: {result.page}  ({result.seconds / 60:.1f} minutes used)")


def parse_seconds(text: str) -> float:
    """`20min`, `2h`, `600s` → seconds. Raises UserError."""
    from epochal.errors import UserError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)\s*", text)
    if not match or float(match[1]) <= 0:
        raise UserError(f"--budget {text!r} is no time; write 20min, 2h or 600s")
    return float(match[1]) * _SECONDS[match[2]]

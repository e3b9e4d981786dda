"""`epochal average`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import click

from epochal.cli.output import json_option, print_json


@dataclass(frozen=True, slots=True)
class Averaged:
    """A run whose weights are a mean."""

    run: str
    """Its folder."""
    average_of: list[str]
    """RUN@STEP of each checkpoint."""


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN[@CHECKPOINT]...")
@click.option("--out", required=True, help="Folder of the new run.")
@click.option("--last", type=int, help="Only the newest N checkpoints of the run.")
@json_option
def average(runs: tuple[str, ...], out: str, last: int | None, as_json: bool) -> None:
    """Make a run whose weights are the mean of several checkpoints' weights.

    From one run, all of its checkpoints or the newest (keep more with `checkpoint.keep` and
    `checkpoint.keep_every`); from several, the best of each, or RUN@CHECKPOINT. Models that were
    trained from different initial weights have no meaningful mean: combine them with
    `epochal eval A B --ensemble`.

    \b
    Examples:
      epochal average quickstart/mdm --last 3 --out runs/mdm-average
      epochal average runs/a@1000 runs/a@1200 --out runs/a-average
    """
    from epochal.evaluation.ensemble import average as make

    record = make(runs, out, last)
    members = record.info["average_of"]
    if as_json:
        print_json(Averaged(str(record.path), members))
        return
    click.echo(f"{record.path}: the mean of {len(members)} checkpoints ({', '.join(members)})")
    click.echo(f"Next: epochal eval {shlex.quote(str(record.path))}")

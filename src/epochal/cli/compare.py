"""`epochal compare`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epochal.cli.output import json_option, print_json, print_table, split_recipe

if TYPE_CHECKING:
    from epochal.comparison import Comparison

WIDTH = 92
"""Sentences are wrapped at so many columns."""


@click.command()
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]... | RUN RUN...")
@click.option("--out", help="Folder for the runs.  [default: runs/<recipe's name>]")
@click.option("--draws", type=int, help="Mask draws per row for diffusion.  [default: 8]")
@click.option("--restart", is_flag=True, help="Start anew; old runs are put aside.")
@json_option
def compare(
    words: tuple[str, ...], out: str | None, draws: int | None, restart: bool, as_json: bool
) -> None:
    """Train both families on the same unique tokens under equal settings, and say which won.

    Given run folders instead of a recipe, compares runs that are there already: at least one
    of each family, on the same corpus.

    \b
    Examples:
      epochal compare quickstart data.corpus=corpus train.epochs=40
      epochal compare quickstart/ar quickstart/mdm
    """
    runs = [word for word in words if "=" not in word and (Path(word) / "run.json").exists()]
    if runs and len(runs) == len(words):
        from epochal.studies.compare import compare_existing

        comparison = compare_existing(runs, draws=draws)
    else:
        from epochal.studies.compare import compare as train_both

        recipe, overrides = split_recipe(words)
        comparison = train_both(recipe, overrides, out=out, draws=draws, restart=restart)
    if as_json:
        print_json(comparison.as_dict())
    else:
        print_comparison(comparison)


def print_comparison(comparison: Comparison) -> None:
    """The table, the verdict and its notes, on standard output."""
    from epochal.units import format_count

    header = ["run", "family", "params", "FLOPs", "epochs", "best NLL", "±", "bits/byte"]
    header += ["best at epoch", "risen since"]
    rows = [
        [
            run.name,
            run.family,
            format_count(run.params),
            format_count(run.flops),
            f"{run.epochs:.1f}",
            f"{run.nll:.3f}",
            f"{run.standard_error:.3f}",
            f"{run.bits_per_byte:.3f}" if run.bits_per_byte else "–",
            f"{run.best_epoch:.1f}",
            f"{run.rise_since_best:.3f}",
        ]
        for run in comparison.runs
    ]
    print_table(header, rows, left=2)
    click.echo(f"\n{textwrap.fill(comparison.verdict, WIDTH)}\n")
    for note in comparison.notes:
        click.echo(textwrap.fill(note, WIDTH, initial_indent="  · ", subsequent_indent="    "))

"""`epochal compare` and `epochal quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import (
    json_option,
    print_json,
    print_note,
    print_paragraph,
    print_table,
    split_recipe,
)
from epochal.studies.options import CompareOptions

if TYPE_CHECKING:
    from epochal.comparison import Comparison


@click.command()
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]... | RUN RUN...")
@options(CompareOptions)
@json_option
def compare(words: tuple[str, ...], options: CompareOptions, as_json: bool) -> None:
    """Train families on the same unique tokens under equal settings; print which learned more.

    Given run folders instead of a recipe, compares these existing runs: two families or more, on
    the same corpus.

    \b
    Examples:
      epochal compare quickstart data.corpus=corpus train.epochs=40
      epochal compare quickstart/ar quickstart/mdm
    """
    runs = [word for word in words if "=" not in word and (Path(word) / "run.json").exists()]
    if runs and not any("=" in word for word in words):
        from epochal.studies.compare import compare_existing

        others = [word for word in words if word not in runs]
        for word in others:
            if not Path(word).exists():
                raise click.UsageError(f"there is no run folder {word}")
        if others:  # the shell gives them for quickstart/*
            click.echo(f"left out, since they are no runs: {', '.join(others)}", err=True)
        refuse(("out", "families", "restart"), "has no effect on runs that exist; leave it out")
        comparison = compare_existing(runs, draws=options.draws)
    else:
        from epochal.studies.compare import compare as train_all

        recipe, overrides = split_recipe(words)
        comparison = train_all(recipe, overrides, options)
    if as_json:
        print_json(comparison)
    else:
        _print_comparison(comparison)


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--text", metavar="PATH", help="Your own text: a file or a folder.")
@click.option("--out", default="quickstart", show_default=True, help="Folder of the results.")
@json_option
def quickstart(overrides: tuple[str, ...], text: str | None, out: str, as_json: bool) -> None:
    """Train and compare all families on a built-in text, and write a report, in a few minutes.

    The text is the documentation that comes with Python, or your own with --text: in a folder
    each file is a document, a single file is cut at blank lines. KEY=VALUE changes the shipped
    recipe `quickstart`. The same command again resumes; finished work is not repeated.

    \b
    Examples:
      epochal quickstart
      epochal quickstart --text my_text/ --out mine
      epochal quickstart train.epochs=80 --out longer
    """
    from epochal.studies.quickstart import quickstart as run

    result = run(text, overrides, out=out)
    if as_json:
        print_json(result)
        return
    _print_comparison(result.comparison)
    click.echo(f"\nReport: {result.report}  (open it in a browser)")


def _print_comparison(comparison: Comparison) -> None:
    """The table, the verdict and its notes, on standard output."""
    from epochal.report.text import describe
    from epochal.report.text.comparison import verdict
    from epochal.units import format_count

    header = ["run", "family", "params", "FLOPs", "epochs", "best NLL", "±", "bits/byte"]
    header += ["best at epoch", "risen since"]
    rows = [
        [
            run.name,
            run.family,
            format_count(run.params or 0),
            format_count(run.flops_spent),
            f"{run.epochs_seen:.1f}",
            f"{run.nll:.3f}",
            f"{run.evaluated_error:.3f}",
            f"{run.bits_per_byte:.3f}" if run.bits_per_byte else "–",
            "–" if run.best_epoch is None else f"{run.best_epoch:.1f}",
            "–" if run.rise_since_best is None else f"{run.rise_since_best:.3f}",
        ]
        for run in comparison.runs
    ]
    print_table(header, rows, left=2)
    click.echo()
    print_paragraph(verdict(comparison))
    click.echo()
    for note in comparison.notes:
        print_note(f"{describe(note)}.")

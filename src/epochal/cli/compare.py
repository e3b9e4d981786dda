"""`epochal compare` and `epochal quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import (
    json_option,
    loading,
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
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]... | RUN RUN... | FOLDER")
@options(CompareOptions)
@json_option
def compare(words: tuple[str, ...], options: CompareOptions, as_json: bool) -> None:
    """Train families on the same unique tokens under equal settings; print which learned more.

    Given run folders instead of a recipe, or folders that hold runs such as a sweep's, compares
    these existing runs: two families or more, on the same corpus. Runs that differ in the seed
    alone count as one, with their mean and spread.

    \b
    Examples:
      epochal compare quickstart data.corpus=corpus train.epochs=40
      epochal compare quickstart --families ar,dual data.corpus=corpus
      epochal compare quickstart/ar quickstart/mdm
      epochal compare runs/epochs --pairs fast_eval
    """
    from epochal.runs.find import find_runs

    folders = [word for word in words if "=" not in word and Path(word).is_dir()]
    runs = [word for word in folders if find_runs([word], needed=False)]
    if runs and not any("=" in word for word in words):
        from epochal.studies.compare import compare_existing

        others = [word for word in words if word not in runs]
        for word in others:
            if not Path(word).exists():
                raise click.UsageError(f"there is no run folder {word}")
        if others:  # the shell gives them for quickstart/*
            click.echo(f"left out, since they are no runs: {', '.join(others)}", err=True)
        refuse(
            ("out", "families", "restart", "jobs"), "has no effect on runs that exist; leave it out"
        )
        comparison = compare_existing(runs, draws=options.draws, pairs=options.pairs)
    else:
        with loading():
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
    with loading():
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
    from epochal.report.text.comparison import family_tables, missing_values, verdict

    for head, rows in family_tables(comparison):
        print_table(head, rows)
        click.echo()
    print_paragraph(verdict(comparison))
    click.echo()
    for note in comparison.notes:
        print_note(f"{describe(note)}.")
    for text in missing_values(comparison):
        print_note(f"{text}.")

"""`epochal study`."""

from __future__ import annotations

import textwrap

import click

from epochal.cli.options import options
from epochal.cli.output import WIDTH, json_option, print_json, print_note, print_paragraph
from epochal.studies.options import StudyOptions

_MARKS = {True: "✓", False: "!", None: "·"}


@click.command()
@click.argument("text", required=False, metavar="[TEXT]")
@options(StudyOptions)
@json_option
def study(text: str | None, options: StudyOptions, as_json: bool) -> None:
    """Given a text and a time budget: run probes, fit laws, recommend a model.

    Prepares TEXT (a file or a folder; Python's documentation if not given), measures this
    machine, trains a sweep of small models of each family on subsets of the text, fits scaling
    laws, plans, trains what it recommends as a check, and writes a report. The budget is wall
    time over all sessions: the same command resumes, and finished runs are not repeated.

    \b
    Examples:
      epochal study
      epochal study my_text/ --budget 2h --out mine
      epochal study my_text/ --budget 1h --flops 1e17
    """
    from epochal.report.text.study import check_texts, note_texts, recommendation, verdict
    from epochal.studies.study import study as run

    result = run(text, options)
    if as_json:
        print_json(result)
        return
    print_paragraph(verdict(result))
    print_paragraph(recommendation(result))
    click.echo("")
    for held, line in check_texts(result):
        warning = "Warning: " if held is False else ""
        indent = f"  {_MARKS[held]} "
        click.echo(
            textwrap.fill(
                f"{warning}{line}", WIDTH, initial_indent=indent, subsequent_indent="    "
            )
        )
    for line in note_texts(result):
        print_note(line)
    click.echo(f"\nReport: {result.report}  ({result.seconds / 60:.1f} minutes used)")

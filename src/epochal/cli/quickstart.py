"""`epochal quickstart`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json


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
    from epochal.cli.compare import print_comparison
    from epochal.studies.quickstart import quickstart as run

    result = run(text, overrides, out=out)
    if as_json:
        print_json(result)
        return
    print_comparison(result.comparison)
    click.echo(f"\nReport: {result.report}  (open it in a browser)")

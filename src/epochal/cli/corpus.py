"""`epochal data duplicates`."""

from __future__ import annotations

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_note, print_paragraph, print_table
from epochal.data.options import DuplicateOptions


@click.command()
@click.argument("store")
@click.option("--tokenizer", help="Knows the lines.  [default: tokenizer.json beside the store]")
@options(DuplicateOptions)
@json_option
def duplicates(store: str, tokenizer: str | None, options: DuplicateOptions, as_json: bool) -> None:
    """Measure how many of the unique tokens are unique, and what leaks into validation.

    STORE is a path without .bin, or a corpus folder for its training store, which is compared
    with its validation store, too. Counted are equal and near documents, passages that stood
    earlier, and lines of many documents; what is left is U_effective, which `epochal plan
    --corpus --effective` takes for the unique tokens. The result is kept beside the store and
    read from there until its tokens or the options change.

    \b
    Examples:
      epochal data duplicates corpus
      epochal data duplicates corpus --similarity 0.7 --passage 100
    """
    from epochal.data.duplicates import measure_duplicates
    from epochal.report.text import data as text

    result = measure_duplicates(store, options, tokenizer=tokenizer)
    if as_json:
        print_json(result)
        return
    print_table(["repeated", "documents", "tokens", "share", "±"], text.duplicates(result))
    first, *rest = text.effective(result)
    click.echo("")
    print_paragraph(first)
    for line in rest:
        print_note(line)

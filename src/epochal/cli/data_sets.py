"""`epochal data names` and `epochal data download`: the paper's data."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json, print_table


@click.command()
@json_option
def names(as_json: bool) -> None:
    """List the paper's training sets: documents, tokens, and what they were for.

    \b
    Example:
      epochal data names
    """
    from epochal.data.names import NAMED_SETS

    sets = list(NAMED_SETS.values())
    if as_json:
        print_json([one.as_dict() for one in sets])
        return
    print_table(
        ["name", "documents", "tokens", "used for"],
        [[one.name, f"{one.documents:,}", f"{one.tokens:,}", one.use] for one in sets],
    )
    click.echo("\nOne corpus of the first documents of C4 holds all smaller sets: see")
    click.echo("epochal data subset --help")


@click.command()
@click.argument("name")
@click.option("--out", metavar="FOLDER", help="Where to put it.  [default: NAME, with - for :]")
@click.option("--documents", type=click.IntRange(min=1), metavar="K", help="The first K documents.")
@click.option("--unique-tokens", metavar="U", help="Enough documents for U tokens, for a cut.")
@click.option("--text", is_flag=True, help="The text, where tokens are published.")
@click.option("--repo", metavar="REPOSITORY", help="Another place on the hub, or a local folder.")
@json_option
def download(
    name: str,
    out: str | None,
    documents: int | None,
    unique_tokens: str | None,
    text: bool,
    repo: str | None,
    as_json: bool,
) -> None:
    """Bring the paper's data here from the Hugging Face hub.

    NAME is gpt2 (the tokenizer), c4:100M (a corpus of the published tokens with C4's validation
    set), c4-validation, slimpajama-validation, any name of `epochal data names`, or c4 or
    slimpajama with --documents or --unique-tokens. All but the first three come as text, in the
    order of the source, for `epochal data prepare`.

    Files are checked against the hub's sums. The same command goes on where one ended.

    \b
    Examples:
      epochal data download c4:100M --out c4-100M
      epochal data download gpt2
      epochal data download c4 --unique-tokens 30M --out c4-text
    """
    from epochal.data.download import download as run
    from epochal.units import parse_count

    found = run(
        name,
        out or name.replace(":", "-"),
        documents=documents,
        unique_tokens=None if unique_tokens is None else parse_count(unique_tokens),
        text=text,
        repo=repo,
    )
    if as_json:
        print_json(found.as_dict())
        return
    there = "is there already" if found.already_there else "is there"
    count = "" if found.documents is None else f", {found.documents:,} documents"
    count += "" if found.unique_tokens is None else f", {found.unique_tokens:,} tokens"
    click.echo(f"{found.name} {there}: {found.what} in {found.folder}{count}")
    click.echo(f"\nNext: {found.next}")

"""`epochal data canaries`."""

from __future__ import annotations

from pathlib import Path

import click

from epochal.cli.numbers import numbers
from epochal.cli.output import json_option, print_json


@click.command()
@click.option("--out", default="canaries", show_default=True, help="Folder to write.")
@click.option("--count", type=int, default=16, show_default=True, help="How many secrets.")
@click.option(
    "--copies", callback=numbers, default="1", show_default=True, metavar="N,...",
    help="How often each is put in, in turn; 0 makes a control that is not put in.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def canaries(out: str, count: int, copies: tuple[int, ...], seed: int, as_json: bool) -> None:
    """Made-up secrets to be put into a training text, so that what a model remembers can be
    measured with `epochal memorise --canaries`.

    \b
    Examples:
      epochal data canaries --out canaries --copies 0,1,4,16
      epochal data prepare my_text/ canaries/canaries.jsonl --out corpus
    """
    from epochal.data.canaries import KEY_FILE, TEXT_FILE, write_canaries

    made = write_canaries(out, count, copies, seed)
    documents = sum(canary.copies for canary in made)
    plural = "document" if documents == 1 else "documents"
    text, key = Path(out) / TEXT_FILE, Path(out) / KEY_FILE
    if as_json:
        print_json({"text": str(text), "key": str(key), "count": count, "documents": documents})
        return
    click.echo(f"{text}: {documents:,} {plural} to be prepared together with your text")
    click.echo(f"{key}: the key, for `epochal memorise --canaries {out}`; keep it out of the text")

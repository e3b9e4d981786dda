"""`epochal data duplicates` and `report`: what a corpus holds; `tokenizers`: what suits it."""

from __future__ import annotations

import shlex

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_note, print_paragraph, print_table
from epochal.data.options import DuplicateOptions, TokenizersOptions


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


@click.command()
@click.argument("corpus")
@click.option("--out", default="corpus.html", show_default=True, help="The page to write.")
@click.option(
    "--samples",
    default=5,
    show_default=True,
    type=click.IntRange(min=0),
    help="Number of documents whose beginning is shown.",
)
@options(DuplicateOptions)
@json_option
def report(corpus: str, out: str, samples: int, options: DuplicateOptions, as_json: bool) -> None:
    """Write one self-contained HTML page about a corpus; it loads nothing from the network.

    It has the lengths of the documents, what is repeated and what leaks (as `epochal data
    duplicates` measures it), the passages that most documents repeat, scripts, odd documents, how
    the tokenizer fits, and samples.

    \b
    Example:
      epochal data report corpus --out corpus.html
    """
    from epochal.report.corpus import write_corpus_report

    written = write_corpus_report(corpus, out, options, samples=samples)
    if as_json:
        print_json(written)
        return
    share = written.effective / written.unique_tokens
    click.echo(f"{written.unique_tokens:,} unique tokens, of which {share:.1%} are not repeated")
    click.echo(f"Report on the corpus: {written.path}")


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="TEXT...")
@options(TokenizersOptions)
@json_option
def tokenizers(inputs: tuple[str, ...], options: TokenizersOptions, as_json: bool) -> None:
    """Compare vocabularies for a small text, and recommend one.

    Bytes, characters, BPEs of 512 to 16,384 tokens as far as the text gives them, and GPT-2's if
    it was fetched before. TEXT is what `prepare` takes.

    \b
    Examples:
      epochal data tokenizers book.txt
      epochal data tokenizers my_text/ --params 10M
      epochal data tokenizers my_text/ --runs runs
    """
    from epochal.data.vocabularies import compare_tokenizers
    from epochal.report.text import data as text

    found = compare_tokenizers(inputs, options)
    if as_json:
        print_json(found)
        return
    print_table(
        ["tokenizer", "tokens", "bytes/token", "table", "seen < 10 times", ""],
        [
            [
                each.name,
                f"{each.tokens:,}",
                f"{each.bytes_per_token:.2f}",
                f"{each.table_share:.0%}",
                f"{each.rare:,} of {each.size:,}",
                "recommended" if each.name == found.recommended else "" if each.fits else "no",
            ]
            for each in found.vocabularies
        ],
        left=1,
    )
    click.echo("\n" + text.recommendation(found))
    if found.measured:
        click.echo("")
        print_table(
            ["measured with", "family", "runs", "bits/byte", "best run", "validation bytes"],
            [
                [
                    *(one.tokenizer, one.family, str(one.runs), f"{one.bits_per_byte:.4f}"),
                    *(one.best, f"{one.validation_bytes:,}"),
                ]
                for one in found.measured
            ],
            left=2,
        )
        click.echo("\n" + text.measured_vocabularies(found))
    prepared = shlex.join(["epochal", "data", "prepare", *inputs, "--out", "corpus"])
    click.echo(f"\nNext: {prepared} --tokenizer {found.recommended}")

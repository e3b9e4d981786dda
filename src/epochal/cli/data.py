"""`epochal data`: prepare, subset, inspect, verify; `data_sets` has names and download."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from epochal.cli.canaries import canaries
from epochal.cli.data_pairs import description_pairs
from epochal.cli.data_sets import download, names
from epochal.cli.output import json_option, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from epochal.data import PreparedCorpus, TokenStore


@click.group()
def data() -> None:
    """From text to token stores, and what is in them.

    A corpus folder holds the stores `train` and `validation` and their tokenizer. A store is
    the pair .bin/.idx that Megatron reads and writes, with a .json beside it that says which
    tokenizer made it and from what.

    \b
    A way to begin:
      epochal data prepare my_text/ --out corpus
      epochal data inspect corpus
      epochal data subset corpus corpus-1M --unique-tokens 1M
    """


@data.command()
@click.argument("inputs", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="Corpus folder to make.")
@click.option(
    "--tokenizer",
    default="bpe:8192",
    show_default=True,
    help="bpe:SIZE is trained on the training text. Or: bytes, gpt2, a tokenizer.json, or a "
    "folder with tokenizer.json or with vocab.json and merges.txt.",
)
@click.option(
    "--validation",
    type=float,
    metavar="SHARE",
    help="Share of the text held out, by whole documents; 0 for none.  [default: 0.05]",
)
@click.option(
    "--validation-inputs",
    multiple=True,
    metavar="INPUT",
    help="A validation text of your own instead; may be given several times.",
)
@click.option(
    "--documents",
    type=click.Choice(["file", "line", "blank-line"]),
    default="file",
    show_default=True,
    help="What one document is in a plain text file: the file, a line, or a paragraph.",
)
@click.option(
    "--text-field",
    default="text",
    show_default=True,
    help="Key (JSON lines) or column (Parquet) that holds the text.",
)
@click.option(
    "--end-of-document",
    metavar="TOKEN",
    help="Token that ends documents, if the tokenizer's has an unusual name.",
)
@click.option("--drop-duplicates", is_flag=True, help="Keep one of documents with equal text.")
@click.option(
    "--invalid-utf8",
    type=click.Choice(["error", "replace"]),
    default="error",
    show_default=True,
    help="What to do with bytes that are not UTF-8; replace puts U+FFFD.",
)
@click.option(
    "--seed", default=1234, show_default=True, help="Decides which documents are held out."
)
@click.option(
    "--shuffle",
    type=int,
    metavar="SEED",
    help="Put the training documents into a random order, so that a cut to fewer tokens is a "
    "fair sample.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace another corpus in the folder.")
@json_option
def prepare(
    inputs: tuple[str, ...],
    out: str,
    validation_inputs: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Turn text into a corpus: tokenise it, and hold a validation set out.

    INPUTS are files, folders (searched for .txt .md .rst .tex .text .jsonl .parquet, text and
    JSON also .gz or .zst), or `builtin`, the documentation that comes with Python. A row of
    JSON lines or Parquet is a document; of plain text, see --documents.

    The split is by document and depends on the seed alone. Training documents with the same
    text as a validation document are left out and counted. The same command again finds the
    corpus made and does nothing. Say --shuffle 1 if you will train on fewer tokens than there
    are, and the text comes sorted: a cut takes the first documents.

    \b
    Examples:
      epochal data prepare builtin --out corpus --tokenizer bpe:2048
      epochal data prepare book.txt --out corpus --documents blank-line
      epochal data prepare c4/*.json.gz --out corpus --tokenizer gpt2
      epochal data prepare train.parquet --out corpus --text-field content \\
          --validation-inputs validation.parquet
    """
    from epochal.data import prepare as run

    made = run(inputs, out, validation_inputs=validation_inputs or None, **options)
    if as_json:
        print_json(_corpus_facts(made))
        return
    _print_stores(made)
    tokenizer = made.tokenizer
    click.echo(f"tokenizer {tokenizer.name}: {tokenizer.vocabulary:,} tokens, in {made.folder}")
    click.echo(f"\nNext: epochal data inspect {shlex.quote(str(made.folder))}")


@data.command()
@click.argument("source")
@click.argument("out_argument", metavar="[OUT]", required=False)
@click.option("--out", help="The same as OUT.  [default: SOURCE-U]")
@click.option("--unique-tokens", metavar="U", help="For example 100k or 10M.")
@click.option("--name", metavar="SET", help="A set of the paper instead, like c4:100M.")
@click.option(
    "--like-paper",
    is_flag=True,
    help="Cut as the paper does: the first U / tokens per document documents, whole.",
)
@click.option(
    "--tokens-per-document",
    type=float,
    help="For --like-paper: 478.625835 for C4.  [default: the store's mean]",
)
@click.option("--overwrite", is_flag=True, help="Replace what is in OUT.")
@json_option
def subset(
    source: str,
    out_argument: str | None,
    out: str | None,
    unique_tokens: str | None,
    name: str | None,
    like_paper: bool,
    tokens_per_document: float | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Cut a corpus or a store to a budget of unique tokens.

    Takes whole documents in order and cuts the last one to hit U exactly, so a larger subset
    begins with a smaller one. From a corpus folder it makes a corpus folder with the same
    validation set and tokenizer; from a store (a path without .bin) a store.

    To train on fewer tokens you need no subset: data.unique_tokens=1M in a recipe does the
    same without a copy.

    \b
    Examples:
      epochal data subset corpus corpus-100k --unique-tokens 100k
      epochal data subset c4_text_document c4_100M --name c4:100M
      epochal data subset c4_text_document c4_1M --unique-tokens 1M --like-paper \\
          --tokens-per-document 478.625835
    """
    from epochal.data import subset as run
    from epochal.units import parse_count

    if out and out_argument:
        raise click.UsageError(f"OUT is given twice, as {out_argument} and as --out {out}")
    if (unique_tokens is None) == (name is None):
        raise click.UsageError("give one of --unique-tokens, for example 10M, and --name")
    if unique_tokens is None:
        place = out or out_argument or f"{source.rstrip('/')}-{name}".replace(":", "-")
        if like_paper or tokens_per_document is not None:
            raise click.UsageError("--name says how to cut; leave --like-paper and the mean out")
        _subset_named(source, place, str(name), overwrite, as_json)
        return
    store = run(
        source,
        out or out_argument or f"{source.rstrip('/')}-{unique_tokens}",
        parse_count(unique_tokens),
        like_paper=like_paper,
        tokens_per_document=tokens_per_document,
        overwrite=overwrite,
    )
    if as_json:
        print_json(_store_facts(store))
        return
    print_table(_HEADER, [_store_row(store)])
    click.echo(f"in {store.prefix.parent}")


def _subset_named(source: str, place: str, name: str, overwrite: bool, as_json: bool) -> None:
    from epochal.data.names import subset_named

    store, wanted = subset_named(source, place, name, overwrite=overwrite)
    same = store.unique_tokens == wanted.tokens
    if as_json:
        print_json(_store_facts(store) | {"paper": wanted.as_dict(), "same_tokens": same})
        return
    print_table(_HEADER, [_store_row(store)])
    click.echo(f"in {store.prefix.parent}")
    verdict = "as here" if same else "so text or tokenizer are not its own"
    click.echo(f"the paper counts {wanted.tokens:,} tokens in {wanted.name}, {verdict}")


@data.command()
@click.argument("store")
@click.option(
    "--tokenizer", help="Decodes the samples.  [default: tokenizer.json beside the store]"
)
@click.option(
    "--samples",
    default=3,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many documents to show the beginning of.",
)
@click.option("--seed", default=1234, show_default=True, help="Decides which documents are shown.")
@json_option
def inspect(store: str, tokenizer: str | None, samples: int, seed: int, as_json: bool) -> None:
    """Show what a store holds: passport, lengths of documents, samples.

    STORE is a path without .bin, or a corpus folder for its training store.

    \b
    Examples:
      epochal data inspect corpus
      epochal data inspect corpus/validation --samples 10
      epochal data inspect c4_text_document --tokenizer gpt2
    """
    from epochal.data import inspect as run

    found = run(store, tokenizer=tokenizer, samples=samples, seed=seed)
    if as_json:
        print_json(found.as_dict())
        return
    print_pairs(description_pairs(found))
    click.echo("")
    most = max(bin.documents for bin in found.lengths)
    print_table(
        ["tokens per document", "", "documents", "tokens"],
        [
            [
                f"{bin.shortest:,} to {bin.longest:,}",
                "*" * -(-_WIDEST_BAR * bin.documents // most),
                f"{bin.documents:,}",
                f"{bin.tokens:,}",
            ]
            for bin in found.lengths
        ],
        left=2,
    )
    for sample in found.samples:
        click.echo(f"\ndocument {sample.document:,}, {sample.tokens:,} tokens:")
        click.echo(sample.text if sample.text is not None else "(name a --tokenizer to read it)")


@data.command()
@click.argument("store")
@click.option("--tokenizer", help="Checks the ids.  [default: tokenizer.json beside the store]")
@json_option
def verify(store: str, tokenizer: str | None, as_json: bool) -> None:
    """Check a store, or both stores of a corpus folder, against passport and tokenizer.

    Reads and hashes everything again; checks that ids are in the vocabulary, that each document
    ends with its mark, and that no document is in both stores. Exit code 2 if a check fails.

    \b
    Examples:
      epochal data verify corpus
      epochal data verify c4_text_document --tokenizer gpt2
    """
    from epochal.data import verify as run
    from epochal.errors import DataError

    findings = run(store, tokenizer=tokenizer)
    if as_json:
        names = ("store", "check", "ok", "detail")
        print_json([{name: getattr(finding, name) for name in names} for finding in findings])
    else:
        for finding in findings:
            outcome = "ok" if finding.ok else "FAILED"
            click.echo(f"{outcome:<6}  {finding.store}: {finding.check} ({finding.detail})")
    failed = [finding for finding in findings if not finding.ok]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(findings)} checks of {store} failed, first: {failed[0].check} "
            f"({failed[0].detail})"
        )


data.add_command(canaries)
data.add_command(download)
data.add_command(names)

_WIDEST_BAR = 40
_HEADER = ["store", "unique tokens", "documents", "text bytes", "bytes/token"]


def _store_row(store: TokenStore) -> list[str]:
    text = store.passport.text_bytes if store.passport else None
    return [
        store.prefix.name,
        f"{store.unique_tokens:,}",
        f"{store.documents:,}",
        "not known" if text is None else f"{text:,}",
        "not known" if text is None else f"{text / store.unique_tokens:.3f}",
    ]


def _print_stores(made: PreparedCorpus) -> None:
    stores = [made.train, *([made.validation] if made.validation else [])]
    print_table(_HEADER, [_store_row(store) for store in stores])


def _store_facts(store: TokenStore) -> dict[str, Any]:
    return {
        "prefix": str(store.prefix),
        "unique_tokens": store.unique_tokens,
        "documents": store.documents,
        "text_bytes": store.passport.text_bytes if store.passport else None,
        "content_sha256": store.content_sha256(),
    }


def _corpus_facts(made: PreparedCorpus) -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "already_there": made.already_there,
        "train": _store_facts(made.train),
        "validation": _store_facts(made.validation) if made.validation else None,
        "tokenizer": {
            "name": made.tokenizer.name,
            "kind": made.tokenizer.kind,
            "vocabulary": made.tokenizer.vocabulary,
            "sha256": made.tokenizer.sha256,
        },
    }

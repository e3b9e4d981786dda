"""`epochal data`: from text to token stores, and the paper's data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epochal.cli.corpus import duplicates, report, tokenizers
from epochal.cli.options import options, refuse
from epochal.cli.output import json_option, print_json, print_pairs, print_table
from epochal.data.options import DownloadOptions, PrepareOptions, SubsetOptions

if TYPE_CHECKING:
    from epochal.data.store import TokenStore

_WIDEST_BAR = 40
_HEADER = ["store", "unique tokens", "documents", "text bytes", "bytes/token"]


@click.group()
def data() -> None:
    """From text to token stores, and what is in them.

    A corpus folder holds the stores `train` and `validation` and their tokenizer. A store is
    the pair .bin/.idx that Megatron reads and writes, with a .json beside it: its metadata,
    such as the tokenizer that made it and its sources.

    \b
    To begin:
      epochal data prepare my_text/ --out corpus
      epochal data inspect corpus
      epochal data subset corpus corpus-1M --unique-tokens 1M
    """


data.add_command(duplicates)
data.add_command(report)
data.add_command(tokenizers)


@data.command()
@click.argument("inputs", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FOLDER", help="Corpus folder to make.")
@options(PrepareOptions)
@json_option
def prepare(inputs: tuple[str, ...], out: str, options: PrepareOptions, as_json: bool) -> None:
    """Turn text into a corpus: tokenise it, and hold out a validation set.

    INPUTS are files and folders of plain text, JSON, Parquet, Arrow (also as `datasets` saves it),
    CSV, WARC, zip or tar, packed or not; hf://OWNER/NAME/PATH of the hub; or `builtin`,
    the documentation of Python. A row of a table is a document; of plain text, see --documents.

    The split is by document and depends on the seed alone. Training documents with the same
    text as a validation document are left out and counted. The same command again finds the
    existing corpus and does nothing. Add --shuffle 1 if you will train on fewer tokens than there
    are, and the text is sorted: a cut takes the first documents.

    \b
    Examples:
      epochal data prepare builtin --out corpus --tokenizer bpe:2048
      epochal data prepare book.txt --out corpus --documents blank-line
      epochal data prepare c4/*.json.gz --out corpus --tokenizer gpt2
      epochal data prepare train.parquet --out corpus --text-field content \\
          --validation-inputs validation.parquet
    """
    from epochal.data.inspection import summarize_corpus
    from epochal.data.prepare import prepare as run
    from epochal.progress import say
    from epochal.report.text import describe

    corpus = run(inputs, out, options)
    for note in corpus.notes:
        say(describe(note))
    if as_json:
        print_json(summarize_corpus(corpus))
        return
    print_table(_HEADER, [_store_row(store) for store in corpus.stores])
    tokenizer = corpus.tokenizer
    click.echo(f"tokenizer {tokenizer.name}: {tokenizer.vocabulary:,} tokens, in {corpus.folder}")
    click.echo(f"\nNext: epochal data inspect {shlex.quote(str(corpus.folder))}")


@data.command()
@click.argument("source")
@click.argument("out_argument", metavar="[OUT]", required=False)
@click.option("--out", help="The same as OUT.  [default: SOURCE-U]")
@click.option("--unique-tokens", metavar="U", help="For example 100k or 10M.")
@click.option("--name", metavar="SET", help="A set of the paper instead, like c4:100M.")
@options(SubsetOptions)
@json_option
def subset(
    source: str,
    out_argument: str | None,
    out: str | None,
    unique_tokens: str | None,
    name: str | None,
    options: SubsetOptions,
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
    from epochal.data.inspection import summarize_subset
    from epochal.data.paper_sets import paper_set, paper_subset
    from epochal.data.subset import subset as run
    from epochal.units import parse_count

    if out and out_argument:
        raise click.UsageError(f"OUT is given twice, as {out_argument} and as --out {out}")
    if (unique_tokens is None) == (name is None):
        raise click.UsageError("give one of --unique-tokens, for example 10M, and --name")
    amount = str(unique_tokens or name).replace(":", "-")
    place = out or out_argument or f"{source.rstrip('/')}-{amount}"
    if unique_tokens is not None:
        wanted = None
        store = run(source, place, parse_count(unique_tokens), options)
    else:
        refuse(["like_paper", "tokens_per_document"], "cannot be used with --name, which has both")
        wanted = paper_set(str(name))
        store = paper_subset(source, place, wanted.name, overwrite=options.overwrite)
    summary = summarize_subset(store, wanted)
    if as_json:
        print_json(summary)
        return
    print_table(_HEADER, [_store_row(store)])
    click.echo(f"in {store.prefix.parent}")
    if wanted is not None:
        verdict = "as here" if summary.same_tokens else "so the text or the tokenizer differs"
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
    help="Number of documents whose beginning is shown.",
)
@click.option("--seed", default=1234, show_default=True, help="Decides which documents are shown.")
@json_option
def inspect(store: str, tokenizer: str | None, samples: int, seed: int, as_json: bool) -> None:
    """Show what a store holds: metadata, lengths of documents, samples.

    STORE is a path without .bin, or a corpus folder for its training store.

    \b
    Examples:
      epochal data inspect corpus
      epochal data inspect corpus/validation --samples 10
      epochal data inspect c4_text_document --tokenizer gpt2
    """
    from epochal.data.inspection import inspect as run
    from epochal.report.text import data as text
    from epochal.report.text import describe

    result = run(store, tokenizer=tokenizer, samples=samples, seed=seed)
    if as_json:
        print_json(result)
        return
    notes = [("note", describe(note)) for note in result.notes]
    print_pairs([*text.description(result), *notes])
    click.echo("")
    most = max(bin.documents for bin in result.lengths)
    print_table(
        ["tokens per document", "", "documents", "tokens"],
        [
            [
                f"{bin.shortest:,} to {bin.longest:,}",
                "*" * -(-_WIDEST_BAR * bin.documents // most),
                f"{bin.documents:,}",
                f"{bin.tokens:,}",
            ]
            for bin in result.lengths
        ],
        left=2,
    )
    for sample in result.samples:
        click.echo(f"\ndocument {sample.document:,}, {sample.tokens:,} tokens:")
        click.echo(sample.text if sample.text is not None else "(name a --tokenizer to read it)")


@data.command()
@click.argument("store")
@click.option("--tokenizer", help="Checks the ids.  [default: tokenizer.json beside the store]")
@click.option("--fix", is_flag=True, help="First repair what can be, and say what is lost.")
@json_option
def verify(store: str, tokenizer: str | None, fix: bool, as_json: bool) -> None:
    """Check a store, or both stores of a corpus folder, against metadata and tokenizer.

    Reads and hashes everything again; checks that ids are in the vocabulary, that each document
    ends with its end-of-document token, and that no document is in both stores. Exit code 2 if a
    check fails.

    --fix makes a missing or damaged index again from the ids, and keeps the whole documents of ids
    that were cut off. Ids that were changed cannot be repaired.

    \b
    Examples:
      epochal data verify corpus
      epochal data verify c4_text_document --tokenizer gpt2
      epochal data verify corpus --fix
    """
    from epochal.data.inspection import verify as run
    from epochal.errors import DataError
    from epochal.report.text import data as text

    findings = run(store, tokenizer=tokenizer, fix=fix)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            outcome = "ok" if finding.ok else "FAILED"
            check, detail = text.finding(finding)
            click.echo(f"{outcome:<6}  {finding.store}: {check} ({detail})")
    failed = [finding for finding in findings if not finding.ok]
    if failed:
        check, detail = text.finding(failed[0])
        count = f"{len(failed)} of {len(findings)} checks of {store} failed"
        raise DataError(f"{count}, first: {check} ({detail}){'' if fix else '; see --fix'}")


def _numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """`8,16,32` → (8, 16, 32), as an option's callback."""
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a list of whole numbers, like 8,16,32"
        ) from None


@data.command()
@click.option("--out", default="canaries", show_default=True, help="Folder to write.")
@click.option("--count", type=int, default=16, show_default=True, help="Number of secrets.")
@click.option(
    "--copies", callback=_numbers, default="1", show_default=True, metavar="N,...",
    help="Number of copies of each, in turn; 0 makes a control that is not put in.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def canaries(out: str, count: int, copies: tuple[int, ...], seed: int, as_json: bool) -> None:
    """Made-up secrets to put into a training text, so that `epochal memorise --canaries` can
    measure what a model remembers.

    \b
    Examples:
      epochal data canaries --out canaries --copies 0,1,4,16
      epochal data prepare my_text/ canaries/canaries.jsonl --out corpus
    """
    from epochal.data.canaries import KEY_FILE, TEXT_FILE, CanaryFiles, write_canaries
    from epochal.report.text.format import count as counted

    documents = sum(canary.copies for canary in write_canaries(out, count, copies, seed))
    text, key = Path(out) / TEXT_FILE, Path(out) / KEY_FILE
    if as_json:
        print_json(CanaryFiles(text=text, key=key, count=count, documents=documents))
        return
    click.echo(f"{text}: {counted(documents, 'document')} to prepare together with your text")
    click.echo(f"{key}: the key, for `epochal memorise --canaries {out}`; keep it out of the text")


@data.command()
@click.argument("name")
@click.option("--out", metavar="FOLDER", help="Folder to write.  [default: NAME, with - for :]")
@options(DownloadOptions)
@json_option
def download(name: str, out: str | None, options: DownloadOptions, as_json: bool) -> None:
    """Download the paper's data from the Hugging Face hub.

    NAME is gpt2 (the tokenizer), c4:100M (a corpus of the published tokens with C4's validation
    set), c4-validation, slimpajama-validation, any name of `epochal data names`, or c4 or
    slimpajama with --documents or --unique-tokens. All but the first three come as text, in the
    order of the source, for `epochal data prepare`.

    Files are checked against the hub's hashes. The same command resumes where one ended.

    \b
    Examples:
      epochal data download c4:100M --out c4-100M
      epochal data download gpt2
      epochal data download c4 --unique-tokens 30M --out c4-text
    """
    from epochal.data.download import download as run

    result = run(name, out or name.replace(":", "-"), options)
    if as_json:
        print_json(result)
        return
    folder = result.folder
    counts = "" if result.documents is None else f", {result.documents:,} documents"
    counts += "" if result.unique_tokens is None else f", {result.unique_tokens:,} tokens"
    existed = " (already downloaded)" if result.already_existed else ""
    click.echo(f"{result.name}: {result.kind} in {folder}{counts}{existed}")
    next_steps = {
        "corpus": f"epochal data inspect {folder}",
        "store": f"a recipe's data.validation={folder}/validation",
        "tokenizer": f"epochal data prepare TEXT --out corpus --tokenizer {folder}",
        "text": f"epochal data prepare {folder} --out {folder}-corpus --tokenizer gpt2",
    }
    click.echo(f"\nNext: {next_steps[result.kind]}")


@data.command()
@json_option
def names(as_json: bool) -> None:
    """List the paper's training sets: documents, tokens, and what they were used for.

    \b
    Example:
      epochal data names
    """
    from epochal.data.paper_sets import PAPER_SETS

    sets = list(PAPER_SETS.values())
    if as_json:
        print_json(sets)
        return
    rows = []
    for each in sets:
        use = "many epochs"
        if each.flops is not None:
            flops = f"{each.flops:.0e}".replace("e+", "e")
            use = f"data value: {each.size}, {flops} FLOPs, {each.epochs} ep"
        rows.append([each.name, f"{each.documents:,}", f"{each.tokens:,}", use])
    print_table(["name", "documents", "tokens", "used for"], rows)
    click.echo("\nA corpus of the first documents of C4 holds all smaller sets: see")
    click.echo("epochal data subset --help")


def _store_row(store: TokenStore) -> list[str]:
    text = store.metadata.text_bytes if store.metadata else None
    return [
        store.prefix.name,
        f"{store.unique_tokens:,}",
        f"{store.documents:,}",
        "not known" if text is None else f"{text:,}",
        "not known" if text is None else f"{text / store.unique_tokens:.3f}",
    ]

"""Cut a store to a budget of unique tokens: the U of the experiments."""

from __future__ import annotations

import dataclasses
import math
import shutil
from fractions import Fraction
from pathlib import Path

from epochal import files
from epochal.data.corpus import (
    TOKENIZER,
    TRAIN,
    VALIDATION,
    Corpus,
    is_prepared,
    refuse_foreign,
    refuse_foreign_store,
)
from epochal.data.metadata import StoreMetadata
from epochal.data.options import SubsetOptions
from epochal.data.store import Tokens, TokenStore, store_prefix, suffixed
from epochal.data.store_writer import StoreWriter, remove_store
from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError, NamedOption, OptionError
from epochal.progress import bar, say

_CHUNK = 1 << 20
_PROGRESS_EVERY = 256


def subset(
    source: str | Path,
    out: str | Path,
    unique_tokens: int,
    options: SubsetOptions | None = None,
) -> TokenStore:
    """The store `out` with the first `unique_tokens` tokens of the store `source`.

    Whole documents in order, and of the last one what is missing to hit the number exactly.
    With `like_paper`, instead, the first K documents whole, K being U / tokens per document
    (the store's own mean if not given), which only comes near U. Subsets are nested: a larger
    one begins with a smaller one.

    If `source` is a corpus folder, so will `out` be, with the same validation set and
    tokenizer; the training store is returned. Raises DataError if there are too few tokens, or
    if `out` holds something else unless `overwrite`.
    """
    options = options or SubsetOptions()
    if unique_tokens < 1:
        raise OptionError("unique_tokens", unique_tokens, "give a number from 1 on")
    if is_prepared(Path(source)):
        return _subset_of_corpus(source, Path(out), unique_tokens, options)
    whole, prefix = TokenStore.open(source), store_prefix(out)
    view, mean = _cut(whole, unique_tokens, options)
    if prefix.resolve() == whole.prefix.resolve():
        raise DataError(f"{prefix} is the store itself; give another place for the subset")
    if not options.overwrite:
        if _already_exists(view, prefix):
            return TokenStore.open(prefix)
        refuse_foreign_store(prefix)
    with StoreWriter(prefix, view.tokens.dtype) as writer:
        _copy_documents(view, writer)
        return writer.commit(_metadata(whole, view, mean, _tokenizer_beside(whole), writer))


def _subset_of_corpus(
    source: str | Path, folder: Path, unique_tokens: int, options: SubsetOptions
) -> TokenStore:
    corpus, whole = Corpus.open(source), TokenStore.open(Path(source) / TRAIN)
    view, mean = _cut(whole, unique_tokens, options)
    if folder.resolve() == corpus.folder.resolve():
        raise DataError(f"{folder} is the corpus itself; give another folder for the subset")
    if not options.overwrite:
        if _already_exists(view, folder / TRAIN):
            return TokenStore.open(folder / TRAIN)
        refuse_foreign(folder)
    with StoreWriter(folder / TRAIN, view.tokens.dtype) as writer:
        _copy_documents(view, writer)
        metadata = _metadata(whole, view, mean, corpus.tokenizer, writer)
        remove_store(folder / TRAIN)  # the corpus exists when its training store does
        remove_store(folder / VALIDATION)
        if corpus.validation_store is not None:
            _copy_store(corpus.validation_store, folder / VALIDATION)
        with files.atomic_path(folder / TOKENIZER) as temporary:
            shutil.copyfile(corpus.folder / TOKENIZER, temporary)
        return writer.commit(metadata)


def _tokenizer_beside(store: TokenStore) -> Tokenizer | None:
    """The tokenizer.json beside a store if by its metadata it made the store."""
    path = store.prefix.parent / TOKENIZER
    facts = store.metadata.tokenizer if store.metadata else None
    if facts is None or not path.is_file():
        return None
    tokenizer = load_tokenizer(path)
    return tokenizer if tokenizer.sha256 == facts.sha256 else None


def _cut(
    whole: TokenStore, unique_tokens: int, options: SubsetOptions
) -> tuple[TokenStore, float | None]:
    """The view that was asked for, and the mean by which the paper's rule chose it, if it did."""
    if not options.like_paper:
        if unique_tokens > whole.unique_tokens:
            raise DataError(
                NamedOption("unique_tokens", f"{unique_tokens:,}"),
                f" but the store {whole.prefix} holds "
                f"{whole.unique_tokens:,} tokens; lower it or prepare more text",
            )
        return whole.first(unique_tokens), None
    # A Fraction, since U / (tokens / documents) in floating point can miss a whole number.
    mean = Fraction(whole.unique_tokens, max(1, whole.documents))
    if options.tokens_per_document is not None:
        mean = Fraction(options.tokens_per_document)
    documents = paper_documents(unique_tokens, mean)
    if documents > whole.documents:
        raise DataError(
            f"{unique_tokens:,} tokens at {float(mean):.6f} per document are {documents:,} "
            f"documents, but the store {whole.prefix} holds {whole.documents:,} "
            f"({whole.unique_tokens:,} tokens); lower the number or prepare more text"
        )
    return whole.first(int(whole.document_starts[documents])), float(mean)


def paper_documents(unique_tokens: int, tokens_per_document: Fraction) -> int:
    """Number of documents, one at least, that the paper takes for `unique_tokens`.

    The nearest whole number. The README of arXiv 2507.15857's code says "rounded up", but its
    figures for 100M tokens, with which its files were cut, are 208,931 of 208,931.47 for C4
    (478.625835 per document) and 94,513 of 94,512.84 for SlimPajama (1058.057342).
    """
    return max(1, math.floor(unique_tokens / tokens_per_document + Fraction(1, 2)))


def _already_exists(view: TokenStore, prefix: Path) -> bool:
    """Whether `prefix` is this subset. Raises DataError if it is another store."""
    index = suffixed(prefix, ".idx")
    if not index.exists():
        return False
    if TokenStore.open(prefix).content_sha256 == view.content_sha256:
        say(f"{prefix} already holds this subset")
        return True
    raise DataError(
        f"{index} already exists; choose another place, or replace it with ",
        NamedOption("overwrite"),
    )


def _copy_documents(view: TokenStore, writer: StoreWriter) -> None:
    with bar("Copying", view.documents) as progress:
        for number in range(view.documents):
            writer.add(view.document(number))
            if number % _PROGRESS_EVERY == 0:
                progress.update(number)


def _metadata(
    whole: TokenStore,
    view: TokenStore,
    mean: float | None,
    tokenizer: Tokenizer | None,
    writer: StoreWriter,
) -> StoreMetadata:
    written = writer.finish()
    before = whole.metadata or StoreMetadata(unique_tokens=0, documents=0)
    is_whole = view.unique_tokens == whole.unique_tokens
    truncated = view.unique_tokens not in whole.document_starts
    warn_unshuffled_subset(view.metadata)
    cut = before.cut(
        unique_tokens=written.unique_tokens,
        documents=written.documents,
        truncated=before.truncated_last_document if is_whole else truncated,
        parent=whole.as_parent(mean),
    )
    return dataclasses.replace(
        cut,
        content_sha256=written.content_sha256,
        index_sha256=written.index_sha256,
        text_bytes=before.text_bytes if is_whole else text_bytes(view.tokens, tokenizer),
    )


def warn_unshuffled_subset(metadata: StoreMetadata | None) -> None:
    """Warn if a cut took the first documents of several files, so the first files alone."""
    if metadata is None or metadata.parent is None or metadata.shuffled is not None:
        return
    parent, sources = metadata.parent, metadata.sources
    if metadata.unique_tokens >= parent.unique_tokens:
        return
    # The built-in text, which records its interpreter, is in a random order by itself.
    if sources is None or sources.files < 2 or sources.listed[0].interpreter is not None:
        return
    plural = "s" if parent.documents > 1 else ""
    say(
        f"using the first {metadata.documents:,} of {parent.documents:,} document{plural} from "
        f"{sources.files:,} files in their order; if the files differ this is not a "
        "representative sample, prepare with `--shuffle 1`"
    )


def text_bytes(tokens: Tokens, tokenizer: Tokenizer | None) -> int | None:
    """UTF-8 bytes of the tokens' text without end-of-document tokens; None if not byte-level."""
    lengths = tokenizer.token_byte_lengths if tokenizer is not None else None
    if lengths is None:
        return None
    pieces = (tokens[first : first + _CHUNK] for first in range(0, len(tokens), _CHUNK))
    return sum(int(lengths[piece].sum()) for piece in pieces)


def _copy_store(store: TokenStore, prefix: Path) -> None:
    """Copy a store's files; the index comes last, as in `StoreWriter.commit`."""
    for suffix in (".bin", ".json", ".idx"):
        origin = suffixed(store.prefix, suffix)
        if origin.exists():
            with files.atomic_path(suffixed(prefix, suffix)) as temporary:
                shutil.copyfile(origin, temporary)

"""Cut a store to a budget of unique tokens: the U of the experiments."""

from __future__ import annotations

import math
import shutil
from fractions import Fraction
from pathlib import Path

from epochal import files
from epochal.data.encoder import Tokenizer
from epochal.data.folder import (
    TOKENIZER,
    TRAIN,
    VALIDATION,
    PreparedCorpus,
    is_prepared,
    refuse_foreign,
    refuse_foreign_store,
)
from epochal.data.notices import cut_in_order
from epochal.data.passport import Passport
from epochal.data.store import Tokens, TokenStore, store_prefix, suffixed
from epochal.data.store_writer import StoreWriter, remove_store
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError
from epochal.progress import bar, say

_CHUNK = 1 << 20
_PROGRESS_EVERY = 256


def subset(
    source: str | Path,
    out: str | Path,
    unique_tokens: int,
    *,
    like_paper: bool = False,
    tokens_per_document: float | None = None,
    overwrite: bool = False,
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
    if tokens_per_document is not None and not like_paper:
        raise DataError("`tokens_per_document` only counts with `like_paper`; give both or neither")
    if is_prepared(Path(source)):
        corpus = PreparedCorpus.open(source)
        view, how = _cut(corpus.train, unique_tokens, like_paper, tokens_per_document)
        return _subset_of_corpus(corpus, view, Path(out), how, overwrite)
    whole, prefix = TokenStore.open(source), store_prefix(out)
    view, how = _cut(whole, unique_tokens, like_paper, tokens_per_document)
    if prefix.resolve() == whole.prefix.resolve():
        raise DataError(f"{prefix} is the store itself; give another place for the subset")
    if not overwrite:
        if _is_there(view, prefix):
            return TokenStore.open(prefix)
        refuse_foreign_store(prefix)
    with StoreWriter(prefix, view.tokens.dtype) as writer:
        _copy_documents(view, writer)
        return writer.commit(_passport(whole, view, how, _tokenizer_beside(whole), writer))


def _subset_of_corpus(
    corpus: PreparedCorpus, view: TokenStore, folder: Path, how: str, overwrite: bool
) -> TokenStore:
    if folder.resolve() == corpus.folder.resolve():
        raise DataError(f"{folder} is the corpus itself; give another folder for the subset")
    if not overwrite:
        if _is_there(view, folder / TRAIN):
            return TokenStore.open(folder / TRAIN)
        refuse_foreign(folder)
    with StoreWriter(folder / TRAIN, view.tokens.dtype) as writer:
        _copy_documents(view, writer)
        passport = _passport(corpus.train, view, how, corpus.tokenizer, writer)
        remove_store(folder / TRAIN)  # the corpus is there when its training store is
        remove_store(folder / VALIDATION)
        if corpus.validation is not None:
            _copy_store(corpus.validation, folder / VALIDATION)
        with files.atomic_path(folder / TOKENIZER) as temporary:
            shutil.copyfile(corpus.folder / TOKENIZER, temporary)
        return writer.commit(passport)


def _tokenizer_beside(store: TokenStore) -> Tokenizer | None:
    """The tokenizer.json beside a store if its passport says that it made the store."""
    path = store.prefix.parent / TOKENIZER
    facts = store.passport.tokenizer if store.passport else None
    if facts is None or not path.is_file():
        return None
    found = load_tokenizer(path)
    return found if found.sha256 == facts.sha256 else None


def _cut(
    whole: TokenStore, unique_tokens: int, like_paper: bool, tokens_per_document: float | None
) -> tuple[TokenStore, str]:
    """The view that was asked for, and in words what it is."""
    if unique_tokens < 1:
        raise DataError(f"`unique_tokens` = {unique_tokens} is not a positive number")
    if not like_paper:
        if unique_tokens > whole.unique_tokens:
            raise DataError(
                f"`unique_tokens` = {unique_tokens:,} but the store {whole.prefix} holds "
                f"{whole.unique_tokens:,} tokens; lower it or prepare more text"
            )
        return whole.first(unique_tokens), f"the first {unique_tokens:,} tokens"
    # A Fraction, since U / (tokens / documents) in floating point can miss a whole number.
    mean = Fraction(whole.unique_tokens, max(1, whole.documents))
    if tokens_per_document is not None:
        if not (math.isfinite(tokens_per_document) and tokens_per_document > 0):
            raise DataError(f"`tokens_per_document` = {tokens_per_document} is not positive")
        mean = Fraction(tokens_per_document)
    documents = paper_documents(unique_tokens, mean)
    if documents > whole.documents:
        raise DataError(
            f"{unique_tokens:,} tokens at {float(mean):.6f} a document are {documents:,} documents"
            f", but the store {whole.prefix} holds {whole.documents:,} ({whole.unique_tokens:,} "
            "tokens); lower the number or prepare more text"
        )
    end = int(whole.document_starts()[documents])
    how = (
        f"the first {documents:,} documents, as the paper cuts {unique_tokens:,} tokens at "
        f"{float(mean):.6f} a document"
    )
    return whole.first(end), how


def paper_documents(unique_tokens: int, tokens_per_document: Fraction) -> int:
    """Number of documents, one at least, that the paper takes for `unique_tokens`.

    The nearest whole number. The README of arXiv 2507.15857's code says "rounded up", but its
    figures for 100M tokens, with which its files were cut, are 208,931 of 208,931.47 for C4
    (478.625835 a document) and 94,513 of 94,512.84 for SlimPajama (1058.057342).
    """
    return max(1, math.floor(unique_tokens / tokens_per_document + Fraction(1, 2)))


def _is_there(view: TokenStore, prefix: Path) -> bool:
    """Whether `prefix` is this subset already. Raises DataError if it is another store."""
    index = suffixed(prefix, ".idx")
    if not index.exists():
        return False
    if TokenStore.open(prefix).content_sha256() == view.content_sha256():
        say(f"{prefix} holds this subset already")
        return True
    raise DataError(f"{index} is there already; choose another place, or replace it by --overwrite")


def _copy_documents(view: TokenStore, writer: StoreWriter) -> None:
    with bar("Copying", view.documents) as progress:
        for number in range(view.documents):
            writer.add(view.document(number))
            if number % _PROGRESS_EVERY == 0:
                progress.update(number)


def _passport(
    whole: TokenStore,
    view: TokenStore,
    how: str,
    tokenizer: Tokenizer | None,
    writer: StoreWriter,
) -> Passport:
    written = writer.finish()
    starts = whole.document_starts()
    before = whole.passport or Passport(unique_tokens=0, documents=0)
    is_whole = view.unique_tokens == whole.unique_tokens
    cut_in_order(view.passport)
    cut = before.cut(
        unique_tokens=written.unique_tokens,
        documents=written.documents,
        truncated=before.truncated_last_document if is_whole else view.unique_tokens not in starts,
        parent=whole.as_parent(how),
    )
    return cut.with_content(
        content_sha256=written.content_sha256,
        index_sha256=written.index_sha256,
        text_bytes=before.text_bytes if is_whole else text_bytes(view.tokens, tokenizer),
    )


def text_bytes(tokens: Tokens, tokenizer: Tokenizer | None) -> int | None:
    """UTF-8 bytes that the tokens stand for, end marks not counted; None if not byte-level."""
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

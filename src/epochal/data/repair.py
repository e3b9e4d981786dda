"""Repair of a token store: what its files still prove is put right, and what is gone is told."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import files
from epochal.data.metadata import StoreMetadata, read_metadata
from epochal.data.notes import Check
from epochal.data.store import Tokens, index_content, read_index, suffixed
from epochal.data.store_writer import StoreWriter, store_dtype
from epochal.data.subset import text_bytes
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError

_CHUNK = 1 << 22
Lengths = NDArray[np.int64]

Checked = tuple[Check, bool, dict[str, Any]]


def repair(prefix: Path, tokenizer: Tokenizer | None) -> Iterator[Checked]:
    """Repair the store `prefix` as far as possible, and tell what was done.

    A damaged or missing index is made again from the ids, whose end-of-document tokens show where
    documents end; one that the metadata describes must come out exactly. Of a .bin that was cut
    off the whole documents are kept. Changed ids cannot be repaired, and are left alone, as is a
    store with an unreadable metadata. Raises StorageError.
    """
    metadata = read_metadata(suffixed(prefix, ".json"))
    path, index = suffixed(prefix, ".bin"), suffixed(prefix, ".idx")
    facts = metadata.tokenizer if metadata else tokenizer.facts if tokenizer else None
    if not path.is_file() or facts is None:
        return
    dtype, lengths = _intact_index(index, metadata)
    dtype = dtype or store_dtype(facts.vocabulary)
    held = path.stat().st_size // dtype.itemsize
    wanted = metadata.unique_tokens if metadata else int(lengths.sum()) if len(lengths) else held
    if not held or (held >= wanted and len(lengths)):
        return
    tokens = np.memmap(path, dtype, "r", shape=(held,))
    known = lengths if len(lengths) else _lengths(tokens, facts.end_of_document)
    if held < wanted:
        ended = len(lengths) or tokens[-1] == facts.end_of_document
        kept = known[: np.searchsorted(np.cumsum(known if ended else known[:-1]), held, "right")]
        if len(kept):
            _write_documents(prefix, tokens, kept, metadata, tokenizer)
        documents = metadata.documents if metadata else len(known)
        lost = {"lost_documents": documents - len(kept), "lost_tokens": wanted - int(kept.sum())}
        yield Check.CUT_OFF, False, {"documents": len(kept), **lost}
        return
    content = b"".join(index_content(dtype, known.astype(np.int32)))
    described = metadata.index_sha256 if metadata else None
    same = described in (None, hashlib.sha256(content).hexdigest())
    if same:
        files.write_bytes(index, content)
    yield Check.INDEX_MADE, same, {"documents": len(known)}


def _intact_index(
    path: Path, metadata: StoreMetadata | None
) -> tuple[np.dtype[np.integer[Any]] | None, Lengths]:
    """Type of the ids and [documents] tokens of each; None and nothing if it is damaged."""
    wanted = metadata.index_sha256 if metadata else None
    try:
        dtype, sizes, document_list = read_index(path)
    except DataError:
        return None, np.empty(0, np.int64)
    if wanted is not None and files.sha256(path) != wanted:
        return None, np.empty(0, np.int64)
    ends = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    return dtype, np.diff(ends[document_list])


def _lengths(tokens: Tokens, mark: int) -> Lengths:
    """[documents] tokens of each, by the marks at their ends; the last may be without one."""
    pieces = range(0, len(tokens), _CHUNK)
    found = [np.flatnonzero(tokens[first : first + _CHUNK] == mark) + first for first in pieces]
    ends = np.concatenate(found) + 1
    if not len(ends) or ends[-1] < len(tokens):
        ends = np.append(ends, len(tokens))
    return np.diff(ends, prepend=0)


def _write_documents(
    prefix: Path,
    tokens: Tokens,
    lengths: Lengths,
    metadata: StoreMetadata | None,
    tokenizer: Tokenizer | None,
) -> None:
    """Write the first documents as the store, with what the metadata knew of the whole."""
    ends = np.cumsum(lengths)
    with StoreWriter(prefix, tokens.dtype) as writer:
        for start, end in zip(ends - lengths, ends, strict=True):
            writer.add(tokens[start:end])
        if metadata is not None:
            written = writer.finish()
            writer.commit(
                dataclasses.replace(
                    metadata,
                    unique_tokens=written.unique_tokens,
                    documents=written.documents,
                    text_bytes=text_bytes(tokens[: ends[-1]], tokenizer),
                    content_sha256=written.content_sha256,
                    index_sha256=written.index_sha256,
                    truncated_last_document=False,
                    duplicates=None,
                    preparation=None,
                )
            )

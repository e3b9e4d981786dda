"""Writing a token store as a stream: constant memory but for the documents' lengths."""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from epochal import files
from epochal.data.metadata import StoreMetadata
from epochal.data.store import TokenStore, store_prefix, suffixed, write_index
from epochal.errors import DataError
from epochal.progress import bar

_BUFFER = 1 << 20
_LONGEST_DOCUMENT = 2**31 - 1  # lengths are i32 in the index
_U16_VOCABULARIES_BELOW = 65500  # the original's limit, below the type's own of 65536


def store_dtype(vocabulary: int) -> np.dtype[np.integer[Any]]:
    """u16 for a vocabulary below 65,500, else i32, as the original chooses."""
    return np.dtype("<u2" if vocabulary < _U16_VOCABULARIES_BELOW else "<i4")


def remove_store(prefix: Path) -> None:
    """Remove a store: its index first, so that no half of it looks whole, its metadata last.

    After a kill the metadata distinguishes what is left from a file of something else.
    """
    for suffix in (".idx", ".bin", ".json"):
        with files.storage_errors(prefix):
            suffixed(prefix, suffix).unlink(missing_ok=True)


class StoreWriter:
    """Writes a store under temporary names; `commit` makes it appear, whole.

        with StoreWriter("corpus/train", store_dtype(50257)) as writer:
            for ids in documents:
                writer.add(ids)

    Leaving the block commits what was not committed; an exception removes the temporaries.
    """

    reordered_at_once = 1 << 26
    """Tokens held in memory while documents change places."""

    def __init__(self, prefix: str | Path, dtype: np.dtype[np.integer[Any]] | str) -> None:
        """Start a store at `prefix` with ids of type `dtype`. Raises StorageError."""
        self.prefix = store_prefix(prefix)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._limits = np.iinfo(self._dtype)
        self._bin = self._temporary(".bin")
        self._idx = self._temporary(".idx")
        self._json = self._temporary(".json")
        self._sizes = array("i")
        self._size_so_far = 0  # tokens of a document that goes on
        self._tokens = 0
        self._hash = hashlib.sha256()
        self._written: StoreMetadata | None = None
        self._done = False
        with files.storage_errors(suffixed(self.prefix, ".bin")):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._bin.open("wb", buffering=_BUFFER)

    def _temporary(self, suffix: str) -> Path:
        return self.prefix.with_name(f".{self.prefix.name}{suffix}.{os.getpid()}.tmp")

    @property
    def documents(self) -> int:
        """Documents added so far."""
        return len(self._sizes)

    @property
    def unique_tokens(self) -> int:
        """Tokens added so far."""
        return self._tokens

    def add(self, ids: ArrayLike, goes_on: bool = False) -> None:
        """Add one document, or a part of one that `goes_on` with what is added next.

        Raises DataError for an id or a length that the files cannot hold.
        """
        tokens = np.asarray(ids)
        self.add_all(tokens, [tokens.size], goes_on)

    def add_all(
        self, tokens: NDArray[Any], sizes: Sequence[int] | NDArray[np.int64], goes_on: bool
    ) -> None:
        """Add documents of `sizes` that stand one after another in `tokens`; see `add`."""
        sizes = np.array(sizes, dtype=np.int64)
        if not len(sizes):
            return
        sizes[0] += self._size_so_far
        if sizes.max() > _LONGEST_DOCUMENT:
            number = self.documents + int(sizes.argmax())
            raise DataError(
                f"document {number} has {sizes.max():,} tokens, but the index of a store "
                f"holds at most {_LONGEST_DOCUMENT:,} per document; cut the text into documents"
            )
        if tokens.size and (tokens.min() < self._limits.min or tokens.max() > self._limits.max):
            raise DataError(
                f"the ids of document {self.documents} run from {tokens.min()} to {tokens.max()}, "
                f"but the store {self.prefix} holds {self._limits.min} to {self._limits.max}"
            )
        content = tokens.astype(self._dtype, copy=False).tobytes()
        with files.storage_errors(suffixed(self.prefix, ".bin")):
            self._file.write(content)
        self._hash.update(content)
        self._size_so_far = int(sizes[-1]) if goes_on else 0
        self._sizes.frombytes((sizes[:-1] if goes_on else sizes).astype(np.int32).tobytes())
        self._tokens += tokens.size

    def reorder(self, order: NDArray[np.int64], gone: NDArray[np.bool_] | None = None) -> None:
        """Put the documents added so far into another order: `order[i]` becomes number i.

        Those that are not in `order` are left out, and so are tokens flagged in `gone` [tokens].
        Each piece of the new file is gathered in the old file's order, so that the disk is read
        forward and a corpus may be larger than memory. Meanwhile it needs twice the disk space.
        """
        sizes = np.array(self._sizes, dtype=np.int64)
        left = sizes.copy()
        pieces = np.cumsum(sizes[order]) // self.reordered_at_once
        self._hash = hashlib.sha256()
        moved = self._temporary(".reordered")
        with files.storage_errors(suffixed(self.prefix, ".bin")):
            self._file.close()
            try:
                self._file = moved.open("wb", buffering=_BUFFER)
                starts, done = np.cumsum(sizes) - sizes, 0
                with bar("Shuffling", len(order)) as progress:
                    for piece in np.split(order, np.flatnonzero(np.diff(pieces)) + 1):
                        content, left[piece] = self._gather(starts[piece], sizes[piece], gone)
                        self._file.write(content)
                        self._hash.update(content)
                        progress.update(done := done + len(piece))
                moved.replace(self._bin)
            finally:
                moved.unlink(missing_ok=True)
        self._sizes = array("i", left[order].astype(np.int32).tobytes())
        self._tokens = int(left[order].sum())

    def view(self) -> TokenStore:
        """What is written so far, as a store."""
        with files.storage_errors(suffixed(self.prefix, ".bin")):
            self._file.flush()
        tokens = np.asarray(np.memmap(self._bin, dtype=self._dtype, mode="r"))
        sizes = np.array(self._sizes, dtype=np.int32)
        return TokenStore(self.prefix, tokens, sizes, np.arange(len(sizes) + 1))

    def _gather(
        self, starts: NDArray[np.int64], sizes: NDArray[np.int64], gone: NDArray[np.bool_] | None
    ) -> tuple[bytes, NDArray[np.int64]]:
        """Bytes of the documents at `starts`, one after another, and their sizes without `gone`."""
        source = np.memmap(self._bin, dtype=self._dtype, mode="r")
        gathered = np.empty(int(sizes.sum()), dtype=self._dtype)
        places = np.cumsum(sizes) - sizes
        left = np.ones(len(gathered) if gone is not None else 0, dtype=bool)
        for number in np.argsort(starts, kind="stable"):
            start, place, size = starts[number], places[number], sizes[number]
            gathered[place : place + size] = source[start : start + size]
            if gone is not None:
                left[place : place + size] = ~gone[start : start + size]
        if gone is None or not len(sizes):
            return gathered.tobytes(), sizes
        return gathered[left].tobytes(), np.add.reduceat(left, places, dtype=np.int64)

    def finish(self) -> StoreMetadata:
        """Finish writing and return counts and hashes; nothing is visible yet."""
        if self._written is None:
            with files.storage_errors(suffixed(self.prefix, ".bin")):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
            write_index(self._idx, self._dtype, np.array(self._sizes, dtype=np.int32))
            self._written = StoreMetadata(
                unique_tokens=self._tokens,
                documents=self.documents,
                content_sha256=self._hash.hexdigest(),
                index_sha256=files.sha256(self._idx),
            )
        return self._written

    def commit(self, metadata: StoreMetadata | None = None) -> TokenStore:
        """Give the files their names and open the store.

        A store exists when its index does: an older index is removed first and the new one comes
        last, so that a kill at any moment leaves a whole store or none. Only names change by
        then, so a full disk is found out before an older store is touched.
        """
        self.finish()
        if metadata is not None:
            metadata.write(self._json)
        index, metadata_path = suffixed(self.prefix, ".idx"), suffixed(self.prefix, ".json")
        with files.storage_errors(index):
            index.unlink(missing_ok=True)
            if metadata is not None:
                self._json.replace(metadata_path)
            else:
                metadata_path.unlink(missing_ok=True)
            self._bin.replace(suffixed(self.prefix, ".bin"))
            self._idx.replace(index)
        self._done = True
        return TokenStore.open(self.prefix)

    def abort(self) -> None:
        """Remove everything that is not committed; leaving the block then commits nothing."""
        self._done = True
        with contextlib.suppress(OSError):  # a full disk has been reported already
            self._file.close()
        for temporary in (self._bin, self._idx, self._json):
            temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._done:
                self.commit()
        finally:
            self.abort()

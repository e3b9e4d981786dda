"""The token store: a corpus as token ids in `<prefix>.bin`, `<prefix>.idx` and `<prefix>.json`.

The first two are the pair of the original code (Megatron's memory-mapped form), byte for byte, so
stores travel both ways. The third is the metadata. Nothing is loaded: the ids are a view of the
file. The index, little endian:

    0        9 bytes  MMIDIDX and two zero bytes
    9        u64      version, 1
    17       u8       code of the tokens' type in .bin
    18       u64      n, number of sequences
    26       u64      m, length of the document list
    34       i32[n]   tokens per sequence
    34+4n    i64[n]   start of each sequence in .bin, in bytes
    34+12n   i64[m]   document list: 0, then after each document the number of sequences so far

A document is one sequence or several; nearly always one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import files
from epochal.data.metadata import Parent, StoreMetadata, read_metadata
from epochal.data.notes import StoreNote
from epochal.errors import DataError
from epochal.progress import say
from epochal.results import Note, note

Tokens = NDArray[np.integer[Any]]
Sizes = NDArray[np.int32]
DocumentList = NDArray[np.int64]

_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class TokenStore:
    """A corpus of token ids, read-only."""

    prefix: Path
    """Path without .bin and .idx."""
    tokens: Tokens
    """[unique_tokens] all documents end to end, in the stored type; a view of the file."""
    sizes: Sizes
    """[sequences] tokens per sequence."""
    document_list: DocumentList
    """[documents + 1] sequences before each document, and in the end all of them."""
    metadata: StoreMetadata | None = None
    notes: tuple[Note, ...] = ()

    @staticmethod
    def open(prefix: str | Path) -> TokenStore:
        """The store `prefix`, given with or without .bin, .idx or .json.

        Raises DataError for files that are missing, foreign, damaged or do not fit together.
        """
        prefix = store_prefix(prefix)
        index_path, bin_path = suffixed(prefix, ".idx"), suffixed(prefix, ".bin")
        _check_present(prefix, index_path, bin_path)
        dtype, sizes, document_list = read_index(index_path)
        tokens = _map_tokens(bin_path, dtype)
        sizes, notes = _fit(bin_path, tokens, sizes, document_list)
        metadata = _fitting_metadata(prefix, len(tokens), len(document_list) - 1)
        return TokenStore(prefix, tokens, sizes, document_list, metadata, notes)

    @property
    def unique_tokens(self) -> int:
        """U, tokens in the store, end-of-document tokens included."""
        return len(self.tokens)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.document_list) - 1

    @cached_property
    def document_starts(self) -> NDArray[np.int64]:
        """[documents + 1] start of each document in `tokens`, and at last `unique_tokens`."""
        ends = np.concatenate(([0], np.cumsum(self.sizes, dtype=np.int64)))
        starts: NDArray[np.int64] = ends[self.document_list]
        starts.flags.writeable = False
        return starts

    def document(self, number: int) -> Tokens:
        """Token ids of document `number` (from 0)."""
        start, end = self.document_starts[number : number + 2]
        return self.tokens[start:end]

    @cached_property
    def content_sha256(self) -> str:
        """SHA-256 of the ids as stored: the identity of the data.

        A store and a view of the same tokens (see `first`) share it, and a view differs from the
        whole. The files are read and compared with the metadata, once in a process unless they
        change. Raises DataError if they are not those that were written.
        """
        paths = [suffixed(self.prefix, suffix) for suffix in (".bin", ".idx", ".json")]
        times = [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]
        _check_written(self.prefix, *times)
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        """SHA-256 of the ids, from the metadata where it has one."""
        if self.metadata is not None and self.metadata.content_sha256 is not None:
            return self.metadata.content_sha256
        return hashlib.sha256(self.tokens.view(np.uint8).data).hexdigest()

    def first(self, unique_tokens: int, tokens_per_document: float | None = None) -> TokenStore:
        """A view of exactly the first `unique_tokens` tokens; the last document may be cut.

        Views are nested: a larger budget contains a smaller one. `tokens_per_document` only goes
        into the metadata (see `Parent`). Raises DataError if the store holds fewer tokens.
        """
        total = self.unique_tokens
        if unique_tokens == total:
            return self
        if unique_tokens < 1:
            raise DataError(f"`data.unique_tokens` = {unique_tokens} is not a positive number")
        if unique_tokens > total:
            raise DataError(
                f"`data.unique_tokens` = {unique_tokens:,} but the store {self.prefix} holds "
                f"{total:,} tokens; take all of them with data.unique_tokens=none, set a lower "
                "number, or prepare more text"
            )
        ends = np.cumsum(self.sizes, dtype=np.int64)
        last = int(np.searchsorted(ends, unique_tokens))
        sizes = self.sizes[: last + 1].copy()
        sizes[-1] -= ends[last] - unique_tokens
        inner = self.document_list[self.document_list <= last]
        document_list = np.append(inner, last + 1)
        metadata = self.metadata and self.metadata.cut(
            unique_tokens=unique_tokens,
            documents=len(document_list) - 1,
            truncated=unique_tokens not in self.document_starts,
            parent=self.as_parent(tokens_per_document),
        )
        tokens = self.tokens[:unique_tokens]
        return TokenStore(self.prefix, tokens, sizes, document_list, metadata, self.notes)

    def as_parent(self, tokens_per_document: float | None) -> Parent:
        """What the metadata of a store cut from this one says about this one."""
        return Parent(
            name=self.prefix.name,
            unique_tokens=self.unique_tokens,
            documents=self.documents,
            content_sha256=self._sha256,
            tokens_per_document=tokens_per_document,
        )


def store_prefix(path: str | Path) -> Path:
    """The path without .bin, .idx or .json."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".bin", ".idx", ".json") else path


def suffixed(prefix: Path, suffix: str) -> Path:
    """`d/x.y` and `.bin` → `d/x.y.bin`."""
    return prefix.with_name(prefix.name + suffix)


def _check_present(prefix: Path, *paths: Path) -> None:
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return
    if len(missing) < len(paths):
        raise DataError(
            f"the token store {prefix} is incomplete: {missing[0].name} is missing; copy or "
            "prepare it again"
        )
    if prefix.is_dir():
        inside = prefix / "train"
        hint = f"; give {inside}" if suffixed(inside, ".idx").is_file() else ""
        raise DataError(f"{prefix} is a folder, not a token store{hint}")
    raise DataError(
        f"there is no token store {prefix} ({missing[0].name} is missing); give its path without "
        ".bin, or make one with `epochal data prepare`"
    )


def _fitting_metadata(prefix: Path, tokens: int, documents: int) -> StoreMetadata | None:
    """The metadata beside the store, if there is any. Its hashes are trusted, so it must fit."""
    path = suffixed(prefix, ".json")
    metadata = read_metadata(path)
    if metadata and (metadata.unique_tokens, metadata.documents) != (tokens, documents):
        raise DataError(
            f"the metadata {path} describes {metadata.unique_tokens:,} tokens in "
            f"{metadata.documents:,} documents, but the store holds {tokens:,} in {documents:,}; "
            "prepare the store again, or move that file away to use the store without it"
        )
    return metadata


@lru_cache(maxsize=64)
def _check_written(prefix: Path, *_times: int) -> None:
    """Raise DataError if the files are not those that their metadata describes."""
    metadata = read_metadata(suffixed(prefix, ".json"))
    if metadata is None:
        return
    for suffix, expected, mend in (
        (".bin", metadata.content_sha256, "copy or prepare it again"),
        (".idx", metadata.index_sha256, "`epochal data verify --fix` makes it again"),
    ):
        path = suffixed(prefix, suffix)
        if expected is not None and (sha256 := files.sha256(path)) != expected:
            raise DataError(
                f"{path} was changed or damaged since it was written: its SHA-256 is "
                f"{sha256[:12]}, not {expected[:12]}; {mend}"
            )


def _map_tokens(path: Path, dtype: np.dtype[np.integer[Any]]) -> Tokens:
    length = path.stat().st_size
    if length == 0:
        raise DataError(f"{path} is empty: a token store needs at least one token")
    if length % dtype.itemsize:
        raise DataError(
            f"{path} has {length:,} bytes, not a multiple of the {dtype.itemsize} bytes of a "
            "token; it is truncated, copy or prepare it again"
        )
    try:
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _fit(
    path: Path, tokens: Tokens, sizes: Sizes, document_list: DocumentList
) -> tuple[Sizes, tuple[Note, ...]]:
    """Sizes that add up to the .bin, and a note if they had to be corrected.

    `tools/preprocess_data.py --append-eod` of the original writes an end-of-text token after
    each document but leaves it out of the sizes, so that all later boundaries drift. One token
    per document too many, and the same id at the end of each document once one token is added
    to it, can only be that; then the sizes are corrected.
    """
    total = int(sizes.sum(dtype=np.int64))
    if total == len(tokens):
        return sizes, ()
    ends = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))[document_list]
    filled = np.flatnonzero(np.diff(ends))
    surplus = len(tokens) - total
    if surplus == len(filled) > 0:
        marks = tokens[ends[filled + 1] + np.arange(surplus)]
        if (marks == marks[0]).all():
            sizes = sizes.copy()
            sizes[document_list[filled + 1] - 1] += 1
            say(f"{path}: lengths of {surplus:,} documents corrected on reading (--append-eod)")
            values = {"file": str(path), "documents": surplus, "end_of_document": int(marks[0])}
            return sizes, (note(StoreNote.LENGTHS_CORRECTED, **values),)
    state = "fewer" if surplus < 0 else "more"
    raise DataError(
        f"{path} holds {len(tokens):,} tokens, {state} than the {total:,} of its index; one of "
        "the two files is truncated or belongs to another store, copy or prepare it again"
    )


def read_index(path: Path) -> tuple[np.dtype[np.integer], Sizes, DocumentList]:
    """Type of the ids, sizes and document list (see `TokenStore`), checked for consistency.

    Raises DataError for a file that is missing, foreign or damaged.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError as error:
        raise DataError(f"cannot read the index {path}: {error.strerror or error}") from error
    dtype, sequences, entries = _parse_header(path, header)
    expected = _HEADER.size + 12 * sequences + 8 * entries
    if length != expected:
        state = "is truncated" if length < expected else "is too long"
        raise DataError(
            f"{path} {state}: {sequences:,} sequences and {entries:,} entries of the document "
            f"list need {expected:,} bytes but it has {length:,}; copy or prepare it again"
        )
    content = np.memmap(path, mode="r")
    sizes_end = _HEADER.size + 4 * sequences
    pointers_end = sizes_end + 8 * sequences
    sizes = content[_HEADER.size : sizes_end].view("<i4").astype(np.int32)
    document_list = content[pointers_end:].view("<i8").astype(np.int64)
    _check_sizes(path, sizes, content[sizes_end:pointers_end].view("<i8"), dtype.itemsize)
    _check_document_list(path, document_list, sequences)
    return dtype, sizes, document_list


def write_index(path: Path, dtype: np.dtype[np.integer], sizes: Sizes) -> None:
    """Write the index of a store in which every document is one sequence. Raises StorageError."""
    with files.storage_errors(path), path.open("wb") as file:
        file.writelines(index_content(dtype, sizes))
        file.flush()
        os.fsync(file.fileno())


def index_content(dtype: np.dtype[np.integer], sizes: Sizes) -> Iterator[bytes]:
    """What `write_index` writes, in pieces."""
    count = len(sizes)
    yield _HEADER.pack(_MAGIC, 1, _CODES[dtype], count, count + 1)
    yield sizes.astype("<i4").tobytes()
    for _, starts in _starts(sizes, dtype.itemsize):
        yield starts.astype("<i8").tobytes()
    for first in range(0, count + 1, _CHUNK):
        yield np.arange(first, min(first + _CHUNK, count + 1), dtype="<i8").tobytes()


def _parse_header(path: Path, header: bytes) -> tuple[np.dtype[np.integer], int, int]:
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        hint = ""
        if header.startswith(b"TNTIDX"):
            hint = " but its older `lazy`/`cached` form; write it with --dataset-impl mmap"
        raise DataError(f"{path} is not the index of a Megatron token store{hint}")
    _, version, code, sequences, entries = _HEADER.unpack(header)
    if version != 1:
        raise DataError(f"{path} has version {version}; only version 1 can be read")
    if code not in _TYPES:
        raise DataError(
            f"{path} gives its tokens the type code {code}, which is not a type of token ids; "
            f"allowed are {', '.join(map(str, _TYPES))}"
        )
    return np.dtype(_TYPES[code]), sequences, entries


def _starts(sizes: Sizes, itemsize: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Start of each sequence in bytes, in pieces: (number of the first one, starts)."""
    before = 0
    for first in range(0, len(sizes), _CHUNK):
        ends = before + np.cumsum(sizes[first : first + _CHUNK], dtype=np.int64) * itemsize
        yield first, np.concatenate(([before], ends[:-1]))
        before = int(ends[-1])


def _check_sizes(path: Path, sizes: Sizes, pointers: NDArray[np.int64], itemsize: int) -> None:
    if len(sizes) and sizes.min() < 0:
        number = int(np.argmax(sizes < 0))
        raise DataError(f"{path} is damaged: sequence {number} has a length of {sizes[number]}")
    for first, starts in _starts(sizes, itemsize):
        stated = pointers[first : first + len(starts)]
        if (wrong := stated != starts).any():
            number = int(np.argmax(wrong))
            raise DataError(
                f"{path} is damaged: sequence {first + number} should start at byte "
                f"{starts[number]:,} of the .bin by the lengths before it, but the index says "
                f"{stated[number]:,}; copy or prepare it again"
            )


def _check_document_list(path: Path, entries: DocumentList, sequences: int) -> None:
    rising = len(entries) > 0 and bool((np.diff(entries) >= 0).all())
    if not rising or entries[0] != 0 or entries[-1] != sequences:
        raise DataError(
            f"{path} is damaged: its document list should rise from 0 to {sequences:,}, the "
            "number of sequences; copy or prepare it again"
        )

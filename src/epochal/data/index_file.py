"""The index of a token store, `<prefix>.idx`, as Megatron writes it: read, checked, written.

Little endian:

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

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError
from epochal.files import storage_errors

Sizes = NDArray[np.int32]
DocumentList = NDArray[np.int64]

_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Index:
    """What an index file says about its .bin."""

    dtype: np.dtype[np.integer]
    sizes: Sizes
    """[n] tokens per sequence."""
    document_list: DocumentList
    """[documents + 1] sequences before each document, and in the end all of them."""


def read_index(path: Path) -> Index:
    """The index at `path`, checked in itself.

    Raises DataError for a file that is missing, foreign, truncated or contradicts itself.
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
        state = "is truncated" if length < expected else "has bytes too many"
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
    return Index(dtype, sizes, document_list)


def write_index(path: Path, dtype: np.dtype[np.integer], sizes: Sizes) -> None:
    """Write the index of a store in which every document is one sequence. Raises StorageError."""
    count = len(sizes)
    with storage_errors(path), path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, 1, _CODES[dtype], count, count + 1))
        file.write(sizes.astype("<i4").tobytes())
        for _, starts in _starts(sizes, dtype.itemsize):
            file.write(starts.astype("<i8").tobytes())
        for first in range(0, count + 1, _CHUNK):
            entries = np.arange(first, min(first + _CHUNK, count + 1), dtype="<i8")
            file.write(entries.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _parse_header(path: Path, header: bytes) -> tuple[np.dtype[np.integer], int, int]:
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        hint = ""
        if header.startswith(b"TNTIDX"):
            hint = (
                " (it is Megatron's older `lazy`/`cached` form; write it with --dataset-impl mmap)"
            )
        raise DataError(f"{path} is not the index of a Megatron token store{hint}")
    _, version, code, sequences, entries = _HEADER.unpack(header)
    if version != 1:
        raise DataError(f"{path} has version {version}; only version 1 is known")
    if code not in _TYPES:
        raise DataError(
            f"{path} says that its tokens have type code {code}, which is no type of token ids; "
            f"known are {', '.join(map(str, _TYPES))}"
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
        found = pointers[first : first + len(starts)]
        if (wrong := found != starts).any():
            place = int(np.argmax(wrong))
            raise DataError(
                f"{path} is damaged: sequence {first + place} should start at byte "
                f"{starts[place]:,} of the .bin by the lengths before it, but the index says "
                f"{found[place]:,}; copy or prepare it again"
            )


def _check_document_list(path: Path, entries: DocumentList, sequences: int) -> None:
    rising = len(entries) > 0 and bool((np.diff(entries) >= 0).all())
    if not rising or entries[0] != 0 or entries[-1] != sequences:
        raise DataError(
            f"{path} is damaged: its document list should rise from 0 to {sequences:,}, the "
            "number of sequences; copy or prepare it again"
        )

"""Files of token ids: NumPy arrays, and the .bin of nanoGPT, llm.c and modded-nanogpt."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.data.readers import Documents, File
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError, NamedOption

_HEADER = 256  # int32 of llm.c: magic, version, number of tokens
_MAGICS = {20240520: "<u2", 20240801: "<u4"}  # GPT-2's ids; Llama 3's
_AT_ONCE = 1 << 24


def read_npy(file: File) -> Documents:
    """An array of whole numbers: of one dimension, or with a document in each row."""
    try:
        if isinstance(file.stream.raw, io.FileIO):
            array = np.load(file.stream.raw.name, mmap_mode="r")
        else:
            array = np.load(file.stream)
    except (ValueError, EOFError) as error:
        raise DataError(f"{file.place} is no array of numbers ({error}); save one") from error
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        raise DataError(
            f"{file.place} holds {array.dtype} of {array.ndim} dimensions; give whole numbers of "
            "one dimension, or of two with a document in each row"
        )
    for number, row in enumerate(np.atleast_2d(array), 1):
        yield row, file.size * number // max(1, array.shape[0] if array.ndim == 2 else 1)


def read_bin(file: File) -> Documents:
    """Ids one after another, behind the header of llm.c or, as nanoGPT writes them, without one."""
    content: Any
    if isinstance(file.stream.raw, io.FileIO) and file.size:
        content = np.memmap(file.stream.raw.name, np.uint8, mode="r")
    else:
        content = np.frombuffer(file.stream.read(), np.uint8)
    start = content[: 4 * _HEADER]
    header = start.view("<i4") if len(start) == 4 * _HEADER else np.zeros(3, np.int32)
    kind = np.dtype(_MAGICS.get(int(header[0]), file.options.token_type)).newbyteorder("<")
    has_header = int(header[0]) in _MAGICS
    ids = content[4 * _HEADER if has_header else 0 :]
    if len(ids) % kind.itemsize or (has_header and len(ids) // kind.itemsize != int(header[2])):
        wanted = f"{int(header[2]):,} tokens by its header" if has_header else f"whole {kind.name}"
        raise DataError(
            f"{file.place} has {len(ids):,} bytes of ids, not {wanted}; get it again, or name the "
            "type of its ids (",
            NamedOption("token_type", "int32"),
            ")",
        )
    yield ids.view(kind), file.size


def token_documents(
    ids: NDArray[np.integer[Any]], tokenizer: Tokenizer | None, place: str
) -> Iterator[NDArray[np.integer[Any]]]:
    """The documents between end-of-document tokens, without them, as views of `ids` [n].

    Raises DataError for an id that is not in the vocabulary, or without a tokenizer.
    """
    if tokenizer is None:
        raise DataError(
            f"{place} holds token ids, not text; name the tokenizer that made them (",
            NamedOption("tokenizer", "gpt2"),
            "), or how many different ids there are (",
            NamedOption("tokenizer", "ids:4096"),
            ")",
        )
    start = 0
    for first in range(0, len(ids), _AT_ONCE):
        piece = ids[first : first + _AT_ONCE]
        wrong = np.flatnonzero((piece < 0) | (piece >= tokenizer.vocabulary))
        if len(wrong):
            raise DataError(
                f"{place} holds the id {int(piece[wrong[0]]):,} at place {first + wrong[0]:,}, but "
                f"the tokenizer {tokenizer.name} has {tokenizer.vocabulary:,}; name another one, "
                "or the type of the ids (",
                NamedOption("token_type", "int32"),
                ")",
            )
        for end in (first + np.flatnonzero(piece == tokenizer.end_of_document)).tolist():
            if end > start:
                yield ids[start:end]
            start = end + 1
    if start < len(ids):
        yield ids[start:]

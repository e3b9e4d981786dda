"""The token store: a corpus as token ids in `<prefix>.bin`, `<prefix>.idx` and `<prefix>.json`.

The first two are the pair of the original code (Megatron's memory-mapped form), byte for
byte, so stores travel both ways; `epochal.data.index_file` has the layout. The third is the
passport. Nothing is loaded: the ids are a view of the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.data.index_file import DocumentList, Sizes, read_index
from epochal.data.passport import Parent, Passport, read_passport
from epochal.errors import DataError
from epochal.progress import say

Tokens = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class TokenStore:
    """A corpus of token ids, read-only."""

    prefix: Path
    """Path without .bin and .idx."""
    tokens: Tokens
    """[unique_tokens] all documents end to end, in the stored type; a view of the file."""
    sizes: Sizes
    """Tokens per sequence."""
    document_list: DocumentList
    """[documents + 1] sequences before each document, and in the end all of them."""
    passport: Passport | None = None
    notes: tuple[str, ...] = ()
    """What was put right while opening."""

    @staticmethod
    def open(prefix: str | Path) -> TokenStore:
        """The store `prefix`, given with or without .bin, .idx or .json.

        Raises DataError for files that are missing, foreign, damaged or do not fit together.
        """
        prefix = store_prefix(prefix)
        index_path, bin_path = suffixed(prefix, ".idx"), suffixed(prefix, ".bin")
        _check_present(prefix, index_path, bin_path)
        index = read_index(index_path)
        tokens = _map_tokens(bin_path, index.dtype)
        sizes, note = _fit(bin_path, tokens, index.sizes, index.document_list)
        passport = _own_passport(prefix, len(tokens), len(index.document_list) - 1)
        if note:
            say(note)
        notes = (note,) if note else ()
        return TokenStore(prefix, tokens, sizes, index.document_list, passport, notes)

    @property
    def unique_tokens(self) -> int:
        """U, tokens in the store, end-of-document marks included."""
        return len(self.tokens)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.document_list) - 1

    def document_starts(self) -> NDArray[np.int64]:
        """[documents + 1] start of each document in `tokens`, and at last `unique_tokens`."""
        return self._document_starts

    @cached_property
    def _document_starts(self) -> NDArray[np.int64]:
        ends = np.concatenate(([0], np.cumsum(self.sizes, dtype=np.int64)))
        starts: NDArray[np.int64] = ends[self.document_list]
        starts.flags.writeable = False
        return starts

    def document(self, number: int) -> Tokens:
        """Token ids of document `number` (from 0)."""
        start, end = self._document_starts[number : number + 2]
        return self.tokens[start:end]

    def content_sha256(self) -> str:
        """SHA-256 of the ids as stored: the identity of the data.

        From the passport where it has one. A store and a view of the same tokens (see
        `first`) share it, and a view differs from the whole.
        """
        return self._content_sha256

    @cached_property
    def _content_sha256(self) -> str:
        if self.passport is not None and self.passport.content_sha256 is not None:
            return self.passport.content_sha256
        return hashlib.sha256(self.tokens.view(np.uint8).data).hexdigest()

    def first(self, unique_tokens: int) -> TokenStore:
        """A view of exactly the first `unique_tokens` tokens; the last document may be cut.

        Views are nested: a larger budget contains a smaller one. Raises DataError if the store
        holds fewer tokens.
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
        truncated = unique_tokens not in self._document_starts
        view = TokenStore(
            self.prefix, self.tokens[:unique_tokens], sizes, document_list, None, self.notes
        )
        if self.passport is None:
            return view
        return dataclasses.replace(
            view,
            passport=self.passport.cut(
                unique_tokens=unique_tokens,
                documents=view.documents,
                truncated=truncated,
                parent=self.as_parent("the first tokens"),
            ),
        )

    def as_parent(self, how: str) -> Parent:
        """What the passport of a store cut from this one says about this one."""
        return Parent(
            name=self.prefix.name,
            unique_tokens=self.unique_tokens,
            documents=self.documents,
            content_sha256=self.content_sha256(),
            how=how,
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


def _own_passport(prefix: Path, tokens: int, documents: int) -> Passport | None:
    """The passport beside the store, if there is one. Its hashes are believed, so it must fit."""
    path = suffixed(prefix, ".json")
    passport = read_passport(path)
    told = (passport.unique_tokens, passport.documents) if passport else (tokens, documents)
    if told != (tokens, documents):
        raise DataError(
            f"the passport {path} speaks of {told[0]:,} tokens in {told[1]:,} documents, but the "
            f"store holds {tokens:,} in {documents:,}; prepare the store again, or move that file "
            "away to use the store without it"
        )
    return passport


def _map_tokens(path: Path, dtype: np.dtype[np.integer[Any]]) -> Tokens:
    length = path.stat().st_size
    if length == 0:
        raise DataError(f"{path} is empty: a token store needs at least one token")
    if length % dtype.itemsize:
        raise DataError(
            f"{path} has {length:,} bytes, which is no multiple of the {dtype.itemsize} bytes of "
            "a token; it is truncated, copy or prepare it again"
        )
    try:
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _fit(
    path: Path, tokens: Tokens, sizes: Sizes, document_list: DocumentList
) -> tuple[Sizes, str]:
    """Sizes that add up to the .bin, and a note if they had to be put right.

    `tools/preprocess_data.py --append-eod` of the original writes an end-of-text token after
    each document but leaves it out of the sizes, so that all later boundaries drift. One token
    per document too many, and the same id at the end of each document once one token is added
    to it, can only be that; then the sizes are put right.
    """
    total = int(sizes.sum(dtype=np.int64))
    if total == len(tokens):
        return sizes, ""
    ends = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))[document_list]
    filled = np.flatnonzero(np.diff(ends))
    surplus = len(tokens) - total
    if surplus == len(filled) > 0:
        marks = tokens[ends[filled + 1] + np.arange(surplus)]
        if (marks == marks[0]).all():
            sizes = sizes.copy()
            sizes[document_list[filled + 1] - 1] += 1
            return sizes, (
                f"{path}: the index leaves the end-of-document mark (id {marks[0]}) out of "
                f"{surplus:,} documents' lengths, as preprocess_data.py --append-eod writes it; "
                "the lengths were put right on reading"
            )
    state = "fewer" if surplus < 0 else "more"
    raise DataError(
        f"{path} holds {len(tokens):,} tokens, {state} than the {total:,} of its index; one of "
        "the two files is truncated or belongs to another store, copy or prepare it again"
    )

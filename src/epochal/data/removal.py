"""Repeated passages and boilerplate lines that are taken out of a store while it is written."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.data.ngrams import Mask, Places, Sought, Units, UnitsOf, chunks, lines_of, windows_of
from epochal.data.notes import CorpusNote
from epochal.data.passages import SHORTEST_LINE, line_ends
from epochal.data.store import TokenStore
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError, NamedOption
from epochal.progress import bar
from epochal.results import Note, note

_AT_ONCE = 1 << 24  # units compared at a time, in some 600 MB
_SOUGHT = 1 << 22  # windows looked for at a time
_LONGEST_LINE = 4096
_CHUNK = 1 << 20


@dataclass
class Removal:
    """Tokens of a store that go; the flags are in a temporary file, of a byte a token."""

    store: TokenStore
    tokenizer: Tokenizer
    kept: Mask
    """[documents] that count; the others go anyway."""
    gone: Mask = field(init=False)
    """[tokens] flags."""

    def __post_init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            shape = (self.store.unique_tokens,)
            self.gone = np.memmap(file, dtype=bool, mode="w+", shape=shape)

    def passages(self, length: int) -> int:
        """Mark every passage of `length` tokens within a document that stood before, without
        overlap; returns the tokens marked beside those before."""

        def repeated(units: Units, firsts: Places) -> Mask:
            stood: Mask = units.places >= units.places[firsts] + length
            return stood

        return self._mark(windows_of(self.store, length), repeated, "Repeated passages")

    def leaked(self, validation: TokenStore, length: int) -> int:
        """Mark every passage of `length` tokens that a document of `validation` has; returns the
        tokens marked. So many of its windows are looked for at a time, each in the whole store."""
        total, find = self.store.unique_tokens, windows_of(self.store, length)
        parts = range(0, validation.unique_tokens, _SOUGHT)
        with bar("Passages of the validation set", total * len(parts)) as progress:
            for number, start in enumerate(parts):
                last = min(start + _SOUGHT, validation.unique_tokens)
                sought = Sought(windows_of(validation, length)(start, last).hashes)
                for units in chunks(find, 0, total):
                    found = np.sort(sought.find(units.hashes)[0])
                    self._flag(units[found[self.kept[units.documents[found]]]])
                    progress.update(number * total + int(max(units.places, default=0)))
        return self._count()

    def lines(self, documents: int) -> int:
        """Mark every line of 8 to 4,096 tokens that so many documents have, but for the first one;
        returns the tokens marked beside those before. Raises DataError if the tokenizer shows no
        line ends."""
        ends = line_ends(self.tokenizer)
        if not ends.any():
            raise DataError(
                f"no token of the tokenizer {self.tokenizer.name} holds a line end, so its text "
                "has no lines; leave out ",
                NamedOption("drop_boilerplate_lines"),
            )

        def repeated(units: Units, firsts: Places) -> Mask:
            numbers = np.arange(len(firsts))
            new = (firsts == numbers) | (units.documents != np.roll(units.documents, 1))
            counts = np.bincount(firsts, weights=new, minlength=len(firsts))
            many: Mask = (counts[firsts] >= documents) & (firsts != numbers)
            return many

        find = lines_of(self.store, ends, SHORTEST_LINE, _LONGEST_LINE)
        return self._mark(find, repeated, "Boilerplate lines")

    def _mark(self, find: UnitsOf, repeated: Any, title: str) -> int:
        """Mark the units that `repeated` selects among equal ones. The units whose hash falls into
        one of several classes are compared at a time; each class reads the whole store."""
        total = self.store.unique_tokens
        classes = np.uint64(max(1, -(-total // _AT_ONCE)))
        before = self._count()
        with bar(title, total * int(classes)) as progress:
            for number in range(int(classes)):
                found = []
                for units in chunks(find, 0, total):
                    mine = self.kept[units.documents] & (units.hashes % classes == number)
                    found.append(units[mine])
                    progress.update(number * total + int(max(units.places, default=0)))
                units = Units(
                    *(np.concatenate([getattr(u, f) for u in found]) for f in Units.__slots__)
                )
                order = np.argsort(units.hashes, kind="stable")  # equals stay in order
                units = units[order]
                new = np.append(True, units.hashes[1:] != units.hashes[:-1])[: len(order)]
                firsts = np.flatnonzero(new)[np.cumsum(new) - 1]
                chosen = units[repeated(units, firsts)]
                self._flag(chosen[np.argsort(chosen.places)])
        return self._count() - before

    def _flag(self, units: Units) -> None:
        """Mark the tokens of units, which come in rising order."""
        ends = np.maximum.accumulate(units.places + units.lengths)
        begins = np.flatnonzero(np.append(True, units.places[1:] > ends[:-1])[: len(ends)])
        lasts = np.append(begins[1:], len(ends)) - 1
        runs = zip(units.places[begins].tolist(), ends[lasts[: len(begins)]].tolist(), strict=True)
        for first, end in runs:
            self.gone[first:end] = True

    def _count(self) -> int:
        """Tokens that are marked, once the ends of documents, which stay, are not."""
        self.gone[self.store.document_starts[1:] - 1] = False
        return sum(
            int(np.count_nonzero(self.gone[start : start + _CHUNK]))
            for start in range(0, len(self.gone), _CHUNK)
        )

    def of_documents(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[documents] tokens that go, and the bytes of their text (0 if they are not known)."""
        sizes = self.tokenizer.token_byte_lengths
        tokens = np.zeros(self.store.documents, dtype=np.int64)
        text = np.zeros_like(tokens)
        for start in range(0, len(self.gone), _CHUNK):
            places = np.flatnonzero(self.gone[start : start + _CHUNK]) + start
            documents = np.searchsorted(self.store.document_starts, places, side="right") - 1
            np.add.at(tokens, documents, 1)
            if sizes is not None:
                np.add.at(text, documents, sizes[self.store.tokens[places]])
        return tokens, text


@dataclass(frozen=True)
class Cut:
    """What goes of the training documents."""

    kept: Mask
    """[documents] those of which something is left."""
    gone: Mask
    """[tokens] of the store."""
    text_bytes: NDArray[np.int64]
    """[documents] bytes of text that go; 0 where tokens do not stand for bytes."""
    leaked: int
    """Tokens of passages that the validation set has."""
    passages: int
    """Other tokens."""
    lines: int
    """Still others."""
    documents: int
    """That lose some."""
    empty: int
    """Of which nothing is left."""

    def notes(self) -> list[Note]:
        """What is told of it."""
        names = ("leaked", "passages", "lines", "documents", "empty")
        values = {name: getattr(self, name) for name in names}
        return [note(CorpusNote.REPEATS_CUT, **values)] if self.documents else []


def find_cut(
    store: TokenStore,
    order: NDArray[np.int64],
    tokenizer: Tokenizer,
    length: int | None,
    documents: int | None,
    leak: int | None = None,
    validation: TokenStore | None = None,
) -> Cut:
    """What goes of the documents in `order` if passages of `length` tokens and lines of so many
    `documents` are kept once, and passages of `leak` tokens that `validation` has not at all; None
    keeps them all."""
    kept = np.zeros(store.documents, dtype=bool)
    kept[order] = True
    removal = Removal(store, tokenizer, kept)
    leaked = removal.leaked(validation, leak) if leak and validation else 0
    passages = removal.passages(length) if length else 0
    lines = removal.lines(documents) if documents else 0
    tokens, text_bytes = removal.of_documents()
    empty = kept & (tokens > 0) & (tokens == np.diff(store.document_starts) - 1)
    losing = int((tokens > 0).sum())
    counts = (leaked, passages, lines, losing, int(empty.sum()))
    return Cut(kept & ~empty, removal.gone, text_bytes, *counts)

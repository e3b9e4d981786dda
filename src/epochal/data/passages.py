"""Passages that stood earlier in a store, and lines that many of its documents have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.ngrams import (
    Mask,
    Places,
    Sought,
    Units,
    UnitsOf,
    chunks,
    cover,
    lines_of,
    windows_of,
)
from epochal.data.options import DuplicateOptions
from epochal.data.store import TokenStore
from epochal.data.tokenizer import Tokenizer
from epochal.progress import bar

SHORTEST_LINE = 8
"""Tokens; shorter lines are common by themselves. Chosen by us."""
_BATCH = 1 << 22  # tokens looked for at a time, in some 500 MB
_PIECES = 1024  # of a sample
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of text."""

    tokens: float
    share: float
    """Of the store's tokens."""
    documents: int | None = None
    """Whole documents; None where parts of documents are counted."""
    standard_error: float = 0.0
    """Of `tokens`, from sampling; 0 where all of the store was read."""


@dataclass(frozen=True, slots=True)
class RepeatedPassage:
    """A passage that is repeated often."""

    times: int
    documents: int
    """That have it."""
    place: int
    """Token of the store at which it begins first."""
    text: str | None
    """None without a tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What is repeated inside of documents."""

    sampled_tokens: int
    """In which it was looked for."""
    passages: Amount
    lines: Amount | None
    both: Amount
    most_repeated: tuple[RepeatedPassage, ...]


class Passages:
    """Repeated passages and lines in the documents of a store that are kept."""

    def __init__(
        self,
        store: TokenStore,
        kept: Mask,
        tokenizer: Tokenizer | None,
        options: DuplicateOptions,
    ) -> None:
        """Of `store`, in its documents under `kept`; lines only if a tokenizer shows their ends."""
        self._store, self._kept, self._tokenizer = store, kept, tokenizer
        self._options = options
        self._windows = windows_of(store, options.passage)
        self._lines: UnitsOf | None = None
        if tokenizer is not None and (ends := line_ends(tokenizer)).any():
            self._lines = lines_of(store, ends, SHORTEST_LINE, options.passage - 1)
        self._pieces = _pieces(store.unique_tokens, options)
        self._sampled = int((self._pieces[:, 1] - self._pieces[:, 0]).sum())

    def measure(self) -> Repeated:
        """Read the store: as a whole once, or once for each few million tokens looked for."""
        counts: list[tuple[int, int]] = []
        most: dict[int, RepeatedPassage] = {}
        sizes = self._pieces[:, 1] - self._pieces[:, 0]
        batches = np.split(self._pieces, np.flatnonzero(np.diff(np.cumsum(sizes) // _BATCH)) + 1)
        for number, batch in enumerate(batches, start=1):
            name = "Passages" if len(batches) == 1 else f"Passages {number}/{len(batches)}"
            margin = self._options.passage - 1
            windows, seen = self._look(self._windows, batch, margin, name)
            lines = self._look(self._lines, batch, margin, "Lines") if self._lines else None
            self._most(seen, most)
            repeated = windows[windows.places > seen.first[seen.numbers(windows.hashes)]]
            boilerplate = lines and _boilerplate(*lines, self._options.line_documents)
            for first, last in batch.tolist():
                passage = cover(_between(repeated, first, last), first, last)
                line = np.zeros_like(passage)
                if boilerplate:
                    line = cover(_between(boilerplate, first, last), first, last) & ~passage
                counts.append((int(passage.sum()), int(line.sum())))
        values = np.array(counts, dtype=np.float64)
        return Repeated(
            sampled_tokens=self._sampled,
            passages=self._amount(values[:, 0]),
            lines=self._amount(values[:, 1]) if self._lines else None,
            both=self._amount(values.sum(axis=1)),
            most_repeated=tuple(self._shown(most)),
        )

    def _look(
        self, units_of: UnitsOf, batch: Places, margin: int, name: str
    ) -> tuple[Units, Sought]:
        """The kept units that reach into the pieces, and where they are in the whole store."""
        found = [
            self._only_kept(units)
            for first, last in batch.tolist()
            for units in chunks(units_of, max(0, first - margin), last)
        ]
        units = Units(*(np.concatenate([getattr(u, f) for u in found]) for f in Units.__slots__))
        sought = Sought(units.hashes)
        with bar(name, self._store.unique_tokens) as progress:
            for number, each in enumerate(chunks(units_of, 0, self._store.unique_tokens)):
                sought.see(self._only_kept(each))
                progress.update(number << 17)
        return units, sought

    def _only_kept(self, units: Units) -> Units:
        return units[self._kept[units.documents]]

    def _amount(self, repeated: NDArray[np.float64]) -> Amount:
        """Tokens of the whole store, from those in the pieces, with the error of the ratio."""
        total = self._store.unique_tokens
        sizes = (self._pieces[:, 1] - self._pieces[:, 0]).astype(np.float64)
        share = float(repeated.sum() / sizes.sum())
        error = 0.0
        if self._sampled < total:
            count = len(sizes)
            spread = float(((repeated - share * sizes) ** 2).sum() / (count - 1))
            error = (spread * (1 - self._sampled / total) / count) ** 0.5 / float(sizes.mean())
        return Amount(share * total, share, None, error * total)

    def _most(self, seen: Sought, most: dict[int, RepeatedPassage]) -> None:
        """Put the passages of a batch that are repeated most into `most`, by the first place."""
        order = np.lexsort((-seen.times, -seen.documents))[: 64 * _SHOWN]
        for number in order[seen.times[order] > 1].tolist():
            place = int(seen.first[number])
            most[place] = RepeatedPassage(
                int(seen.times[number]), int(seen.documents[number]), place, None
            )

    def _shown(self, most: dict[int, RepeatedPassage]) -> list[RepeatedPassage]:
        """A few of those in most documents, none of which overlaps another one, with their text."""
        shown: list[RepeatedPassage] = []
        length = self._options.passage
        for each in sorted(most.values(), key=lambda one: (-one.documents, -one.times, one.place)):
            if all(abs(each.place - other.place) >= length for other in shown):
                shown.append(each)
            if len(shown) == _SHOWN:
                break
        if self._tokenizer is None:
            return shown
        tokens, decode = self._store.tokens, self._tokenizer.decode
        return [
            dataclasses.replace(one, text=decode(tokens[one.place : one.place + length]))
            for one in shown
        ]


def _between(units: Units, first: int, last: int) -> Units:
    """The units, of which none is longer than a piece, that may reach into `first` … `last`."""
    margin = int(units.lengths.max(initial=0))
    return units[(units.places > first - margin) & (units.places < last)]


def _boilerplate(units: Units, seen: Sought, documents: int) -> Units:
    """Lines that so many documents have, but for the first of each."""
    numbers = seen.numbers(units.hashes)
    return units[(seen.documents[numbers] >= documents) & (units.places > seen.first[numbers])]


def line_ends(tokenizer: Tokenizer) -> Mask:
    """[vocabulary] whether a token's text has a line end."""
    if tokenizer.token_byte_lengths is None:
        texts: Iterator[Any] = map(tokenizer.token_text, range(tokenizer.vocabulary))
        return np.array(["\n" in text for text in texts])
    return np.array([b"\n" in tokenizer.token_bytes(n) for n in range(tokenizer.vocabulary)])


def _pieces(total: int, options: DuplicateOptions) -> Places:
    """[pieces, 2] (first token, end) of the pieces looked at: all, or a random choice."""
    size = min(1 << 16, max(256, options.sample // _PIECES))
    starts = np.arange(0, total, size)
    if total > options.sample:
        key = rng.stream_key(options.seed, "pieces for duplicates")
        starts = np.sort(rng.random_order(key, starts)[: max(2, options.sample // size)]) * size
    return np.stack([starts, np.minimum(starts + size, total)], axis=1)

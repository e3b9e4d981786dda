"""Runs of token ids as 64-bit hashes: windows of n tokens and short lines, found again in a store.

Equal runs have equal hashes. Unequal ones share a hash with probability 2^-64 a pair, so among a
billion windows about 0.03 pairs do, which is not counted as an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.store import Tokens, TokenStore
from epochal.rng import Keys

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]

_CHUNK = 1 << 17
_KEY = rng.stream_key(0, "n-grams")
_FILTER_BITS = 27


def window_hashes(ids: Tokens, length: int) -> Keys:
    """[n] ids → [n − length + 1] hashes of every `length` ids in a row, or [0] if there are none.

    Hashes of two windows make that of the window they cover together, so a length of 50 takes
    seven steps.
    """
    if len(ids) < length:
        return np.zeros(0, dtype=np.uint64)
    hashes, covered = rng.outputs(np.asarray(_KEY, dtype=np.uint64), ids), 1
    while covered < length:
        step = min(covered, length - covered)
        hashes = rng.outputs(hashes[: len(hashes) - step], hashes[step:])
        covered += step
    return hashes


@dataclass(frozen=True, slots=True)
class Units:
    """Runs of tokens that may be repeated."""

    places: Places
    """[units] where each begins in the store, rising."""
    lengths: Places
    """[units] tokens."""
    hashes: Keys
    documents: Places
    """[units] number of the document that each lies in."""

    def __getitem__(self, mask: Mask | Places) -> Units:
        return Units(self.places[mask], self.lengths[mask], self.hashes[mask], self.documents[mask])


UnitsOf = Callable[[int, int], Units]
"""(first, last) → the units that begin at a token from `first` to before `last`."""


def windows_of(store: TokenStore, length: int) -> UnitsOf:
    """Every window of `length` tokens that lies within one document."""
    starts = store.document_starts

    def find(first: int, last: int) -> Units:
        hashes = window_hashes(store.tokens[first : last + length - 1], length)
        places = np.arange(first, first + len(hashes))
        documents = np.searchsorted(starts, places, side="right") - 1
        inside = places + length <= starts[documents + 1]
        return Units(places, np.full_like(places, length), hashes, documents)[inside]

    return find


def lines_of(store: TokenStore, ends_line: Mask, shortest: int, longest: int) -> UnitsOf:
    """Every line of `shortest` to `longest` tokens.

    A line ends with a token whose text has a line end (`ends_line` [vocabulary]), or with its
    document.
    """
    starts = store.document_starts

    def find(first: int, last: int) -> Units:
        begin = max(0, first - 1)
        ids = store.tokens[begin : last + longest + 1]
        ends = ends_line[ids]
        few, more = np.searchsorted(starts, (begin, begin + len(ids)), side="right")
        boundaries = starts[few:more]
        ends[boundaries - begin - 1] = True
        edges = np.flatnonzero(ends) + begin + 1
        if first == 0:
            edges = np.append(0, edges)
        places, lengths = edges[:-1], np.diff(edges)
        wanted = (places >= first) & (places < last) & (lengths >= shortest) & (lengths <= longest)
        places, lengths = places[wanted], lengths[wanted]
        documents = np.searchsorted(starts, places, side="right") - 1
        return Units(places, lengths, _run_hashes(store.tokens, places, lengths), documents)

    return find


def _run_hashes(tokens: Tokens, places: Places, lengths: Places) -> Keys:
    """Hashes of runs of tokens: sums of what each token hashes to at its place in the run."""
    if not len(places):
        return np.zeros(0, dtype=np.uint64)
    begins = np.cumsum(lengths) - lengths
    offsets = np.arange(int(lengths.sum())) - np.repeat(begins, lengths)
    ids = tokens[np.repeat(places, lengths) + offsets]
    hashes = rng.row_keys(_KEY, offsets, ids)
    sums: Keys = np.add.reduceat(hashes, begins)
    return rng.outputs(sums, lengths)


def chunks(units_of: UnitsOf, first: int, last: int) -> Iterator[Units]:
    """The units from `first` to before `last`, some at a time, rising."""
    for start in range(first, last, _CHUNK):
        yield units_of(start, min(start + _CHUNK, last))


class Sought:
    """Hashes that are looked for: where each was seen first, how often, in how many documents."""

    def __init__(self, hashes: Keys) -> None:
        """Look for these."""
        self.keys = sorted_set(hashes)
        self.first = np.full(len(self.keys), np.iinfo(np.int64).max)
        self.times = np.zeros(len(self.keys), dtype=np.int64)
        self.documents = np.zeros(len(self.keys), dtype=np.int64)
        self._latest = np.full(len(self.keys), -1, dtype=np.int64)
        bits = min(_FILTER_BITS, max(8, int(8 * len(self.keys)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, dtype=bool)
        self._filter[self.keys >> self._shift] = True

    def find(self, hashes: Keys) -> tuple[Places, Places]:
        """(positions in `hashes` of those that are sought, their numbers among the keys).

        By rising number, and of one number in the order of `hashes`.
        """
        maybe = np.flatnonzero(self._filter[hashes >> self._shift])
        # Sorted ones are looked up in a large table several times as fast as they come.
        maybe = maybe[np.argsort(hashes[maybe], kind="stable")]
        numbers = np.searchsorted(self.keys, hashes[maybe])
        numbers[numbers == len(self.keys)] = 0
        equal = self.keys[numbers] == hashes[maybe] if len(self.keys) else numbers > 0
        return maybe[equal], numbers[equal]

    def numbers(self, hashes: Keys) -> Places:
        """[n] hashes, all of them sought → [n] their numbers among the keys."""
        numbers = np.zeros(len(hashes), dtype=np.int64)
        found, those = self.find(hashes)
        numbers[found] = those
        return numbers

    def see(self, units: Units) -> None:
        """Count units, which come in rising order."""
        found, numbers = self.find(units.hashes)
        np.minimum.at(self.first, numbers, units.places[found])
        np.add.at(self.times, numbers, 1)
        documents = units.documents[found]
        before = np.where(
            np.append(True, numbers[1:] != numbers[:-1])[: len(numbers)],
            self._latest[numbers],
            np.append(-1, documents[:-1])[: len(numbers)],
        )
        np.add.at(self.documents, numbers, documents != before)
        np.maximum.at(self._latest, numbers, documents)


def sorted_set(hashes: Keys) -> Keys:
    """The hashes in order, each once."""
    keys = np.sort(hashes)
    once: Keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    return once


def cover(units: Units, first: int, last: int) -> Mask:
    """[last − first] whether each token from `first` on lies in one of the units."""
    change = np.zeros(last - first + 1, dtype=np.int32)
    ends = units.places + units.lengths
    meets = (ends > first) & (units.places < last)
    np.add.at(change, np.maximum(units.places[meets] - first, 0), 1)
    np.add.at(change, np.minimum(ends[meets], last) - first, -1)
    covered: Mask = np.cumsum(change[:-1]) > 0
    return covered

"""Documents that are nearly equal: MinHash with banding, every candidate checked exactly.

Two documents are near if the sets of their shingles (windows of five tokens) have a Jaccard
similarity of `similarity` or more. MinHash (Broder 1997) only proposes pairs: those whose
signatures of 120 hashes agree in all six of one of 20 bands. The proposed ones are compared in
full, so that nothing is found wrongly, and of pairs of similarity s the share 1 − (1 − s⁶)²⁰ is
found: 99.8 % at 0.8. What that leaves out is estimated from what was found (Horvitz and Thompson
1952). Written here, since `datasketch` keeps its tables as Python dictionaries, which take some GB
for a million documents, and this 80 bytes a document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.ngrams import Mask, chunks, sorted_set, window_hashes, windows_of
from epochal.data.store import TokenStore
from epochal.progress import bar
from epochal.rng import Keys

SHINGLE, BANDS, ROWS = 5, 20, 6
"""Tokens of a shingle; bands of a signature, and hashes in each. 5 as in FineWeb's deduplication
(arXiv 2406.17557); the bands chosen by us for similarities from 0.7 on."""
_COMPARED = 16  # documents of one band's group that each is compared with at most
_KEY = rng.stream_key(0, "MinHash")

Similarities = NDArray[np.float64]
_Pairs = Iterator[tuple[int, list[int]]]
"""Documents of a group, each with those that it is compared with."""


def detection(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a pair of documents with that Jaccard similarity is proposed."""
    found: NDArray[np.float64] = 1 - (1 - similarity**ROWS) ** BANDS
    return found


class NearDocuments:
    """The documents of several stores, numbered in their order, and which of them are near."""

    def __init__(self, stores: Sequence[TokenStore]) -> None:
        """Make every document's signature."""
        self._stores = stores
        self._limits = np.cumsum([0, *(store.documents for store in stores)])
        self._keys = np.concatenate([_band_keys(store) for store in stores])
        lengths = np.concatenate([np.diff(store.document_starts) for store in stores])
        self._long = lengths >= SHINGLE
        self._shingles = lru_cache(maxsize=256)(self._read_shingles)

    def _read_shingles(self, number: int) -> Keys:
        """The set of a document's shingles, sorted."""
        place = int(np.searchsorted(self._limits, number, side="right")) - 1
        ids = self._stores[place].document(number - int(self._limits[place]))
        return sorted_set(window_hashes(ids, SHINGLE))

    def earlier(self, similarity: float, among: Mask) -> Similarities:
        """[documents] similarity to an earlier near document, else 0; only those under `among`."""
        return self._near(similarity, among, _to_earlier)

    def across(self, similarity: float, among: Mask) -> Similarities:
        """[documents] similarity to a near document of another one of two stores, else 0."""
        limit = int(self._limits[1])

        def pairs(group: list[int]) -> Iterator[tuple[int, list[int]]]:
            first = [number for number in group if number < limit]
            second = group[len(first) :]
            yield from ((number, second) for number in first if second)
            yield from ((number, first) for number in second if first)

        return self._near(similarity, among, pairs)

    def _near(
        self, similarity: float, among: Mask, pairs: Callable[[list[int]], _Pairs]
    ) -> Similarities:
        numbers = np.flatnonzero(self._long & among)
        best = np.zeros(len(self._long))
        differ: set[tuple[int, int]] = set()
        with bar("Near duplicates", BANDS) as progress:
            for band in range(BANDS):
                progress.update(band)
                for group in _groups(self._keys[numbers, band], numbers):
                    for number, others in pairs(group):
                        if not best[number]:
                            best[number] = self._match(number, others, similarity, differ)
        return best

    def _match(
        self, number: int, others: list[int], similarity: float, differ: set[tuple[int, int]]
    ) -> float:
        """Similarity to the first of the others that is near, or 0; the rest go into `differ`."""
        for other in others[:_COMPARED]:
            pair = min(other, number), max(other, number)
            if pair in differ:
                continue
            likeness = jaccard(self._shingles(other), self._shingles(number))
            if likeness >= similarity:
                return likeness
            differ.add(pair)
        return 0.0


def _to_earlier(group: list[int]) -> _Pairs:
    return ((number, group[:place]) for place, number in enumerate(group) if place)


def jaccard(a: Keys, b: Keys) -> float:
    """Shared shingles over all shingles of two sorted sets."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)


def _groups(keys: NDArray[np.uint32], numbers: NDArray[np.int64]) -> Iterator[list[int]]:
    """The numbers, rising, of documents that share a key with another one."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    edges = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(order)])
    sizes = np.diff(np.append(edges, len(order)))
    for start, size in zip(edges[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield numbers[order[start : start + size]].tolist()


def _band_keys(store: TokenStore) -> NDArray[np.uint32]:
    """[documents, BANDS] what each band of a document's signature hashes to."""
    multipliers = rng.row_keys(_KEY, np.arange(BANDS * ROWS)) | np.uint64(1)
    keys = np.zeros((store.documents, BANDS), dtype=np.uint32)
    signature = np.full(BANDS * ROWS, np.iinfo(np.uint64).max)
    current = -1
    with bar("Signatures", store.unique_tokens) as progress:
        for units in chunks(windows_of(store, SHINGLE), 0, store.unique_tokens):
            if not len(units.places):
                continue
            documents, begins = np.unique(units.documents, return_index=True)
            rows = np.stack(
                [np.minimum.reduceat(units.hashes * m, begins) for m in multipliers], axis=1
            )
            if documents[0] == current:  # it went on from the chunk before
                rows[0] = np.minimum(rows[0], signature)
            keys[documents] = _fold(rows)
            current, signature = int(documents[-1]), rows[-1]
            progress.update(int(units.places[-1]))
    return keys


def _fold(signatures: Keys) -> NDArray[np.uint32]:
    """[documents, BANDS · ROWS] → [documents, BANDS] keys of bands."""
    bands = signatures.reshape(len(signatures), BANDS, ROWS)
    hashes = bands[:, :, 0]
    for row in range(1, ROWS):
        hashes = rng.outputs(hashes, bands[:, :, row])
    return (hashes >> np.uint64(32)).astype(np.uint32)

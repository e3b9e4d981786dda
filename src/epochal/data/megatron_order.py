"""The original's order of rows, exactly: Megatron's GPT dataset from (seed, documents, L, samples).

All epochs are laid end to end as one list of documents and shuffled together; that stream is cut
into rows of L tokens, and the rows are shuffled once more. If the last epoch is needed for less
than 80 % of its rows it is kept apart, both times, so that its documents come last. Three arrays
hold this, those that the original keeps in its `index-cache`:

    doc_idx      int32, the sequence at each place of the stream
    sample_idx   [rows + 1, 2] int64, (place in doc_idx, offset in the sequence) of row starts
    shuffle_idx  uint32, which row comes when

All are drawn from one `numpy.random.RandomState(seed)`, whose stream numpy keeps for ever.
Source: `megatron/data/gpt_dataset.py` and `helpers.cpp` of arXiv 2507.15857's code, d31c167.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import files, rng
from epochal.data.rows import Batch
from epochal.data.store import TokenStore
from epochal.errors import RecipeError
from epochal.progress import say

_CHUNK = 1 << 22
_NAMES = ("doc_idx", "sample_idx", "shuffle_idx")
_LARGEST_SEED = 2**32 - 1

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The arrays of the original's index cache."""

    doc_idx: NDArray[np.int32]
    sample_idx: NDArray[np.int64]
    shuffle_idx: Array


def _build(sizes: Array, length: int, samples: int, seed: int) -> _Arrays:
    """The three arrays for `samples` rows of `length` tokens over sequences of `sizes` tokens.

    There may be more rows than asked for: whole epochs are ordered. Raises RecipeError for a
    seed that RandomState does not take.
    """
    if seed > _LARGEST_SEED:
        raise RecipeError(
            f'`seed` = {seed} is too large for `data.order` = "megatron": numpy\'s RandomState '
            f"takes seeds up to {_LARGEST_SEED}"
        )
    per_epoch = int(sizes.sum(dtype=np.int64))
    # The fewest epochs that hold `samples` rows of `length` + 1 tokens, which overlap by one.
    epochs = max(1, -(-(samples * length + 1) // per_epoch))
    apart = _last_epoch_apart(per_epoch, length, samples, epochs)
    random = np.random.RandomState(seed)
    doc_idx = _documents(len(sizes), epochs, random, apart)
    sample_idx = _row_starts(sizes, doc_idx, length, (epochs * per_epoch - 1) // length)
    rows = len(sample_idx) - 1
    first = ((epochs - 1) * per_epoch - 1) // length if apart else rows
    return _Arrays(doc_idx, sample_idx, _shuffled(first, rows, random))


def _last_epoch_apart(per_epoch: int, length: int, samples: int, epochs: int) -> bool:
    if epochs == 1:
        return False
    before = ((epochs - 1) * per_epoch - 1) // length
    return samples - before < int(0.80 * ((per_epoch - 1) // length))


def _documents(
    count: int, epochs: int, random: np.random.RandomState, apart: bool
) -> NDArray[np.int32]:
    order = np.tile(np.arange(count, dtype=np.int32), epochs)
    if not apart:
        random.shuffle(order)
        return order
    # Slices are views, so these shuffle in place.
    random.shuffle(order[:-count])
    random.shuffle(order[-count:])
    return order


def _row_starts(
    sizes: Array, doc_idx: NDArray[np.int32], length: int, rows: int
) -> NDArray[np.int64]:
    """Row i starts at token i·L of the stream: (place in doc_idx, offset), in pieces."""
    starts = np.zeros((rows + 1, 2), dtype=np.int64)
    before, row = 0, 1
    for first in range(0, len(doc_idx), _CHUNK):
        here = sizes[doc_idx[first : first + _CHUNK]].astype(np.int64)
        ends = before + np.cumsum(here)
        stop = min(rows, (int(ends[-1]) - 1) // length)
        tokens = np.arange(row, stop + 1) * length
        # The sequence that holds the token; empty ones hold none.
        place = np.searchsorted(ends, tokens, side="right")
        starts[row : stop + 1, 0] = first + place
        starts[row : stop + 1, 1] = tokens - (ends - here)[place]
        before, row = int(ends[-1]), stop + 1
    return starts


def _shuffled(first: int, rows: int, random: np.random.RandomState) -> Array:
    kind = np.int64 if rows >= np.iinfo(np.uint32).max - 1 else np.uint32
    order = np.arange(rows, dtype=kind)
    random.shuffle(order[:first])
    if first < rows:
        random.shuffle(order[first:])
    return order


class MegatronOrder:
    """Rows in the original's order. Like RowOrder, a row is a pure function of its number."""

    def __init__(
        self,
        store: TokenStore,
        sequence_length: int,
        seed: int,
        samples: int,
        cache: Path | None = None,
    ) -> None:
        """`samples` is the original's --train-samples, which decides how many epochs are mixed.

        With `cache`, the arrays are written to that folder as .npy files and mapped from there.
        """
        self.sequence_length = sequence_length
        self.rows_per_epoch = max(1, store.unique_tokens // sequence_length)
        self._tokens = store.tokens
        self._ends = np.cumsum(store.sizes, dtype=np.int64)
        self._arrays = _cached(store.sizes, sequence_length, samples, seed, cache)
        self._noise_key = rng.stream_key(seed, "noise")

    def batch(self, first: int, count: int) -> Batch:
        """Rows number `first` … `first` + `count` - 1 of the run, counted through all epochs."""
        number = np.arange(first, first + count)
        epoch, index = np.divmod(number, self.rows_per_epoch)
        return Batch(
            tokens=np.stack([self._row(each) for each in number.tolist()]),
            keys=rng.row_keys(self._noise_key, epoch, index),
        )

    def _row(self, number: int) -> NDArray[np.int64]:
        """[L + 1] tokens: from the row's start up to the next row's first token."""
        arrays = self._arrays
        row = int(arrays.shuffle_idx[number])
        (begin, skip), (end, last) = arrays.sample_idx[row : row + 2].tolist()
        documents = arrays.doc_idx[begin : end + 1].tolist()
        pieces = []
        for place, document in enumerate(documents):
            start = int(self._ends[document - 1]) if document else 0
            stop = int(self._ends[document])
            if place == len(documents) - 1:
                stop = start + last + 1
            pieces.append(self._tokens[start + (skip if place == 0 else 0) : stop])
        return np.concatenate(pieces).astype(np.int64)


def _cached(sizes: Array, length: int, samples: int, seed: int, cache: Path | None) -> _Arrays:
    """The arrays from the cache, or computed and written there."""
    if cache is None:
        return _build(sizes, length, samples, seed)
    facts = {
        "sizes_sha256": hashlib.sha256(sizes.astype("<i4").tobytes()).hexdigest(),
        "sequence_length": length,
        "samples": samples,
        "seed": seed,
    }
    paths = [cache / f"{name}.npy" for name in _NAMES]
    described = cache / "order.json"
    if not (_is_described(described, facts) and all(path.is_file() for path in paths)):
        say(f"computing Megatron's order of {samples:,} rows")
        arrays = _build(sizes, length, samples, seed)
        for name, path in zip(_NAMES, paths, strict=True):
            with files.atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, getattr(arrays, name), allow_pickle=False)
        files.write_json(described, facts)
    return _Arrays(*(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths))


def _is_described(path: Path, facts: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == facts)
    except (OSError, ValueError):
        return False

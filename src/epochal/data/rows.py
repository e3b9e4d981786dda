"""Rows of tokens: for training a function of (seed, epoch, index), for evaluation fixed windows.

Training takes the token stream as a circle. Each epoch starts at a new random place on it, cuts it
into ⌊U / L⌋ windows of L tokens and visits them in a new random order. So no two epochs cut the
text alike, and each token is equally likely to be among the U mod L left out. A row is a window
and the token after it (AR's last target, and the first token of the next window). Nothing is
buffered or shuffled in memory: any row of any epoch can be read at once, by any process, and the
loader's whole state is one integer.

Shape letters: B rows, L positions, U unique tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.errors import DataError
from epochal.rng import Keys

Tokens = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows of a run."""

    tokens: NDArray[np.int64]
    """[B, L + 1]."""
    keys: Keys
    """[B], one per (seed, epoch, index): the source of the row's noise."""


class Order(Protocol):
    """Which rows a run sees, and when."""

    def batch(self, first: int, count: int) -> Batch:
        """Rows number `first` … `first` + `count` - 1 of the run, counted through all epochs."""
        ...


class RowOrder:
    """The rows that a seed gives, in the order in which a run sees them."""

    def __init__(self, tokens: Tokens, sequence_length: int, seed: int) -> None:
        """`tokens` is the [U] stream, all documents end to end.

        Raises DataError if they do not fill one row.
        """
        if len(tokens) < sequence_length:
            raise DataError(
                f"`data.sequence_length` = {sequence_length:,} but the training store holds only "
                f"{len(tokens):,} tokens, less than one row; lower it or prepare more text"
            )
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.rows_per_epoch = len(tokens) // sequence_length
        self._order_seed = seed
        self._noise_key = rng.stream_key(seed, "noise")

    def batch(self, first: int, count: int) -> Batch:
        """Rows number `first` … `first` + `count` - 1 of the run, counted through all epochs."""
        number = np.arange(first, first + count)
        epoch, index = np.divmod(number, self.rows_per_epoch)
        starts = np.empty(count, dtype=np.int64)
        for value in np.unique(epoch):
            here = epoch == value
            starts[here] = self._starts(int(value), index[here])
        return Batch(
            tokens=circular_windows(self.tokens, starts, self.sequence_length + 1),
            keys=rng.row_keys(self._noise_key, epoch, index),
        )

    def _starts(self, epoch: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Offsets in the stream at which the rows `index` of `epoch` start."""
        order = rng.stream_key(self._order_seed, "order", epoch)
        offset = rng.stream_key(self._order_seed, "offset", epoch) % len(self.tokens)
        window = rng.shuffled_index(order, index, self.rows_per_epoch)
        return (offset + window * self.sequence_length) % len(self.tokens)


def circular_windows(tokens: Tokens, starts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """[B, width] tokens from each start on; after the last token of the stream comes the first."""
    windows = np.empty((len(starts), width), dtype=np.int64)
    for row, start in enumerate(starts.tolist()):
        # A slice, not a list of positions: the stream is a file mapped into memory.
        piece = tokens[start : start + width]
        windows[row, : len(piece)] = piece
        if len(piece) < width:
            windows[row, len(piece) :] = tokens[: width - len(piece)]
    return windows


class ScoredWindows:
    """A stream cut into windows of L tokens that overlap by one.

    The first token of a window is given, the other L - 1 are scored. So every token but the
    very first is scored once, by all families under the same condition. All windows have L
    tokens, but the last may be shorter.
    """

    def __init__(self, tokens: Tokens, sequence_length: int, max_tokens: int | None = None) -> None:
        """With `max_tokens`, as many windows as fit into it, evenly spaced over the stream."""
        self.tokens = tokens
        self.stride = sequence_length - 1
        total = max(0, -(-(len(tokens) - 1) // self.stride)) if self.stride else 0
        keep = total if max_tokens is None else min(total, max(1, max_tokens // sequence_length))
        self.windows = np.arange(keep) * total // max(keep, 1)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.windows)

    @property
    def full(self) -> int:
        """Number of leading windows that have all L tokens (all, or all but the last)."""
        if not len(self.windows):
            return 0
        last_end = int(self.windows[-1]) * self.stride + self.stride + 1
        return len(self.windows) - (last_end > len(self.tokens))

    def rows(self, first: int, count: int) -> NDArray[np.int64]:
        """[B, L] tokens of `count` windows from number `first` on; position 0 is context only.

        The windows must have equal length: all below `full`, or the one at `full`.
        """
        starts = self.windows[first : first + count] * self.stride
        width = min(self.stride + 1, len(self.tokens) - int(starts[-1]))
        rows = np.stack([np.asarray(self.tokens[s : s + width]) for s in starts.tolist()])
        return rows.astype(np.int64)

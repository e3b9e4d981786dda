"""Rows for evaluation: fixed windows of a token stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epochal.data.batches import Tokens


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Some windows of one length."""

    tokens: NDArray[np.int64]
    """[B, L]; position 0 is context only."""
    places: NDArray[np.int64]
    """[B] place in the stream of each row's position 0."""


class ScoredWindows:
    """A stream cut into windows of L tokens that overlap by one.

    The first token of a window is given, the other L - 1 are scored. So every token but the
    very first is scored once, by both families under the same condition. All windows have L
    tokens, but the last may be shorter.
    """

    def __init__(self, tokens: Tokens, sequence_length: int, max_tokens: int | None = None) -> None:
        """With `max_tokens`, only so many windows as fit, spread evenly over the stream."""
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
        """How many windows, from the first on, have all L tokens (all, or all but one)."""
        if not len(self.windows):
            return 0
        last_end = int(self.windows[-1]) * self.stride + self.stride + 1
        return len(self.windows) - (last_end > len(self.tokens))

    def rows(self, first: int, count: int) -> ScoredRows:
        """Windows number `first` … of equal length: never ask across `full`."""
        places = self.windows[first : first + count] * self.stride
        width = min(self.stride + 1, len(self.tokens) - int(places[-1]))
        tokens = np.stack([np.asarray(self.tokens[p : p + width]) for p in places.tolist()])
        return ScoredRows(tokens=tokens.astype(np.int64), places=places)

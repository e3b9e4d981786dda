"""One of the two stores of a corpus while it is written: what goes into it, counted."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from epochal.data.removal import Cut
from epochal.data.shards import Shard
from epochal.data.split import Mask, Selection
from epochal.data.store_writer import StoreWriter


@dataclass
class Side:
    """One of the two stores while it is written."""

    role: Literal["train", "validation"]
    writer: StoreWriter
    selection: Selection
    """Where its documents come from."""
    lengths: array[int] = field(default_factory=lambda: array("q"))
    """Bytes of each document's text."""
    text_bytes: int = 0
    repeats: int = 0
    dropped: int = 0
    """Near duplicates that were left out."""
    repeated_tokens: int = 0
    cut: Cut | None = None
    """What was cut out."""

    def take(self, cut: Cut) -> None:
        """Count what is left after the cut."""
        self.cut, self.dropped = cut, self.dropped + cut.empty
        self.text_bytes = int((np.array(self.lengths) - cut.text_bytes)[cut.kept].sum())

    def add(
        self, shard: Shard, mine: Mask, lengths: NDArray[np.int64], repeats: NDArray[np.bool_]
    ) -> None:
        """Add the documents of a shard that are `mine`; all arrays are [its documents]."""
        if not mine.any():
            return
        ids = shard.ids if mine.all() else shard.ids[np.repeat(mine, shard.sizes)]
        goes_on = bool(shard.going_on and mine[-1])
        self.writer.add_all(ids, shard.sizes[mine], goes_on)
        self.repeated_tokens += int(shard.sizes[mine & repeats].sum())
        ended = mine.copy()
        ended[-1] &= not shard.going_on
        self.lengths.frombytes(lengths[ended].tobytes())
        self.text_bytes += int(lengths[ended].sum())
        self.repeats += int(repeats[ended].sum())

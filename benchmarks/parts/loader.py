"""The loader: rows in a new order each epoch, as a share of a step, and from a large store.

The large store has random ids (two bytes per token). The file has just been written, so it is in
the system's cache: a store that is read from a disk for the first time is as slow as that disk.
All on one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from epochal.data.rows import RowOrder
from epochal.data.store import TokenStore
from epochal.data.store_writer import StoreWriter
from epochal.units import format_count
from parts.options import Options
from parts.steps import make_step
from parts.timing import Row, take_turns, time_rows

_SHAPES = ((8, 512), (256, 2048))  # rows, tokens per row
_DOCUMENT = 1000
_EPOCHS = 20  # over which the steps are spread
_STEPS = 200


def measure(options: Options) -> list[Row]:
    """A batch with its masks, as a share of a training step; batches from a large store."""
    setting = options.setting
    recipe = setting.recipe("mdm")
    order = RowOrder(setting.tokens(), setting.sequence_length, recipe.seed)
    step = make_step("ours mdm", replace(setting, compiled=False))
    number = iter(range(10**9))
    batch, whole = "rows of a step", "step (not compiled)"
    times = take_turns(
        "loader",
        {
            batch: lambda: order.batch(setting.batch * next(number), setting.batch),
            whole: lambda: step(next(number)),
        },
        options.rounds,
    )
    rows = time_rows("loader", times, "ms", 1e3)
    shares = [100 * a / b for a, b in zip(times[batch], times[whole], strict=True)]
    middle = float(np.median(shares))
    rows.append(Row("loader", "share of a step", middle, "%", min(shares), max(shares)))
    with tempfile.TemporaryDirectory() as scratch:
        store = _make_store(Path(scratch) / "x", options.store_tokens)
        return [*rows, *(_from_store(store, *shape) for shape in _SHAPES)]


def _make_store(prefix: Path, tokens: int) -> TokenStore:
    """A store of `tokens` random ids of GPT-2's vocabulary, in documents of 1,000."""
    draw = np.random.default_rng(0)
    with StoreWriter(prefix, "<u2") as writer:
        for _ in range(tokens // _DOCUMENT):
            writer.add(draw.integers(0, 50257, _DOCUMENT, dtype=np.uint16))
        return writer.commit()


def _from_store(store: TokenStore, rows: int, length: int) -> Row:
    """Time of a step of `rows` rows, over steps spread over the epochs."""
    order = RowOrder(store.tokens, length, seed=1234)
    last = _EPOCHS * order.rows_per_epoch - rows
    times = []
    for first in np.linspace(0, last, _STEPS + 1, dtype=np.int64).tolist():
        begin = time.perf_counter()
        order.batch(first, rows)
        times.append(1e3 * (time.perf_counter() - begin))
    times = times[1:]  # the first one warms up
    name = f"{rows} × {length} from {format_count(store.unique_tokens)} tokens"
    middle = statistics.median(times)
    return Row("loader", name, middle, "ms", min(times), max(times), f"{_STEPS} steps")

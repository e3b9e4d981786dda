"""Time that the loader takes per step: rows of a memory-mapped store, in a new order each epoch.

    python benchmarks/loader_speed.py [--tokens 100M] [--steps 200]

Makes a store of random ids in a temporary folder (two bytes a token) and asks for steps spread
over several epochs. The file has just been written, so it lies in the system's cache: a store
that must come from a disk first is as slow as that disk. All steps are on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from epochal.data import StoreWriter, TokenStore
from epochal.data.batches import RowOrder
from epochal.units import format_count, parse_count

_SHAPES = ((8, 512), (256, 2048))  # rows, tokens per row
_DOCUMENT = 1000
_EPOCHS = 20  # over which the steps are spread


def make_store(prefix: Path, tokens: int) -> TokenStore:
    """A store of `tokens` random ids of GPT-2's vocabulary, in documents of 1,000."""
    draw = np.random.default_rng(0)
    with StoreWriter(prefix, "<u2") as writer:
        for _ in range(tokens // _DOCUMENT):
            writer.add(draw.integers(0, 50257, _DOCUMENT, dtype=np.uint16))
        return writer.commit()


def step_times(order: RowOrder, rows: int, steps: int) -> list[float]:
    """Seconds of each of `steps` steps of `rows` rows, spread over the epochs."""
    last = _EPOCHS * order.rows_per_epoch - rows
    times = []
    for first in np.linspace(0, last, steps + 1, dtype=np.int64).tolist():
        begin = time.perf_counter()
        order.batch(first, rows)
        times.append(time.perf_counter() - begin)
    return times[1:]  # the first one warms up


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", default="100M", help="size of the store")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    tokens = parse_count(arguments.tokens)
    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(Path(scratch) / "x", tokens)
        print(f"a store of {format_count(store.unique_tokens)} tokens, {arguments.steps} steps")
        print(f"{'rows x length':<16}{'median ms':>10}{'95 % ms':>10}{'tokens/s':>12}")
        for rows, length in _SHAPES:
            order = RowOrder(store.tokens, length, seed=1234)
            times = sorted(step_times(order, rows, arguments.steps))
            median, late = statistics.median(times), times[int(0.95 * len(times))]
            rate = format_count(rows * length / median)
            shape = f"{rows} x {length}"
            print(f"{shape:<16}{1e3 * median:>10.3f}{1e3 * late:>10.3f}{rate:>12}")


if __name__ == "__main__":
    main()

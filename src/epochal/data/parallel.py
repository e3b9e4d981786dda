"""Work on a stream in threads: order kept, memory bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
Text = TypeVar("Text", bound=Sized)

_BATCH_CHARACTERS = 1 << 18  # enough work that handing it over costs nothing
_BATCH_TEXTS = 4096
_AHEAD = 2


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_texts(
    function: Callable[[Text], Result], texts: Iterable[Text], workers: int
) -> Iterator[Result]:
    """`function` of each text, in order, on `workers` threads.

    Faster only where `function` releases the interpreter's lock. At most a few batches of texts
    and results are held at a time.
    """
    if workers <= 1:
        yield from map(function, texts)
        return
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[list[Result]]] = deque()
        try:
            for batch in _batches(texts):
                running.append(pool.submit(lambda b: [function(text) for text in b], batch))
                if len(running) >= _AHEAD * workers:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    batch: list[Text] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_TEXTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch

"""Work in threads keeps order, bounds memory and passes errors on."""

from __future__ import annotations

import pytest

from epochal.data import parallel
from epochal.data.parallel import cores, map_texts


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order(monkeypatch, workers):
    monkeypatch.setattr(parallel, "_BATCH_CHARACTERS", 10)
    texts = [str(number) * (number % 4) for number in range(500)]
    assert list(map_texts(len, iter(texts), workers)) == list(map(len, texts))


def test_only_a_few_batches_are_read_ahead(monkeypatch):
    monkeypatch.setattr(parallel, "_BATCH_TEXTS", 10)
    read = []

    def texts():
        for number in range(10_000):
            read.append(number)
            yield str(number)

    results = map_texts(len, texts(), 2)
    next(results)
    assert len(read) <= 10 * (2 * 2 + 1)
    results.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_errors_of_texts_and_of_the_function_arrive(workers):
    def broken():
        yield "a"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(map_texts(len, broken(), workers))
    with pytest.raises(ValueError, match="invalid literal"):
        list(map_texts(int, ["1", "x"], workers))


def test_there_is_a_core():
    assert cores() >= 1

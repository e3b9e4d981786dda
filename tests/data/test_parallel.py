"""Work in processes keeps order, bounds memory, passes errors on and ends with its parent."""

from __future__ import annotations

import os
import signal

import pytest

from epochal.data.parallel import Workers, cores
from epochal.errors import DataError, NamedOption, UserError


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    with Workers(len, workers) as pool:
        for _ in range(2):
            texts = [str(number) * (number % 4) for number in range(200)]
            assert list(pool.map(iter(texts))) == list(map(len, texts))


def test_only_a_few_items_are_read_ahead():
    read = []

    def texts():
        for number in range(10_000):
            read.append(number)
            yield str(number)

    with Workers(len, 2) as pool:
        results = pool.map(texts())
        next(results)
        assert len(read) <= 4
        results.close()


def refuse(text):
    raise DataError("give more (", NamedOption("workers"), f") than {text}")


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_texts_and_of_the_function_arrive(workers):
    def broken():
        yield "a"
        raise OSError("gone")

    with Workers(len, workers) as pool, pytest.raises(OSError, match="gone"):
        list(pool.map(broken()))
    with Workers(refuse, workers) as pool, pytest.raises(DataError, match=r"`workers`.* than x"):
        list(pool.map(["x", "y"]))


def test_large_items_and_results_pass():
    with Workers(bytes.upper, 2) as pool:
        for result in pool.map([b"a" * 3_000_000] * 5):
            assert result == b"A" * 3_000_000


def test_a_process_that_was_killed_is_said():
    def die(_):
        os.kill(os.getpid(), signal.SIGKILL)

    with Workers(die, 2) as pool, pytest.raises(UserError, match=r"was ended.*fewer `workers`"):
        list(pool.map([1, 2, 3]))


def test_there_is_a_core():
    assert cores() >= 1

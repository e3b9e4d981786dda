"""Evaluation windows: every token but the first is scored exactly once."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epochal.data.rows import ScoredWindows

lengths = st.integers(2, 20)


def all_rows(windows, at_once):
    """(place, tokens) of each window, asked for as the evaluator does: never across `full`."""
    for start, end in ((0, windows.full), (windows.full, len(windows))):
        for first in range(start, end, at_once):
            count = min(at_once, end - first)
            starts = windows.windows[first : first + count] * windows.stride
            yield from zip(starts.tolist(), windows.rows(first, count).tolist(), strict=True)


@given(st.integers(0, 200), lengths, st.integers(1, 7))
def test_every_token_but_the_first_is_scored_once(size, length, at_once):
    windows = ScoredWindows(np.arange(size, dtype=np.uint16), length)
    scored = Counter()
    for place, tokens in all_rows(windows, at_once):
        assert tokens == list(range(place, place + len(tokens)))
        assert 2 <= len(tokens) <= length
        scored.update(tokens[1:])
    assert scored == Counter(range(1, size))


@given(st.integers(0, 200), lengths)
def test_all_windows_but_the_last_are_full(size, length):
    windows = ScoredWindows(np.arange(size), length)
    widths = [len(tokens) for _, tokens in all_rows(windows, 3)]
    assert widths[: windows.full] == [length] * windows.full
    assert len(widths) - windows.full in (0, 1)


@given(st.integers(2, 400), lengths, st.integers(1, 400))
def test_a_limit_takes_whole_windows_spread_evenly(size, length, limit):
    everything = ScoredWindows(np.arange(size), length)
    some = ScoredWindows(np.arange(size), length, limit)
    assert 1 <= len(some) <= max(1, limit // length)
    assert len(some) == min(len(everything), max(1, limit // length))
    gaps = np.diff(some.windows)
    assert len(gaps) == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    for place, tokens in all_rows(some, 2):
        assert tokens == list(range(place, place + len(tokens)))
        assert len(tokens) >= 2


def test_rows_are_of_int64_whatever_the_store():
    rows = ScoredWindows(np.arange(9, dtype=np.uint16), 5).rows(0, 2)
    assert rows.dtype == np.int64
    assert rows.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


def test_nothing_to_score():
    for size in (0, 1):
        windows = ScoredWindows(np.arange(size), 5)
        assert (len(windows), windows.full) == (0, 0)

"""Counts and intervals: reading, writing, and when an interval is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import UserError
from epochal.units import (
    Interval,
    Progress,
    format_count,
    format_epochs,
    parse_count,
    parse_interval,
    parse_number,
)

POSITIVE = st.floats(1e-12, 1e30)
UNITS = st.sampled_from(["steps", "tokens", "epochs", "flops", "percent", "minutes"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100M", 1e8),
        ("2.5b", 2.5e9),
        ("2.5G", 2.5e9),
        ("3e18", 3e18),
        ("1E", 1e18),
        ("7k", 7000),
        (" 1_000 ", 1000),
        (".5", 0.5),
        ("1e-3", 1e-3),
        (12, 12),
        (0.25, 0.25),
    ],
)
def test_numbers_are_read(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "0", 0, -2, "nan", "inf", float("nan"), "1e999", "1e-999", "x", "1.2.3", "M"]
)
def test_what_is_not_a_positive_number_is_refused(text):
    with pytest.raises(UserError, match="is not a positive number; write for example 100M"):
        parse_number(text)


@pytest.mark.parametrize("value", [True, None, [1]])
def test_other_types_are_refused(value):
    with pytest.raises(UserError, match="is not a number"):
        parse_number(value)


@given(st.integers(1, 10**6), st.integers(0, 6), st.sampled_from(["k", "M", "B", "T"]))
def test_counts_are_read_exactly(digits, decimals, suffix):
    """1.001M is 1,001,000: in binary it is a hair less."""
    exponent = {"k": 3, "M": 6, "B": 9, "T": 12}[suffix]
    text = f"{digits // 10**decimals}.{digits % 10**decimals:0{decimals}d}" if decimals else digits
    if decimals <= exponent:
        assert parse_count(f"{text}{suffix}") == digits * 10 ** (exponent - decimals)
    elif digits % 10 ** (decimals - exponent):
        with pytest.raises(UserError, match="not a whole number"):
            parse_count(f"{text}{suffix}")


@given(st.integers(1, 10**25))
def test_whole_numbers_stay_exact(value):
    assert parse_count(value) == parse_count(str(value)) == value


def test_fractions_are_no_counts():
    with pytest.raises(UserError, match=r"1\.5 is not a whole number"):
        parse_count(1.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1k"),
        (999_949, "1M"),
        (999_400, "999k"),
        (1e8, "100M"),
        (6.02e9, "6.02B"),
        (1.5e12, "1.5T"),
        (1.25e20, "1.25e+20"),
        (416_887_040, "417M"),
        (0.123456, "0.123"),
    ],
)
def test_counts_are_written(value, text):
    assert format_count(value) == text


@given(st.floats(1, 1e24))
def test_a_written_count_reads_back_to_three_digits(value):
    assert parse_number(format_count(value)) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("0.5 epochs", Interval(0.5, "epochs")),
        ("1 epoch", Interval(1, "epochs")),
        ("500steps", Interval(500, "steps")),
        ("10M tokens", Interval(1e7, "tokens")),
        ("1e15 FLOPs", Interval(1e15, "flops")),
        ("1e-3 epochs", Interval(1e-3, "epochs")),
        ("5%", Interval(5, "percent")),
        ("5 percent", Interval(5, "percent")),
        ("10 min", Interval(10, "minutes")),
        ("2 minutes", Interval(2, "minutes")),
    ],
)
def test_intervals_are_read(text, interval):
    assert parse_interval(text) == interval
    assert parse_interval(interval) is interval


@pytest.mark.parametrize("text", ["5", "", "steps", "5 parsecs", 5, None])
def test_what_is_not_an_interval_is_refused(text):
    with pytest.raises(UserError, match="is not an interval; write for example '500 steps'"):
        parse_interval(text)


@given(POSITIVE, UNITS)
def test_a_written_interval_reads_back_the_same(amount, unit):
    """Recipes are kept as text, so no digit may be lost."""
    assert parse_interval(str(Interval(amount, unit))) == Interval(amount, unit)


def progress(step, per_epoch=7, total=100):
    return Progress(
        steps=step,
        tokens=step * 10,
        epochs=step / per_epoch,
        flops=step * 1e12,
        percent=100 * step / total,
    )


@given(
    st.integers(1, 20),
    st.sampled_from([Interval(1 / 3, "epochs"), Interval(1, "epochs"), Interval(2, "percent")]),
)
def test_an_interval_is_due_once_per_multiple(per_epoch, interval):
    total = 10 * per_epoch
    due = [
        interval.due(progress(s - 1, per_epoch, total), progress(s, per_epoch, total))
        for s in range(1, total + 1)
    ]
    amounts = {"epochs": 10 / interval.amount, "percent": 100 / interval.amount}
    assert sum(due) == min(total, round(amounts[interval.unit]))
    assert due[-1]


def test_an_interval_of_steps_is_due_at_its_multiples():
    every = Interval(25, "steps")
    due = [s for s in range(1, 101) if every.due(progress(s - 1), progress(s))]
    assert due == [25, 50, 75, 100]
    assert Interval(1e13, "flops").due(progress(9), progress(10))
    assert not Interval(1e13, "flops").due(progress(10), progress(11))
    assert Interval(35, "tokens").due(progress(3), progress(4))


def test_an_interval_is_positive():
    with pytest.raises(UserError, match="'-5' is not a positive number"):
        parse_interval("-5 steps")


def test_epochs_in_words():
    assert [format_epochs(x) for x in (1.0, 1.001, 0.5, 4.149, 64)] == [
        "1 epoch",
        "1 epoch",
        "0.5 epochs",
        "4.15 epochs",
        "64 epochs",
    ]

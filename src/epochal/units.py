"""Counts and intervals as people write them: `100M`, `3e18`, `0.5 epochs`, `5%`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from epochal.errors import UserError

Unit = Literal["steps", "tokens", "epochs", "flops", "percent", "minutes"]

_SUFFIXES = {"": 0, "k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "p": 15, "e": 18}
_NUMBER = re.compile(
    r"\s*((?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,4})?)\s*([kmbgtpe]?)\s*",
    re.IGNORECASE,
)
_UNITS: dict[str, Unit] = {
    "step": "steps",
    "token": "tokens",
    "epoch": "epochs",
    "flop": "flops",
    "%": "percent",
    "percent": "percent",
    "min": "minutes",
    "minute": "minutes",
}


def parse_number(text: str | int | float) -> float:
    """`100M` → 1e8, `2.5b` → 2.5e9, `3e18` → 3e18. Suffixes: k, M, B or G, T, P, E.

    Raises UserError for anything that is not a positive finite number.
    """
    return float(_decimal(text))


def parse_count(text: str | int | float) -> int:
    """`100M` → 100_000_000. Raises UserError for fractions of one and for non-numbers."""
    value = _decimal(text)
    if value != int(value):
        raise UserError(f"{text!r} is not a whole number")
    return int(value)


def parse_counts(text: str) -> tuple[int, ...]:
    """`8,16,32k` → (8, 16, 32_000). Raises UserError for anything else."""
    try:
        return tuple(parse_count(part) for part in text.split(","))
    except UserError as error:
        raise UserError(f"{text!r} is not a list of whole numbers such as 8,16,32") from error


def _decimal(text: str | int | float) -> Decimal:
    """The number exactly as written: in binary, 1.001M would be a hair below 1,001,000."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UserError(f"{text!r} is not a number; write for example 100M, 2.5B or 3e18")
    match = _NUMBER.fullmatch(str(text))
    value = Decimal(match[1]).scaleb(_SUFFIXES[match[2].lower()]) if match else Decimal(0)
    # As a float it may still be 0 (1e-999) or infinite (1e999).
    if not 0 < float(value) < math.inf:
        raise UserError(f"{text!r} is not a positive number; write for example 100M, 2.5B or 3e18")
    return value


def format_count(value: float) -> str:
    """1e8 → '100M', 6.02e9 → '6.02B', 1.25e20 → '1.25e+20'; three significant digits."""
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    for suffix, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)}{suffix}"
    return _three_digits(value)


def format_epochs(number: float) -> str:
    """1 → '1 epoch', 4.149 → '4.15 epochs'."""
    text = f"{number:.3g}"
    return f"{text} epoch{'s' * (text != '1')}"


def _three_digits(value: float) -> str:
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in each unit an interval may be given in."""

    steps: float
    tokens: float
    epochs: float
    flops: float
    percent: float

    def at(self, unit: Unit) -> float:
        """The progress in `unit`; minutes are the caller's business."""
        return float(getattr(self, unit))


@dataclass(frozen=True, slots=True)
class Interval:
    """An amount with a unit, for "every so often": `Interval(0.5, "epochs")`."""

    amount: float
    unit: Unit

    def __str__(self) -> str:
        # All digits: a recipe is written down and read back as this text.
        amount = repr(self.amount).removesuffix(".0")
        return f"{amount}%" if self.unit == "percent" else f"{amount} {self.unit}"

    def due(self, before: Progress, now: Progress) -> bool:
        """Whether a multiple of the interval lies in (before, now]."""
        # Rounding keeps 3 · (1/3 epoch) from falling a hair short of 1 epoch.
        last, this = (round(p.at(self.unit) / self.amount, 9) for p in (before, now))
        return math.floor(this) > math.floor(last)


def parse_interval(text: str | Interval) -> Interval:
    """`0.5 epochs`, `500 steps`, `10M tokens`, `1e15 flops`, `5%`, `10 minutes`.

    Raises UserError that lists the units.
    """
    if isinstance(text, Interval):
        return text
    match = re.fullmatch(r"\s*([0-9._eE+-]*[0-9][kmbgtpKMBGTP]?)\s*([a-zA-Z%]+)\s*", str(text))
    word = match[2].lower().removesuffix("s") if match else ""
    if not match or word not in _UNITS:
        raise UserError(
            f"{text!r} is not an interval; write for example '500 steps', '10M tokens', "
            "'0.5 epochs', '1e15 flops', '5%' or, for checkpoints, '10 minutes'"
        )
    return Interval(parse_number(match[1]), _UNITS[word])


def _pydantic(parse: Any) -> BeforeValidator:
    """Use one of the parsers above for a recipe field."""

    def validate(value: Any) -> Any:
        try:
            return parse(value)
        except UserError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(validate)


Count = Annotated[int, _pydantic(parse_count)]
Quantity = Annotated[float, _pydantic(parse_number)]
Every = Annotated[Interval, _pydantic(parse_interval), PlainSerializer(str, return_type=str)]


_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}


def parse_seconds(text: str) -> float:
    """`20min`, `2h`, `600s` → seconds. Raises UserError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)\s*", text)
    if not match or float(match[1]) <= 0:
        raise UserError(f"{text!r} is not a time; write 20min, 2h or 600s")
    return float(match[1]) * _SECONDS[match[2]]

"""Whether the losses of runs may be compared: the one rule for every command.

A loss depends on the tokens that are scored, on the number of ids and on the length of the context.
Runs that differ in one of these have losses on different scales. Comparing what families learn
from the same text needs the same training tokens besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from epochal.errors import RunError
from epochal.runs.record import RunRecord


class Condition(StrEnum):
    """What runs must share."""

    TRAINING = "training_tokens"
    VALIDATION = "validation_set"
    VOCABULARY = "vocabulary"
    SEQUENCE_LENGTH = "sequence_length"

    @property
    def label(self) -> str:
        """In a sentence: "sequence length"."""
        return self.value.replace("_", " ")


SAME_SCALE = (Condition.VALIDATION, Condition.VOCABULARY, Condition.SEQUENCE_LENGTH)
"""Without these, losses are not comparable."""
SAME_TASK = (Condition.TRAINING, *SAME_SCALE)
"""Without these, runs do not show which family learns more from the same text."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Two runs and a condition that they do not share."""

    condition: Condition
    runs: tuple[str, str]
    """Their folders."""
    values: tuple[Any, Any]
    """Hashes of tokens, or numbers."""

    def __str__(self) -> str:
        """`the runs runs/a and runs/b differ in sequence length (128 and 256)`."""
        shown = all(isinstance(value, int) for value in self.values)
        both = f" ({self.values[0]} and {self.values[1]})" if shown else ""
        return f"the runs {self.runs[0]} and {self.runs[1]} differ in {self.condition.label}{both}"


def _conditions(record: RunRecord) -> dict[Condition, Any]:
    """Under which a run was trained and scored; None where its record does not have it."""
    corpus, numbers = record.info.get("corpus") or {}, record.info.get("numbers") or {}
    return {
        Condition.TRAINING: (corpus.get("train") or {}).get("content_sha256"),
        Condition.VALIDATION: (corpus.get("validation") or {}).get("content_sha256"),
        Condition.VOCABULARY: numbers.get("vocabulary"),
        Condition.SEQUENCE_LENGTH: numbers.get("sequence_length"),
    }


def mismatches(
    records: Iterable[RunRecord], needed: Sequence[Condition] = SAME_SCALE
) -> list[Mismatch]:
    """Conditions of `needed` in which the runs differ, each with the first two runs that do.

    A run whose record does not have a value is not counted as different.
    """
    first: dict[Condition, tuple[str, Any]] = {}
    found: dict[Condition, Mismatch] = {}
    for record in records:
        own = _conditions(record)
        for condition in needed:
            if (value := own[condition]) is None:
                continue
            path, expected = first.setdefault(condition, (str(record.path), value))
            if value != expected:
                mismatch = Mismatch(condition, (path, str(record.path)), (expected, value))
                found.setdefault(condition, mismatch)
    return [found[condition] for condition in needed if condition in found]


def check_comparable(
    records: Iterable[RunRecord], hint: str, needed: Sequence[Condition] = SAME_SCALE
) -> None:
    """Raise RunError, ending in `hint` (what to do), unless the runs share all of `needed`."""
    if found := mismatches(records, needed):
        raise RunError(f"{found[0]}, so their losses are not comparable; {hint}")

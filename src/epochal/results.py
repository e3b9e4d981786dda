"""Results are values: what functions return besides numbers, and how all of it becomes JSON.

The library gives reason codes, never sentences; `report/text/` turns them into English, for the
command line and the report page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any


class NoteCode(StrEnum):
    """Base of the reason codes of a room; each member has a text in `report/text/`.

    Codes of two rooms may have the same word: they are different keys all the same.
    """

    def __eq__(self, other: object) -> bool:
        return self is other if isinstance(other, NoteCode) else str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing about a result: a reason code and the values that go with it."""

    code: NoteCode
    values: Mapping[str, Any] = field(default_factory=dict)


def note(code: NoteCode, **values: Any) -> Note:
    """`Note(code, values)`, written shorter."""
    return Note(code, values)


def to_json(value: Any) -> Any:
    """A result as plain JSON values.

    A dataclass becomes its fields, but those with `metadata={"json": False}`; `{"json": "name"}`
    gives another name. Enums become their values, paths strings, arrays lists, and numbers that
    are not finite null, since JSON has none. Raises TypeError for anything else.
    """
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Enum):
        return value.value
    if type(value).__module__ == "numpy":  # not imported here: the command line's help needs it not
        return to_json(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: f.metadata.get("json", True) for f in fields(value)}
        return {
            name if kept is True else kept: to_json(getattr(value, name))
            for name, kept in named.items()
            if kept is not False
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(one) for one in (sorted(value) if isinstance(value, set) else value)]
    raise TypeError(f"{type(value).__name__} has no form in JSON")

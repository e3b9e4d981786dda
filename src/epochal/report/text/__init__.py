"""English about results, for the report page and the command line.

Each module here has `TEXTS`: reason code → its sentence, with the note's values in braces, or a
function of the values that gives it. A test holds that no code is without a text.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from epochal.results import Note, NoteCode

Text = str | Callable[[Mapping[str, Any]], str]


def describe(note: Note) -> str:
    """The note as a sentence without a full stop."""
    text = texts()[note.code]
    return text.format(**note.values) if isinstance(text, str) else text(note.values)


@cache
def texts() -> Mapping[NoteCode, Text]:
    """All codes and their texts."""
    found: dict[NoteCode, Text] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        found |= getattr(importlib.import_module(module.name), "TEXTS", {})
    return found

"""English about results, for the report page and the command line.

Each module here has `TEXTS`: reason code → its sentence, with the note's values in braces, or a
function of the values that gives it. A test holds that no code is without a text.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from epochal.results import Note, NoteCode

Text = str | Callable[[Mapping[str, Any]], str]


def describe(note: Note) -> str:
    """The note as a sentence without a full stop."""
    text = _text(note.code)
    return text.format(**note.values) if isinstance(text, str) else text(note.values)


@cache
def texts() -> Mapping[NoteCode, Text]:
    """All codes and their texts."""
    return {code: text for module in _modules() for code, text in _texts_of(module).items()}


@cache
def _text(code: NoteCode) -> Text:
    """Looked for first in modules that are imported: all of them take seconds."""
    modules = sorted(_modules(), key=lambda name: name not in sys.modules)
    return next(texts[code] for texts in map(_texts_of, modules) if code in texts)


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__, f"{__name__}.")]


def _texts_of(module: str) -> Mapping[NoteCode, Text]:
    return getattr(importlib.import_module(module), "TEXTS", {})

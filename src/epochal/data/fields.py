"""The text in a row of a table or of JSON: a field by its name or path, and what it may hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.packing import guessed_encoding
from epochal.errors import DataError, NamedOption, nearest

Document = str | NDArray[np.integer[Any]]
"""A text; or, where tokens are given instead, their ids [n]."""
Beside = TypeVar("Beside")

_JOINED = {"line": "\n", "blank-line": "\n\n", "space": " "}
_NAMED = 40  # fields listed in a message; chosen by us
_NAME_THE_FIELD = ("name the field with the text (", NamedOption("text_field"), ")")


class Part(str):
    """A piece of a long text; the document goes on with the next one and ends with a plain str.

    It ends where no tokenizer like GPT-2's joins what is on its two sides.
    """

    __slots__ = ()


def whole_texts(texts: Iterable[tuple[Document, Beside]]) -> Iterator[tuple[Document, Beside]]:
    """The documents of `texts`, parts joined; each with what was beside its last part."""
    held: list[str] = []
    for text, beside in texts:
        if isinstance(text, Part):
            held.append(text)
        else:
            yield ("".join([*held, str(text)]) if held else text), beside
            held = []


@dataclass(frozen=True)
class Reading:
    """How one file is read."""

    place: str
    """Its name in messages."""
    options: PrepareOptions
    tell: Callable[..., None]
    """tell(code, **values): note something about the file."""

    def text(self, content: bytes, place: str, offset: int = 0) -> str:
        """`content`, which begins at byte `offset` of `place`, decoded. Raises DataError."""
        errors = "strict" if self.options.invalid_utf8 == "error" else "replace"
        try:
            return content.decode(errors=errors)
        except UnicodeDecodeError as error:
            guess = guessed_encoding(content, error.start)
            looks: tuple[str | NamedOption, ...] = ()
            if guess is not None:
                looks = (f"; it looks like {guess} (", NamedOption("encoding", guess), ")")
            raise DataError(
                f"{place} is not valid UTF-8 at byte {offset + error.start:,}",
                *looks,
                "; fix the file, or have such bytes read as U+FFFD (",
                NamedOption("invalid_utf8", "replace"),
                ")",
            ) from None

    def tried(self, read: Callable[[], Iterable[Document]]) -> list[Document]:
        """What `read` gives. If it raises DataError and such rows are skipped, none, noted."""
        try:
            return list(read())
        except DataError as error:
            if self.options.on_error == "stop":
                raise
            self.tell(CorpusNote.SKIPPED_ROWS, row=str(error))
            return []

    def row(self, row: Any, place: str) -> Iterator[Document]:
        """The documents of one JSON value; '' for null."""
        field = self.options.text_field
        if not isinstance(row, dict):
            kind = "an array" if isinstance(row, list) else f"the value {row!r:.40}"
            raise DataError(f"{place} is {kind}, not an object like {{{json.dumps(field)}: …}}")
        yield from self.value(self.look_up(row, field, place), place)

    def look_up(self, value: Any, path: str, place: str) -> Any:
        """What stands under `path` in `value`; of a list, the list of what its members have."""
        try:
            return _look_up(value, path)
        except KeyError:
            field = self.options.text_field
            names = list(_paths(value)) if isinstance(value, Mapping) else []
            no_field(f"{place} has no field", "fields", field, names)

    def value(self, value: Any, place: str, kind: str = "field") -> Iterator[Document]:
        """The documents that a field holds."""
        name, rule = self.options.text_field, self.options.lists
        if value is None:
            yield ""
        elif isinstance(value, str):
            yield self._whole(value, place)
        elif isinstance(value, bytes):
            self.tell(CorpusNote.BINARY_AS_TEXT, field=name)
            yield self.text(value, f"{place}, column {name!r}")
        elif isinstance(value, list) and rule and all(isinstance(x, str | None) for x in value):
            texts = [self._whole(part, place) for part in value if part]
            if rule == "documents":
                yield from texts or [""]
            else:
                yield _JOINED[rule].join(texts)
        elif isinstance(value, list) and value and all(type(part) is int for part in value):
            yield np.array(value)
        else:
            self._refuse(value, place, kind)

    def _refuse(self, value: Any, place: str, kind: str) -> NoReturn:
        name = self.options.text_field
        more: tuple[str | NamedOption, ...] = ()
        if isinstance(value, dict):
            more = (f", for example '{name}.{next(iter(value), 'text')}'",)
        elif isinstance(value, list) and all(isinstance(part, str | None) for part in value):
            more = ("; or say how its texts make documents (", NamedOption("lists", "line"), ")")
        raise DataError(
            f"{place}: the {kind} {name!r} holds {type(value).__name__} {value!r:.40}, not text; ",
            *_NAME_THE_FIELD,
            *more,
        )

    def _whole(self, text: str, place: str) -> str:
        """JSON can spell half a character (\\ud800), which no UTF-8 can hold."""
        try:
            text.encode()
        except UnicodeEncodeError:
            if self.options.invalid_utf8 == "error":
                raise DataError(
                    f"{place} spells half a character (a lone surrogate), which is not valid "
                    "Unicode; fix it, or have it read as U+FFFD (",
                    NamedOption("invalid_utf8", "replace"),
                    ")",
                ) from None
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text


def splits(path: str) -> Iterator[tuple[str, str]]:
    """(name, rest of the path) with the longest name first, so that a name with a dot wins."""
    yield path, ""
    for place in range(len(path) - 1, 0, -1):
        if path[place] == ".":
            yield path[:place], path[place + 1 :]


def _look_up(value: Any, path: str) -> Any:
    if not path or value is None:
        return value
    if isinstance(value, list):
        return [_look_up(part, path) for part in value]
    for name, rest in splits(path):
        if isinstance(value, Mapping) and name in value:
            return _look_up(value[name], rest)
    raise KeyError(path)


def _paths(row: Mapping[str, Any]) -> Iterator[str]:
    """Names of the fields, of nested ones their paths."""
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{name}.{path}" for path in _paths(value))
        else:
            yield str(name)


def no_field(problem: str, kind: str, field: str, names: list[str]) -> NoReturn:
    """Raise DataError that lists the `names` there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    there = (", ".join(map(repr, names[:_NAMED])) or "none") + more
    raise DataError(
        f"{problem} {field!r}; its {kind} are {there}.{nearest(field, names)} Name the one with "
        "the text (",
        NamedOption("text_field"),
        ")",
    )

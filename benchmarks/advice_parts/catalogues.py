"""Translations in message catalogues: gettext's .mo and .po files."""

from __future__ import annotations

import ast
import re
import struct

_MAGIC = 0x950412DE
_CHARSET = re.compile(r"charset=([\w.:-]+)")
_TRANSLATED = re.compile(r'^msgstr(?:\[\d+\])?[ \t]+((?:"(?:[^"\\\n]|\\.)*"\s*)+)', re.MULTILINE)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')


def read_mo(content: bytes) -> list[str]:
    """The translations in a .mo file, plural forms one by one.

    Source: GNU gettext manual, "The Format of GNU MO Files". Raises ValueError for a damaged file.
    """
    try:
        order = next(o for o in "<>" if struct.unpack_from(f"{o}I", content)[0] == _MAGIC)
        number, originals, translations = struct.unpack_from(f"{order}3I", content, 8)
        pairs = [
            (
                _string(content, originals + 8 * i, order),
                _string(content, translations + 8 * i, order),
            )
            for i in range(number)
        ]
    except (struct.error, StopIteration):
        raise ValueError("not a .mo file") from None
    head = next((text.decode("ascii", "replace") for key, text in pairs if not key), "")
    charset = _charset(head)
    return [
        form
        for key, text in pairs
        if key
        for form in text.decode(charset).split("\0")
        if form.strip()
    ]


def read_po(content: bytes) -> list[str]:
    """The translations in a .po file, plural forms one by one. Raises ValueError."""
    text = content.decode(_charset(content[:4000].decode("ascii", "replace")))
    found = [
        "".join(ast.literal_eval(part) for part in _QUOTED.findall(match[1]))
        for match in _TRANSLATED.finditer(text)
    ]
    return [one for one in found if one.strip() and "Content-Type:" not in one]


def _string(content: bytes, at: int, order: str) -> bytes:
    length, start = struct.unpack_from(f"{order}2I", content, at)
    if start + length > len(content):
        raise struct.error
    return content[start : start + length]


def _charset(head: str) -> str:
    """The charset that a header names. Raises ValueError for one that Python does not know."""
    match = _CHARSET.search(head)
    name = match[1] if match else "utf-8"
    try:
        "".encode(name)
    except LookupError:
        raise ValueError(f"the charset {name} is not known") from None
    return name

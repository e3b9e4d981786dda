"""Whether a tokenizer keeps a text: what it loses, and what its normaliser changes.

A byte-level BPE with all 256 bytes and no normaliser keeps everything, so its texts are not
checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from epochal.data.fast_bpe import Ids, byte_alphabet
from epochal.data.fields import Document, Part, whole_texts
from epochal.data.notes import CorpusNote
from epochal.data.parallel import cores, map_texts
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError, NamedOption
from epochal.results import Note, note

_SHOWN = 12  # characters of an example


class Encoded(NamedTuple):
    """A document's ids [n], and what became of its text."""

    ids: Ids
    lost: str = ""
    """The first character that no id stands for."""
    changed: tuple[str, str] | None = None
    """Where the normaliser first changes the text: before and after."""
    part: int = 0
    """Characters, if it is only a part and the document goes on."""


class Fidelity:
    """Encodes texts and keeps count of what the tokenizer loses or changes."""

    def __init__(self, tokenizer: Tokenizer, allow_lossy: bool) -> None:
        """Without `allow_lossy` the first text that loses a character is refused."""
        self.tokenizer, self._allowed = tokenizer, allow_lossy
        self._keeps_all = tokenizer.kind == "bytes" or tokenizer.why_slow is None
        tokens = {tokenizer.token_text(number) for number in range(tokenizer.vocabulary)}
        byte_level = tokenizer.kind == "byte-level-bpe"
        missing = (byte for letter, byte in byte_alphabet().items() if letter not in tokens)
        self._missing = bytes(missing) if byte_level else b""
        self._documents = 0
        self._lost: list[str] = []
        self._changed: list[tuple[str, str]] = []

    def encode(
        self, texts: Iterable[Document], workers: int | None
    ) -> Iterator[tuple[Ids, int | None, int]]:
        """(ids, bytes of text that they stand for if not those of the text, characters of a part).

        In order; the last is 0 where a document ends. Parts are joined for a tokenizer of which
        it is not known that it cuts there. Raises DataError for a text that loses a character,
        unless that is allowed.
        """
        lengths = self.tokenizer.token_byte_lengths
        if not self._keeps_all:
            texts = (text for text, _ in whole_texts((text, None) for text in texts))
        for one in map_texts(self._one, texts, workers or cores()):
            number = self._documents
            self._documents += not one.part
            if one.lost:
                self._lost.append(one.lost)
            if one.lost and not self._allowed:
                raise DataError(
                    f"the tokenizer {self.tokenizer.name} has nothing for {one.lost!r} (first in "
                    f"document {number}), so that text would be lost; use another tokenizer, or "
                    "allow it (",
                    NamedOption("allow_lossy"),
                    ")",
                )
            if one.changed:
                self._changed.append(one.changed)
            kept = one.lost or one.changed
            size = int(lengths[one.ids].sum()) if kept and lengths is not None else None
            yield one.ids, size, one.part

    def notes(self) -> Iterator[Note]:
        """What was lost or changed."""
        of = {"of": self._documents}
        if self._lost:
            lost = len(self._lost)
            yield note(CorpusNote.TEXT_LOST, documents=lost, **of, lost=self._lost[0])
        if self._changed:
            before, after = self._changed[0]
            values = {"documents": len(self._changed), **of, "before": before, "after": after}
            yield note(CorpusNote.TEXT_CHANGED, **values)

    def _one(self, text: Document) -> Encoded:
        if not isinstance(text, str):
            return Encoded(text.astype(np.int32))
        ids = self.tokenizer.encode(text)
        if self._keeps_all:
            return Encoded(ids, part=len(text) if isinstance(text, Part) else 0)
        normalized = self.tokenizer.normalized(text)
        changed = None
        if normalized != text and self.tokenizer.decode(ids) != text:
            pairs = enumerate(zip(text, normalized, strict=False))
            shorter = min(len(text), len(normalized))
            at = next((place for place, (one, other) in pairs if one != other), shorter)
            changed = (text[at : at + _SHOWN], normalized[at : at + _SHOWN])
        return Encoded(ids, self._first_lost(text, normalized, ids), changed)

    def _first_lost(self, text: str, normalized: str, ids: Ids) -> str:
        if self._missing:
            characters = set(normalized)
            gone = {c for c in characters if any(byte in self._missing for byte in c.encode())}
            return next((c for c in normalized if c in gone), "")
        unknown = self.tokenizer.unknown
        if unknown is None or not (ids == unknown).any():
            return ""
        return self.tokenizer.first_unknown(text) or text[:_SHOWN]

"""Whether a tokenizer keeps a text: what it loses, and what its normaliser changes.

A byte-level BPE with all 256 bytes and no normaliser keeps everything, so its texts are not
checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from epochal.data.fast_bpe import Ids, byte_alphabet
from epochal.data.fields import Document, Part, whole_texts
from epochal.data.notes import CorpusNote
from epochal.data.parallel import Workers
from epochal.data.shards import KeptShards, Shard, batches
from epochal.data.store_writer import store_dtype
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError, NamedOption
from epochal.results import Note, note

_SHOWN = 12  # characters of an example


class Task(NamedTuple):
    """Texts of one shard, and where it is kept, if it is."""

    path: Path | None
    texts: Sequence[Document]


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
        self,
        texts: Iterable[Document],
        workers: Workers[Task, Shard | None],
        kept: KeptShards | None = None,
    ) -> Iterator[tuple[Shard, bool]]:
        """The shards of `texts`, in order, each with whether it was found; `workers` do `shard`.

        Raises DataError for a text that loses a character, unless that is allowed.
        """
        paths: list[Path | None] = []

        def tasks() -> Iterator[Task]:
            for task in self.tasks(texts, kept):
                paths.append(task.path)
                yield task

        for answer in workers.map(tasks()):
            path = paths.pop(0)
            shard = answer or (Shard.load(path) if path else None)
            if shard is None:
                raise DataError(f"{path} was removed meanwhile; run the command again")
            if shard.lost and not self._allowed:
                number, lost = shard.lost[0]
                raise DataError(
                    f"the tokenizer {self.tokenizer.name} has nothing for {lost!r} (first in "
                    f"document {self._documents + number}), so that text would be lost; use "
                    "another tokenizer, or allow it (",
                    NamedOption("allow_lossy"),
                    ")",
                )
            self._documents += len(shard.sizes) - (shard.going_on > 0)
            self._lost += [lost for _, lost in shard.lost]
            self._changed += shard.changed
            yield shard, kept is not None and kept.was_found(path)

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

    def tasks(self, texts: Iterable[Document], kept: KeptShards | None) -> Iterator[Task]:
        """`texts` by shards. Parts are joined for a tokenizer of which it is not known that it
        cuts there."""
        if not self._keeps_all:
            texts = (text for text, _ in whole_texts((text, None) for text in texts))
        for batch in batches(texts):
            yield Task(kept.next_path() if kept else None, batch)

    def work(self, task: Task) -> Shard | None:
        """The shard of a task; None if it is kept on the disk."""
        if task.path is None:
            return self.shard(task.texts)
        if Shard.load(task.path) is None:
            self.shard(task.texts).save(task.path)
        return None

    def shard(self, texts: Sequence[Document]) -> Shard:
        """Encode some texts."""
        encoded = self.tokenizer.encode_all(texts)
        lengths = self.tokenizer.token_byte_lengths
        dtype = store_dtype(self.tokenizer.vocabulary)
        mark = np.array([self.tokenizer.end_of_document], dtype=dtype)
        pieces, sizes, kept = [], list[int](), list[int]()
        lost, changed = list[tuple[int, str]](), list[tuple[str, str]]()
        size = characters = 0  # of a document that goes on
        for text, ids in zip(texts, encoded, strict=True):
            pieces.append(ids.astype(dtype))
            size += len(ids)
            if isinstance(text, Part):
                characters += len(text)
                continue
            pieces.append(mark)
            gone, other = ("", None) if self._keeps_all else self._compare(text, ids)
            if gone:
                lost.append((len(sizes), gone))
            if other:
                changed.append(other)
            is_known = (gone or other) and lengths is not None
            kept.append(int(lengths[ids].sum()) if is_known and lengths is not None else -1)
            sizes.append(size + 1)
            size = characters = 0
        if size:
            sizes.append(size)
            kept.append(-1)
        return Shard(
            np.concatenate(pieces),
            np.array(sizes, dtype=np.int64),
            np.array(kept, dtype=np.int64),
            characters,
            tuple(lost),
            tuple(changed),
        )

    def _compare(self, text: Document, ids: Ids) -> tuple[str, tuple[str, str] | None]:
        """The first character lost, and where the normaliser first changes the text."""
        if not isinstance(text, str):
            return "", None
        normalized = self.tokenizer.normalized(text)
        changed = None
        if normalized != text and self.tokenizer.decode(ids) != text:
            pairs = enumerate(zip(text, normalized, strict=False))
            shorter = min(len(text), len(normalized))
            at = next((place for place, (one, other) in pairs if one != other), shorter)
            changed = (text[at : at + _SHOWN], normalized[at : at + _SHOWN])
        return self._first_lost(text, normalized, ids), changed

    def _first_lost(self, text: str, normalized: str, ids: Ids) -> str:
        if self._missing:
            characters = set(normalized)
            gone = {c for c in characters if any(byte in self._missing for byte in c.encode())}
            return next((c for c in normalized if c in gone), "")
        unknown = self.tokenizer.unknown
        if unknown is None or not (ids == unknown).any():
            return ""
        return self.tokenizer.first_unknown(text) or text[:_SHOWN]

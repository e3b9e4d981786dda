"""Encoded text in shards of some megabytes, kept on the disk until the corpus is whole.

A shard is what a worker encodes at a time. A command that was interrupted finds the ones that were
finished and encodes only the others; what is done with them is the same.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import files
from epochal._version import __version__
from epochal.data.fields import Document
from epochal.progress import say

_CHARACTERS = 1 << 22  # of a shard; a few tenths of a second of work
_KEPT_FROM = 1 << 25  # bytes of text; less is encoded again in seconds
_FOLDER, _KEY = ".parts", "settings.json"


@dataclass(frozen=True)
class Shard:
    """Documents one after another, encoded."""

    ids: NDArray[np.integer[Any]]
    """[tokens], with each document's end-of-document id."""
    sizes: NDArray[np.int64]
    """[documents] tokens; of the first and the last, which may go on, those in this shard."""
    kept: NDArray[np.int64]
    """[documents] bytes of text that the ids stand for; -1 for all of it."""
    going_on: int = 0
    """Characters here of the last document, if it goes on in the next shard."""
    lost: tuple[tuple[int, str], ...] = ()
    """(document, the first character that no id stands for) of each that loses one."""
    changed: tuple[tuple[str, str], ...] = ()
    """Where the normaliser first changes a document: before and after."""

    def save(self, path: Path) -> None:
        """Write it to `path`. Raises StorageError."""
        told = json.dumps([self.going_on, self.lost, self.changed]).encode()
        arrays: dict[str, Any] = {"told": np.frombuffer(told, np.uint8)}
        arrays |= {"ids": self.ids, "sizes": self.sizes, "kept": self.kept}
        with files.atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    @staticmethod
    def load(path: Path) -> Shard | None:
        """The shard at `path`; None if there is none or it is damaged."""
        try:
            with np.load(path) as arrays:  # which compares CRCs
                going_on, lost, changed = json.loads(arrays["told"].tobytes())
                given = (arrays["ids"], arrays["sizes"], arrays["kept"], going_on)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return Shard(*given, tuple(map(tuple, lost)), tuple(map(tuple, changed)))


def batches(texts: Iterable[Document]) -> Iterator[list[Document]]:
    """`texts` in pieces for shards."""
    batch: list[Document] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class KeptShards:
    """The finished shards of a corpus, in a hidden folder in its own, numbered in order."""

    def __init__(
        self, corpus: Path, settings: dict[str, Any], text_bytes: int, always: bool = False
    ) -> None:
        """Find those that the same settings made; others are removed. Those of a short text are
        not kept unless `always`. Raises StorageError."""
        self.folder = corpus / _FOLDER
        self.tokenizer = self.folder / "tokenizer.json"
        """Where one that was trained is kept."""
        self._wanted = always or text_bytes >= _KEPT_FROM
        self.count = max(1, text_bytes // _CHARACTERS)
        """About how many there will be."""
        self._number = 0
        key = files.sha256_json([settings, __version__, _CHARACTERS])
        with files.storage_errors(self.folder):
            if self.folder.exists() and self._key() != key:
                say("what an earlier command had encoded here is of another text or other settings")
                shutil.rmtree(self.folder)
            if self._wanted:
                self.folder.mkdir(exist_ok=True)
                files.write_json(self.folder / _KEY, {"key": key})
        self.look()
        if self._found:
            count = len(self._found)
            say(f"going on: {count} parts were encoded before, of about {_CHARACTERS / 1e6:.0f} MB")

    def look(self) -> None:
        """See which shards are there."""
        self._found = {path.name for path in self.folder.glob("*.npz")}

    def _key(self) -> str | None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            key: str = json.loads((self.folder / _KEY).read_text(encoding="utf-8"))["key"]
            return key
        return None

    def next_path(self) -> Path | None:
        """Where the next shard is or is to be kept; None if it is not."""
        self._number += 1
        return self.folder / f"{self._number:08}.npz" if self._wanted else None

    def was_found(self, path: Path | None) -> bool:
        """Whether this shard had been finished before."""
        return path is not None and path.name in self._found

    def remove(self) -> None:
        """Remove them: the corpus is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> None:
        """Keep them, and say so, if there are any."""
        if count := len(list(self.folder.glob("*.npz"))):
            say(f"{count} encoded parts are kept in {self.folder}; the same command resumes there")
        elif not self.tokenizer.exists():
            self.remove()

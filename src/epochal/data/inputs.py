"""The text that a corpus is made from: files, folders and the built-in text as one stream."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from epochal import files
from epochal.data.builtin import builtin_documents, interpreter
from epochal.data.metadata import SourceFile, Sources
from epochal.data.options import PrepareOptions
from epochal.data.readers import Compression, Documents, Kind, read_documents
from epochal.errors import DataError
from epochal.progress import bar

BUILTIN = "builtin"
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".text")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}
_NOT_TEXT = (
    *(".pdf", ".doc", ".docx", ".odt", ".epub"),
    *(".zip", ".tar", ".7z", ".bz2", ".xz", ".arrow"),
)
_LISTED = 100
KNOWN = "plain text (.txt .md .rst .tex .text), .jsonl, .parquet; text and JSON also .gz or .zst"


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or the built-in corpus where `path` is None."""

    name: str
    path: Path | None
    kind: Kind
    compression: Compression
    bytes: int


@dataclass(frozen=True)
class TextInputs:
    """Documents of all inputs, in order; they can be read again and again."""

    sources: tuple[Source, ...]
    options: PrepareOptions
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of files in folders that are of no known kind, by suffix."""

    @staticmethod
    def find(inputs: Sequence[str | Path], options: PrepareOptions | None = None) -> TextInputs:
        """Find the inputs: files, folders (all known files in them, sorted), or `builtin`.

        Raises DataError for what is missing, of no known kind, or holds no such file.
        """
        if not inputs:
            raise DataError("no input was given; give text files, folders or `builtin`")
        if "" in map(str, inputs):  # Path("") would be the current folder
            raise DataError("an input is empty; give text files, folders or `builtin`")
        sources: list[Source] = []
        skipped: Counter[str] = Counter()
        for given in inputs:
            path = Path(given)
            if str(given) == BUILTIN:
                sources.append(Source(BUILTIN, None, "text", "", 0))
            elif path.is_dir():
                sources += _in_folder(path, skipped)
            elif path.exists():
                sources.append(_named(path))
            else:
                hint = "; download it first" if "://" in str(given) else ""
                raise DataError(f"there is no file or folder {given}{hint}")
        return TextInputs(tuple(sources), options or PrepareOptions(), skipped)

    @property
    def bytes(self) -> int:
        """Size of all files on the disk, packed ones as they are."""
        return sum(source.bytes for source in self.sources)

    def documents(self) -> Documents:
        """(text, bytes of input consumed so far) of each document; '' for one without text."""
        before = 0
        for source in self.sources:
            for text, consumed in self._read(source):
                yield text, before + consumed
            before += source.bytes

    def _read(self, source: Source) -> Documents:
        if source.path is None:
            return ((text, 0) for text in builtin_documents())
        return read_documents(source.path, source.kind, source.compression, self.options)

    @cached_property
    def identity(self) -> str:
        """SHA-256 that changes when any input does; of the built-in text its Python counts."""
        parts = [
            [interpreter()] if source.path is None else [source.name, source.bytes, sha256]
            for source, sha256 in zip(self.sources, self._file_sums, strict=True)
        ]
        return files.sha256_json(parts)

    def facts(self) -> Sources:
        """The inputs' entry in a store's metadata."""
        listed = tuple(
            _builtin_facts()
            if source.path is None
            else SourceFile(name=source.name, bytes=source.bytes, sha256=sha256)
            for source, sha256 in zip(self.sources, self._file_sums, strict=True)
        )
        return Sources(
            files=len(listed),
            bytes=sum(source.bytes for source in listed),
            sha256=files.sha256_json([[each.name, each.bytes, each.sha256] for each in listed]),
            listed=listed[:_LISTED],
        )

    @cached_property
    def _file_sums(self) -> list[str]:
        """SHA-256 of each file, '' for the built-in corpus."""
        sums, done = [], 0
        with bar("Checking the inputs", self.bytes) as progress:
            for source in self.sources:
                sums.append(_file_sum(source.path) if source.path else "")
                done += source.bytes
                progress.update(done, source.name)
        return sums


def _file_sum(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _builtin_facts() -> SourceFile:
    content = "\0".join(builtin_documents()).encode()
    return SourceFile(
        name=BUILTIN,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        interpreter=interpreter(),
    )


def _in_folder(folder: Path, skipped: Counter[str]) -> list[Source]:
    sources: list[Source] = []
    here: Counter[str] = Counter()
    for path in _walk(folder):
        kind = _kind(path)
        if kind is None:
            here[path.suffix.lower() or "no suffix"] += 1
        else:
            name = path.relative_to(folder).as_posix()
            sources.append(Source(name, path, *kind, path.stat().st_size))
    skipped.update(here)
    if not sources:
        content = ", ".join(f"{count} {suffix}" for suffix, count in here.most_common(5)) or "empty"
        raise DataError(f"the folder {folder} holds no known text ({content}); known are {KNOWN}")
    return sources


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a folder, sorted by path; hidden ones and links to folders are left out."""
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(where) / name for name in sorted(names) if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _named(path: Path) -> Source:
    """A file named by the user: an unknown suffix counts as plain text."""
    if path.suffix.lower() in _NOT_TEXT:
        raise DataError(f"{path} is not read as text; extract its text first. Known are {KNOWN}")
    if not path.is_file():
        raise DataError(
            f"{path} is a pipe or device, which can be read only once, but text is read twice; "
            "save it to a file first"
        )
    inner, compression = _unpacked_name(path)
    kind = _kind(path) or (("jsonl" if inner.endswith(".json") else "text"), compression)
    return Source(path.name, path, *kind, path.stat().st_size)


def _unpacked_name(path: Path) -> tuple[str, Compression]:
    name = path.name.lower()
    for suffix, compression in _COMPRESSIONS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), compression
    return name, ""


def _kind(path: Path) -> tuple[Kind, Compression] | None:
    """How to read a file, by its suffix; None if it is unknown.

    A plain .json in a folder is more often a setting than a corpus, so it must be named.
    """
    name, compression = _unpacked_name(path)
    if name.endswith(TEXT_SUFFIXES):
        return "text", compression
    if name.endswith(JSON_LINES_SUFFIXES) or (compression and name.endswith(".json")):
        return "jsonl", compression
    if name.endswith(".parquet") and not compression:
        return "parquet", ""
    return None

"""The text that a corpus is made from: files, folders and the built-in text as one stream."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.builtin import builtin_documents, interpreter
from epochal.data.fields import Reading, whole_texts
from epochal.data.formats import (
    KNOWN,
    TEXT,
    Format,
    by_content,
    by_suffix,
    rank,
    read_file,
    start_of,
)
from epochal.data.hub import HUB, HubFile, hub_files
from epochal.data.metadata import SourceFile, Sources
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.readers import Documents
from epochal.data.token_files import token_documents
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError
from epochal.progress import bar
from epochal.results import Note, NoteCode, note

BUILTIN = "builtin"
_STDIN = "stdin"
_LISTED = 100
_SHOWN_ROWS = 5
_HIDDEN_ORDER = "state.json"  # of a folder that `datasets` saved: names its files
_SPLITS = "dataset_dict.json"  # of one with several such folders


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or the built-in corpus where `path` is None."""

    name: str
    path: Path | HubFile | None
    kind: Format
    bytes: int

    @property
    def place(self) -> str:
        """What messages call it."""
        return "standard input" if self.name == _STDIN else str(self.path)


@dataclass(frozen=True)
class TextInputs:
    """Documents of all inputs, in order; they can be read again and again."""

    sources: tuple[Source, ...]
    options: PrepareOptions
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of files in folders that are not read, by suffix."""
    told: dict[NoteCode, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """What was noted while reading: code → file → values."""
    tokenizer: Tokenizer | None = None
    """Of inputs that are token ids."""
    kept: list[Any] = field(default_factory=list)
    """Temporary files that are needed as long as this is."""

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
        found = TextInputs((), options or PrepareOptions())
        for given in inputs:
            path = Path(given)
            if str(given) == BUILTIN:
                sources.append(Source(BUILTIN, None, TEXT, 0))
            elif str(given) == "-":
                sources.append(_from_stdin(found))
            elif str(given).startswith(HUB):
                listed = [(each, each.url) for each in hub_files(str(given))]
                sources += _lowest_rank(f"data set {given}", listed, found)
            elif path.is_dir():
                sources += _in_folder(path, found)
            elif path.exists():
                sources.append(_named(path, found))
            else:
                hint = "; download it first, but hf:// is read" if "://" in str(given) else ""
                raise DataError(f"there is no file or folder {given}{hint}")
        return replace(found, sources=tuple(sources))

    @property
    def bytes(self) -> int:
        """Size of all files on the disk, packed ones as they are."""
        return sum(source.bytes for source in self.sources)

    def documents(self) -> Documents:
        """(document, bytes of input consumed so far) of each; '' for one without text."""
        return whole_texts(self.parts())

    def parts(self) -> Documents:
        """As `documents`, but long texts come as several `Part` and a plain str, also ''."""
        before = 0
        for source in self.sources:
            for document, consumed in self._read(source):
                if isinstance(document, str):
                    yield document, before + consumed
                else:
                    for part in token_documents(document, self.tokenizer, source.place):
                        yield part, before + consumed
            before += source.bytes

    def _read(self, source: Source) -> Documents:
        if source.path is None:
            return ((text, 0) for text in builtin_documents())
        reading = Reading(source.place, self.options, partial(self.tell, source.place))
        return read_file(source.path, source.bytes, source.kind, reading)

    def tell(self, file: str, code: NoteCode, **values: Any) -> None:
        """Note something about a file; the same again is not counted again."""
        self.told.setdefault(code, {}).setdefault(values.pop("row", file), values)

    def notes(self) -> Iterator[Note]:
        """What was noted while finding and reading: one note of a kind."""
        if self.skipped:
            suffixes = dict(self.skipped.most_common())
            yield note(CorpusNote.SKIPPED_FILES, files=self.skipped.total(), suffixes=suffixes)
        for code, by_file in self.told.items():
            file, values = next(iter(by_file.items()))
            if code is CorpusNote.SKIPPED_ROWS:
                values = {"problems": list(by_file)[:_SHOWN_ROWS]}
            yield note(code, file=file, files=len(by_file), **values)

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


def _file_sum(path: Path | HubFile) -> str:
    try:
        if isinstance(path, HubFile):
            return path.sha256 or hashlib.sha256(path.open("rb").read()).hexdigest()
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


def _in_folder(folder: Path, found: TextInputs) -> list[Source]:
    """The files of the lowest rank in a folder, sorted."""
    folder = _split_folder(folder, found)
    listed = [(path, path.relative_to(folder).as_posix()) for path in _walk(folder)]
    return _lowest_rank(f"folder {folder}", listed, found)


def _lowest_rank(
    place: str, listed: Sequence[tuple[Path | HubFile, str]], found: TextInputs
) -> list[Source]:
    """Of the files with their names those of the lowest rank; the others are counted."""
    here: Counter[str] = Counter()
    ranked: dict[int, list[Source]] = {}
    for path, name in listed:
        if (number := rank(path, found.options)) is None:
            here[Path(path.name).suffix.lower() or "no suffix"] += 1
        else:
            ranked.setdefault(number, []).append(_source(path, name))
    for number in sorted(ranked)[1:]:
        here.update(Path(source.name).suffix.lower() for source in ranked[number])
    found.skipped.update(here)
    if not ranked:
        content = ", ".join(f"{count} {suffix}" for suffix, count in here.most_common(5)) or "empty"
        raise DataError(f"the {place} holds no known text ({content}); known are {KNOWN}")
    return ranked[min(ranked)]


def _split_folder(folder: Path, found: TextInputs) -> Path:
    """Of a `DatasetDict` that `datasets` saved the folder of its training split."""
    if not (folder / _SPLITS).is_file() or not (folder / "train").is_dir():
        return folder
    others = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name != "train"
    )
    if others:
        found.tell(str(folder), CorpusNote.ONE_SPLIT, split="train", others=others)
    return folder / "train"


def _source(path: Path | HubFile, name: str, kind: Format | None = None) -> Source:
    # A name that is not UTF-8 is kept as Python writes it, and cannot be saved like that.
    written = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    size = path.size if isinstance(path, HubFile) else path.stat().st_size
    return Source(written, path, kind or by_suffix(path.name) or TEXT, size)


def _from_stdin(found: TextInputs) -> Source:
    """Standard input, in a temporary file, since text is read more than once."""
    copy = tempfile.NamedTemporaryFile()  # noqa: SIM115 - it goes with `found`
    found.kept.append(copy)
    shutil.copyfileobj(sys.stdin.buffer, copy)
    copy.flush()
    path = Path(copy.name)
    kind = by_content(path)
    if kind is None and start_of(path, found.options).lstrip("\ufeff \n")[:1] in ("{", "["):
        kind = by_suffix("x.jsonl")
    source = _source(path, _STDIN, kind or TEXT)
    found.tell(source.place, CorpusNote.READ_AS, kind=source.kind.name)
    return source


def _walk(folder: Path) -> Iterator[Path]:
    """Files of a folder, sorted by path; hidden ones and links to folders are left out."""
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = _saved_files(Path(where)) or names
        paths = (Path(where) / name for name in sorted(names) if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def _saved_files(folder: Path) -> list[str]:
    """The data files of a folder that `datasets` saved, where caches may lie beside them."""
    try:
        listed = json.loads((folder / _HIDDEN_ORDER).read_text(encoding="utf-8"))["_data_files"]
        return [str(each["filename"]) for each in listed]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _named(path: Path, found: TextInputs) -> Source:
    """A file named by the user: of an unknown suffix it is known by its content, or plain text."""
    if not path.is_file():
        raise DataError(
            f"{path} is a pipe or device, which can be read only once, but text is read twice; "
            "save it to a file first, or give it as standard input (`-`)"
        )
    if path.suffix == ".bin" and path.with_suffix(".idx").exists():
        raise DataError(
            f"{path} is a token store already (it has an .idx); train on it with `data.train` = "
            f"{path.with_suffix('')}"
        )
    if by_suffix(path.name) is not None:
        return _source(path, path.name)
    kind = by_content(path) or TEXT
    found.tell(str(path), CorpusNote.UNKNOWN_SUFFIX, kind=kind.name)
    return _source(path, path.name, kind)

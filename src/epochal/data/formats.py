"""The kinds of files that are read: one table, by suffix and by a file's first bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from epochal.data.columns import read_arrow, read_parquet
from epochal.data.fields import Reading
from epochal.data.hub import HubFile
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.packing import CHUNK, Chunks, faults, inner_name, recoded, unpacked
from epochal.data.readers import Documents, File, has_whole_line, read_csv, read_json, read_text
from epochal.data.token_files import read_bin, read_npy
from epochal.data.web_archives import read_warc
from epochal.errors import DataError


class Format(NamedTuple):
    """A kind of file."""

    name: str
    suffixes: tuple[str, ...]
    """Of its name without that of a packing."""
    read: Callable[[File], Documents]
    magic: bytes = b""
    """First bytes of every such file, if it has any."""
    is_text: bool = False
    """Whether it is in an encoding of text."""


def read_file(path: Path | HubFile, size: int, kind: Format, reading: Reading) -> Documents:
    """The documents of the file of `size` bytes at `path`. Those without text come as ''."""
    with faults(reading.place), io.BufferedReader(path.open("rb", buffering=0), CHUNK) as raw:
        yield from _read(raw, path.name, kind, reading, raw.tell, size)


def _read(
    raw: io.BufferedReader[Any],
    name: str,
    kind: Format,
    reading: Reading,
    position: Callable[[], int],
    size: int,
) -> Documents:
    stream, options = unpacked(raw, name, reading.place), reading.options
    if kind.is_text and options.encoding != "utf-8":
        errors = "strict" if options.invalid_utf8 == "error" else "replace"
        stream = recoded(stream, options.encoding, errors, reading.place)
    of_reading = (reading.place, options, reading.tell)
    yield from kind.read(File(*of_reading, stream, position, size, name))


def _read_members(file: File, members: Iterator[tuple[str, Callable[[], Any]]]) -> Documents:
    """The documents of an archive's files of known kinds, in the archive's order."""
    found, skipped = 0, 0
    for name, opened in members:
        kind = by_suffix(name)
        if Path(name).name.startswith(".") or kind is None or kind in ARCHIVES:
            skipped += 1
            continue
        found += 1
        place = f"{file.place}, {name}"
        reading = Reading(place, file.options, file.tell)
        with faults(place), opened() as raw, io.BufferedReader(raw, CHUNK) as stream:
            yield from _read(stream, name, kind, reading, file.position, file.size)
    if not found:
        raise DataError(
            f"the archive {file.place} holds no file of a known kind; known are {KNOWN}"
        )
    if skipped:
        file.tell(CorpusNote.SKIPPED_MEMBERS, read=found, skipped=skipped)


def _zip(file: File) -> Documents:
    try:
        with zipfile.ZipFile(file.stream) as archive:
            members = (info for info in archive.infolist() if not info.is_dir())
            yield from _read_members(
                file, ((info.filename, partial(archive.open, info)) for info in members)
            )
    except (zipfile.BadZipFile, RuntimeError) as error:  # the latter where it is encrypted
        raise DataError(f"{file.place} cannot be unpacked ({error}); get it again") from error


def _tar(file: File) -> Documents:
    try:
        with tarfile.open(fileobj=file.stream, mode="r|") as archive:
            members = (member for member in archive if member.isfile())
            yield from _read_members(
                file, ((member.name, partial(_member, archive, member)) for member in members)
            )
    except tarfile.TarError as error:
        raise DataError(f"{file.place} is truncated or damaged ({error}); get it again") from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Chunks:
    """A file in a tar, which is read forward only, though it says otherwise."""
    content = archive.extractfile(member)
    assert content is not None
    return Chunks(iter(lambda: content.read(CHUNK), b""))


FORMATS = (
    Format("plain text", (".txt", ".md", ".rst", ".tex", ".text"), read_text, is_text=True),
    Format("JSON lines", (".jsonl", ".ndjson"), read_json, is_text=True),
    Format("Parquet", (".parquet",), read_parquet, b"PAR1"),
    Format("Arrow", (".arrow", ".feather"), read_arrow, b"ARROW1"),
    Format("CSV", (".csv", ".tsv"), read_csv, is_text=True),
    Format("JSON", (".json",), read_json, is_text=True),
    Format("NumPy array", (".npy",), read_npy, b"\x93NUMPY"),
    Format("token ids", (".bin",), read_bin),
    Format("WARC", (".warc", ".wet"), read_warc, b"WARC/"),
    Format("zip", (".zip",), _zip, b"PK\x03\x04"),
    Format("tar", (".tar", ".tgz"), _tar),
)
"""In the order in which they are looked for in a folder."""
TEXT = FORMATS[0]
ARCHIVES = FORMATS[-2:]
KNOWN = ", ".join(suffix for kind in FORMATS for suffix in kind.suffixes)
_NOT_TEXT = (".pdf", ".doc", ".docx", ".odt", ".epub", ".7z", ".rar")


def by_suffix(name: str) -> Format | None:
    """How a file of this name is read; None if the suffix is unknown."""
    inner, _ = inner_name(name)
    return next((kind for kind in FORMATS if inner.endswith(kind.suffixes)), None)


def rank(path: Path | HubFile, options: PrepareOptions) -> int | None:
    """Which files of a folder are read: those of the lowest rank; None for an unknown suffix.

    0 has plain text, JSON lines (also as .json.gz, if they are) and Parquet together. Of the other
    kinds only one is read: in a folder of texts a table is rarely text, and a .json is more often
    a setting.
    """
    if (kind := by_suffix(path.name)) is None:
        return None
    _, packing = inner_name(path.name)
    packings = {"plain text": ("", ".gz", ".zst"), "Parquet": ("",), "JSON": (".gz", ".zst")}
    packings["JSON lines"] = packings["plain text"]
    first = packing in packings.get(kind.name, ())
    if first and kind.name == "JSON" and isinstance(path, Path):
        first = has_whole_line(start_of(path, options).removeprefix("\ufeff").lstrip())
    return 0 if first else 1 + FORMATS.index(kind)


def by_content(path: Path) -> Format | None:
    """How a file named by the user is read if its suffix is unknown; None for text.

    Raises DataError for documents of word processors and the like.
    """
    if path.suffix.lower() in _NOT_TEXT:
        raise DataError(f"{path} is not read as text; extract its text first. Known are {KNOWN}")
    with faults(str(path)), path.open("rb") as raw:
        start = raw.read(8)
    return next((kind for kind in FORMATS if kind.magic and start.startswith(kind.magic)), None)


def start_of(path: Path | HubFile, options: PrepareOptions) -> str:
    """The beginning of a text, up to 1 MiB of it, wrong bytes replaced."""
    with faults(str(path)), io.BufferedReader(path.open("rb", buffering=0), CHUNK) as raw:
        stream = unpacked(raw, path.name, str(path))
        return stream.read(CHUNK).decode(options.encoding, errors="replace")

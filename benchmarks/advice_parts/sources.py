"""Texts that a Python or Debian installation has. None is copied into the repository."""

from __future__ import annotations

import gzip
import hashlib
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advice_parts.catalogues import read_mo, read_po
from advice_parts.markup import html_text, manual_text
from epochal.data.builtin import builtin_documents
from epochal.errors import DataError


@dataclass(frozen=True, slots=True)
class Places:
    """Where the machine has its texts."""

    library: Path = field(default_factory=lambda: Path(sysconfig.get_path("stdlib")))
    """Python's standard library."""
    packages: Path = field(default_factory=lambda: Path(sysconfig.get_path("purelib")))
    """Installed packages."""
    share: Path = Path("/usr/share")
    """Debian's documentation, manual pages and message catalogues."""


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of text that a machine may have."""

    name: str
    kind: str
    documents: Callable[[Places], Iterator[str]]
    """Its documents, in an order that is random but always the same."""
    held_out: bool = False
    """Only looked at in the end, so that nothing is chosen by it."""


def _builtin(places: Places) -> Iterator[str]:
    try:
        yield from builtin_documents(places.library)
    except DataError:
        return


def _python_source(places: Places) -> Iterator[str]:
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data"}
    for path in _files(places.library, ["*.py"]):
        if not skipped & set(path.relative_to(places.library).parts):
            yield _text(path)


def _manuals(places: Places) -> Iterator[str]:
    """Manual pages in English; where there are none, changelogs and copyright notes."""
    patterns = [f"man{section}/*" for section in range(1, 10)]
    found = False
    for path in _files(places.share / "man", patterns):
        page = manual_text(_text(path))
        found = found or bool(page)
        yield page
    if found:
        return
    for path in _files(places.share / "doc", ["*/changelog*", "*/copyright"]):
        yield _text(path)


def _licences(places: Places) -> Iterator[str]:
    spellings = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
    for path in _files(places.share / "common-licenses", ["*"]):
        yield _text(path)
    for path in _files(places.packages, [f"**/{name}" for name in spellings]):
        if path.suffix not in (".py", ".pyc", ".html"):
            yield _text(path)
    for path in _files(places.share / "doc", ["*/copyright"]):
        yield _text(path)


def _headers(places: Places) -> Iterator[str]:
    for path in _files(places.packages, ["**/*.h", "**/*.hpp"]):
        yield _text(path)


def _html(places: Places) -> Iterator[str]:
    for root in (places.share / "doc", places.packages):
        for path in _files(root, ["**/*.html", "**/*.htm"]):
            yield html_text(_text(path))


def _messages(places: Places) -> Iterator[str]:
    """Catalogues in languages other than English, one document each."""
    for root in (places.share / "locale", places.packages):
        for path in _files(root, ["**/LC_MESSAGES/*.mo", "**/LC_MESSAGES/*.po"]):
            english = path.parent.parent.name.startswith("en")
            if english or (path.suffix == ".po" and path.with_suffix(".mo").exists()):
                continue
            try:
                read = read_mo if path.suffix == ".mo" else read_po
                yield "\n".join(read(path.read_bytes()))
            except (OSError, ValueError, SyntaxError):  # damaged, or in a charset of its own
                continue


SOURCES: Sequence[Source] = (
    Source("builtin", "Python's own documentation", _builtin),
    Source("python", "source code of the standard library", _python_source),
    Source("manuals", "manual pages, or changelogs where there are none", _manuals),
    Source("licences", "licences and copyright notes", _licences),
    Source("headers", "C and C++ headers of installed packages", _headers),
    Source("html", "HTML documentation, without its markup", _html, held_out=True),
    Source("messages", "message catalogues in many languages", _messages, held_out=True),
)


def _files(root: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Files below `root`, in the order of the hashes of their names, so that a cut is a sample."""
    found = {
        path.relative_to(root).as_posix(): path
        for pattern in patterns
        for path in root.glob(pattern)
        if path.is_file() and not path.is_symlink()
    }
    for name in sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest()):
        yield found[name]


def _text(path: Path) -> str:
    """The content of a file, unpacked; empty where it is not UTF-8 or cannot be read."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except (OSError, EOFError, ValueError):
        return ""

"""Make the texts to study, as folders of documents, from what the machine has."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from advice_parts.sources import SOURCES, Places, Source
from epochal import files
from epochal.errors import DataError, UserError, nearest
from epochal.progress import say
from epochal.results import to_json

LEAST_BYTES = 200_000
"""Smallest text that is used: less is some tens of thousands of tokens."""
LONGEST_DOCUMENT = 50_000
"""Characters; the rest of a longer document is left out, so that no document is the text."""
SHORTEST_DOCUMENT = 200
SHORTEST_REPEATED = 80
"""Characters of a paragraph from which it is taken once: short lines repeat in any text."""
_BLANK_LINES = re.compile(r"\n[ \t]*\n+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text that was made; its documents are files of a folder."""

    name: str
    kind: str
    held_out: bool
    documents: int
    bytes: int
    most_bytes: int
    """The cap it was made with."""
    sha256: str
    """Of all documents, in their order."""


_TEXT = TypeAdapter(Text)


class NotAvailable(DataError):
    """The machine has too little of a text."""


def chosen_sources(names: Sequence[str], held_out: bool) -> list[Source]:
    """The sources named, or all; those held out only if asked for. Raises UserError."""
    known = {source.name: source for source in SOURCES}
    for name in names:
        if name not in known:
            raise UserError(
                f"there is no text {name!r}.{nearest(name, known)} Known: {', '.join(known)}"
            )
        if known[name].held_out and not held_out:
            raise UserError(f"the text {name} is held out; to look at it, add --held-out")
    wanted = [known[name] for name in dict.fromkeys(names)] or list(SOURCES)
    return [source for source in wanted if held_out or not source.held_out]


def documents_of(folder: Path) -> Path:
    """Where the documents of the text in `folder` are."""
    return folder / "documents"


def make_text(source: Source, folder: Path, most_bytes: int, places: Places) -> Text:
    """The text of a source in `folder`, at most `most_bytes` of UTF-8; the earlier one if there.

    Raises NotAvailable where the machine has too little of it, and DataError where the folder
    holds one that was made with another cap.
    """
    record = folder / "text.json"
    if record.exists():
        text = _read(record)
        if text.most_bytes != most_bytes:
            raise DataError(
                f"{folder} holds a text of at most {text.most_bytes:,} bytes, not {most_bytes:,}; "
                "give another --work folder, or the earlier --bytes"
            )
        return text
    documents = list(capped(fresh_documents(source.documents(places)), most_bytes))
    contents = [document.encode() for document in documents]
    size = sum(map(len, contents))
    if size < min(LEAST_BYTES, most_bytes // 2):
        raise NotAvailable(
            f"the text {source.name} ({source.kind}) is not available: this machine has {size:,} "
            f"bytes of it, {min(LEAST_BYTES, most_bytes // 2):,} are needed"
        )
    text = Text(
        name=source.name,
        kind=source.kind,
        held_out=source.held_out,
        documents=len(contents),
        bytes=size,
        most_bytes=most_bytes,
        sha256=hashlib.sha256(b"\0".join(contents)).hexdigest(),
    )
    with files.atomic_folder(folder) as place:
        documents_of(place).mkdir()
        for number, content in enumerate(contents):
            (documents_of(place) / f"{number:05}.txt").write_bytes(content)
        files.write_json(place / "text.json", to_json(text))
    say(f"{text.name}: {text.documents:,} documents, {text.bytes:,} bytes")
    return text


def fresh_documents(documents: Iterable[str]) -> Iterator[str]:
    """The documents without what came before: paragraphs seen already, and whole documents.

    Otherwise a licence at the head of each file would be learnt by heart and found again in the
    validation text. Paragraphs are compared without case and spacing.
    """
    seen: set[bytes] = set()
    for document in documents:
        kept = []
        for paragraph in _BLANK_LINES.split(document.replace("\r\n", "\n")[:LONGEST_DOCUMENT]):
            plain = " ".join(paragraph.lower().split())
            key = hashlib.sha256(plain.encode(errors="replace")).digest()
            if len(plain) < SHORTEST_REPEATED or key not in seen:
                kept.append(paragraph.rstrip())
                seen.add(key)
        text = "\n\n".join(kept).strip("\n") + "\n"
        plain = " ".join(text.lower().split())
        whole = hashlib.sha256(b"document" + plain.encode(errors="replace")).digest()
        if len(plain) >= SHORTEST_DOCUMENT and whole not in seen and _is_unicode(text):
            seen.add(whole)
            yield text


def capped(documents: Iterable[str], most_bytes: int) -> Iterator[str]:
    """Whole documents from the start while they fit; one that does not is left out.

    Ends where less than a hundredth of the bytes is free, so that not all are read for that.
    """
    left = most_bytes
    for document in documents:
        size = len(document.encode())
        if size <= left:
            left -= size
            yield document
        if left < most_bytes / 100:
            return


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _read(path: Path) -> Text:
    try:
        return _TEXT.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}); delete its folder") from None

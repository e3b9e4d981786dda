"""Documents of a web archive (WARC, WET): plain text as it is, of HTML pages their content."""

from __future__ import annotations

import importlib
from collections import Counter
from functools import partial
from typing import Any

from epochal.data.fields import Document
from epochal.data.notes import CorpusNote
from epochal.data.readers import Documents, File
from epochal.errors import DataError, not_installed

_WITH_CONTENT = ("response", "resource", "conversion")
_HTML = ("text/html", "application/xhtml+xml")


def read_warc(file: File) -> Documents:
    """The records of text in a WARC file, in its order; those of other kinds are counted.

    An HTML page is what trafilatura finds to be its content, as in datatrove, but nothing is left
    out for being repeated on a page.
    """
    iterator = _library("warcio.archiveiterator").ArchiveIterator
    failure = _library("warcio.exceptions").ArchiveLoadFailed
    read, others = 0, Counter[str]()
    try:
        for number, record in enumerate(iterator(file.stream), 1):
            place = f"{file.place}, record {number}"
            if record.rec_type is None:
                raise DataError(f"{place} has no type; the file is damaged, get it again")
            if record.rec_type not in _WITH_CONTENT:
                continue
            content = record.content_stream().read()
            if record.raw_stream.limit:
                raise DataError(f"{place} is cut off; the file is truncated, get it again")
            kind, charset = _content_type(record)
            if kind in _HTML:
                texts = [_library("trafilatura").extract(content, include_comments=False) or ""]
            elif kind == "text/plain":
                texts = file.tried(partial(_decoded, file, content, charset, place))
            else:
                others[kind] += 1
                continue
            read += len(texts)
            yield from ((text, file.position()) for text in texts)
    except failure as error:
        raise DataError(
            f"{file.place} is no WARC file or damaged ({error}); get it again"
        ) from None
    if others:
        kinds = dict(others.most_common())
        file.tell(CorpusNote.OTHER_RECORDS, read=read, skipped=others.total(), kinds=kinds)


def _library(name: str) -> Any:
    """A library of the extra `warc`. Raises DataError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        library = name.partition(".")[0]
        raise DataError(not_installed("a WARC file needs", library, "warc")) from None


def _content_type(record: Any) -> tuple[str, str]:
    """(content type, charset or '') of a record; the type of a failed request is its status."""
    headers = record.http_headers or record.rec_headers
    if record.http_headers and not record.http_headers.get_statuscode().startswith("2"):
        return f"HTTP {record.http_headers.get_statuscode()}", ""
    named = headers.get_header("Content-Type") or ""
    kind = record.rec_headers.get_header("WARC-Identified-Payload-Type") or named.partition(";")[0]
    charset = named.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    return kind.strip().lower() or "unknown", charset


def _decoded(file: File, content: bytes, charset: str, place: str) -> list[Document]:
    try:
        if charset not in ("", "utf-8", "utf8"):
            return [content.decode(charset)]
    except (LookupError, UnicodeDecodeError):
        pass  # servers are often wrong
    return [file.text(content, place)]

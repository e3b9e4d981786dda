"""Documents of one file of text, JSON or CSV.

Each reader takes a file's content as a stream and gives pairs of a document and the bytes of the
file consumed so far (for a progress bar). A fault of the file is a DataError with the file, the
place and what to do.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from epochal.data.fields import Document, Reading, no_field, splits
from epochal.data.notes import CorpusNote
from epochal.data.packing import CHUNK
from epochal.errors import DataError

Documents = Iterator[tuple[Document, int]]

END_LINE = "<|endoftext|>"
"""The line between documents of TinyStories and others."""
_BOM = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1  # the csv module's own limit is 128 KB


@dataclass(frozen=True)
class File(Reading):
    """One file, opened for a reader."""

    stream: io.BufferedReader
    """Its content, unpacked."""
    position: Callable[[], int]
    """Bytes of the file itself consumed so far."""
    size: int
    """Bytes of the file itself."""
    name: str
    """Its own name, by which its kind is known."""

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(offset in bytes, line with its end) of each line, without a byte-order mark."""
        offset = 0
        for line in self._raw_lines():
            skip = len(_BOM) if offset == 0 and line.startswith(_BOM) else 0
            yield offset + skip, line[skip:]
            offset += len(line)

    def _raw_lines(self) -> Iterator[bytes]:
        """Lines end with \\n; in a file without any, as old Macs wrote, with \\r."""
        start = self.stream.peek(CHUNK)
        if b"\n" in start or b"\r" not in start[:-1]:
            yield from self.stream
            return
        rest = b""
        while chunk := self.stream.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\r")
            yield from (line + b"\r" for line in lines)
        if rest:
            yield rest


def read_text(file: File) -> Documents:
    """Plain text, cut into documents by the option `documents`."""
    rule = file.options.documents
    if rule in (None, "file"):
        content = file.stream.read()
        skip = len(_BOM) if content.startswith(_BOM) else 0
        yield file.text(content[skip:], file.place, skip), file.position()
    elif rule == "line":
        for offset, line in file.lines():
            text = file.text(line, file.place, offset).rstrip("\r\n")
            yield text if text.strip() else "", file.position()
    else:
        paragraph: list[str] = []
        for offset, line in file.lines():
            text = file.text(line, file.place, offset)
            if text.strip() != END_LINE if rule == "endoftext" else text.strip():
                paragraph.append(text)
            elif paragraph:
                yield _joined(paragraph, rule), file.position()
                paragraph = []
        if paragraph:
            yield _joined(paragraph, rule), file.position()


def _joined(lines: list[str], rule: str | None) -> str:
    """A document without the line ends around it; '' if it is blank."""
    text = "".join(lines)
    return text.strip("\r\n") if rule == "endoftext" else text.rstrip("\r\n")


def read_json(file: File) -> Documents:
    """A JSON value a line, or one array of them."""
    start = file.stream.peek(CHUNK)
    if start.removeprefix(_BOM).lstrip()[:1] == b"[":
        yield from _array(file)
        return
    for number, (offset, line) in enumerate(file.lines(), 1):
        if line.startswith(_BOM):  # of a file that `cat` put behind another
            file.tell(CorpusNote.MARK_INSIDE, line=number)
            offset, line = offset + len(_BOM), line[len(_BOM) :]
        if not line.strip():
            continue
        text = file.text(line, file.place, offset)
        place = f"{file.place}, line {number}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not valid JSON ({error})") from None
        for document in file.row(row, place):
            yield document, file.position()


_BLANK = re.compile(r"\s*")
_NEAR_THE_END = 16  # characters within which a value may only be cut by the end of what is read


class _Text:
    """UTF-8 as text that grows on demand: [at, end) is what is still to be parsed."""

    def __init__(self, file: File) -> None:
        self._file, self._done = file, 0
        errors = "strict" if file.options.invalid_utf8 == "error" else "replace"
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors)
        self.text, self.at, self.ended = "", 0, False

    def grow(self) -> bool:
        """Read more, at least as much as is there; False at the end of the file."""
        if self.ended:
            return False
        chunk = self._file.stream.read(max(CHUNK, len(self.text) - self.at))
        kept = self._decoder.getstate()[0]
        self.ended = not chunk
        try:
            more = self._decoder.decode(chunk, self.ended)
        except UnicodeDecodeError:
            more = self._file.text(kept + chunk, self._file.place, self._done - len(kept))
        self._done += len(chunk)
        self.text, self.at = self.text[self.at :] + more, 0
        return True

    def next_sign(self) -> str:
        """The next character that is not blank; '' at the end of the file."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.text) or not self.grow():
                return self.text[self.at : self.at + 1]

    def value(self, place: str) -> Any:
        """The JSON value that begins here. Raises DataError."""
        while True:
            try:
                value, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
                return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string")
                if not (cut or error.pos >= len(self.text) - _NEAR_THE_END) or not self.grow():
                    raise DataError(f"{place} is not valid JSON ({error.msg})") from None
            except RecursionError as error:
                raise DataError(f"{place} is not valid JSON ({error})") from None


def _array(file: File) -> Documents:
    """The elements of one JSON array: objects, or texts. Only one is in memory at a time."""
    text = _Text(file)
    text.next_sign()
    for number in itertools.count(1):
        text.at += 1  # over [ or ,
        place = f"{file.place}, element {number} of the array"
        sign = text.next_sign()
        if number == 1 and sign == "]":
            break
        row = text.value(place)
        for document in file.value(row, place) if isinstance(row, str) else file.row(row, place):
            yield document, file.position()
        if (sign := text.next_sign()) == "]":
            break
        if sign != ",":
            problem = f"has {sign!r} behind it" if sign else "is the last, but `]` is missing"
            raise DataError(f"{place} {problem}; the file is truncated or damaged")
    text.at += 1
    if sign := text.next_sign():
        raise DataError(
            f"{file.place} goes on behind its JSON array, with {sign!r}; give one array, or one "
            "object a line"
        )


def read_csv(file: File) -> Documents:
    """CSV or TSV with a header; the separator is the one that shows the wanted column."""
    csv.field_size_limit(_LONGEST_FIELD)
    lines = (file.text(line, file.place, offset) for offset, line in file.lines())
    first = next((line for line in lines if line.strip()), "")
    wanted = [name for name, _ in splits(file.options.text_field)]
    separators = "\t,;|" if ".tsv" in file.name.lower() else ",;\t|"
    headers = {s: next(csv.reader([first], delimiter=s), []) for s in separators}
    separator = next((s for s in headers if wanted[0] in headers[s]), None)
    separator = separator or max(separators, key=lambda s: len(headers[s]))
    rows = csv.reader(itertools.chain([first], lines), delimiter=separator, strict=True)
    try:
        header = next(rows, [])
        place = _one_column(file, header)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{file.place}, line {rows.line_num} has {len(row)} columns, its header "
                    f"{len(header)}; put fields that hold {separator!r} into quotes"
                )
            yield row[place], file.position()
    except csv.Error as error:
        raise DataError(
            f"{file.place}, line {rows.line_num} is not valid CSV ({error}); a field with quotes "
            'needs quotes around it, and each of its own doubled ("")'
        ) from None


def _one_column(file: File, names: list[str]) -> int:
    """Where the column with the text stands. Raises DataError if there is none or two."""
    field = file.options.text_field
    if (count := names.count(field)) > 1:
        doubled_column(file, count)
    if not count:
        no_field(f"{file.place} has no column", "columns", field, names)
    return names.index(field)


def doubled_column(file: Reading, count: int) -> None:
    """Raise DataError: two columns have the name."""
    raise DataError(
        f"{file.place} has {count} columns named {file.options.text_field!r}; rename or remove "
        "all but one"
    )

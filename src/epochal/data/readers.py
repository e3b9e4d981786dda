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
from functools import partial
from typing import Any

from epochal.data.fields import Document, Part, Reading, no_field, splits
from epochal.data.notes import CorpusNote
from epochal.data.packing import CHUNK
from epochal.errors import DataError

Documents = Iterator[tuple[Document, int]]

END_LINE = "<|endoftext|>"
"""The line between documents of TinyStories and others."""
PART = 1 << 22
"""Characters from which on a document of plain text is given in parts."""
_LONGEST_PART = 1 << 24
_SEARCHED = 1 << 12  # characters at the end of a part in which a place to cut is looked for
_CUTS = re.compile(
    r"(?:[!-~]|[^\W_]|[\u3001-\u303f\uff01-\uff5e])(?=[ \n])"
    r"|[A-Za-z](?=[0-9])|[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f](?=[\u4e00-\u9fff])"
)
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
        yield from _without_mark(self._raw_lines(-1))

    def fragments(self, by_line: bool) -> Iterator[tuple[int, bytes, bool]]:
        """(offset in bytes, up to `CHUNK` bytes and whole characters, whether they end a line)."""
        rest = b""
        end = b"\n" if self._has_newlines() else b"\r"
        pieces = self._raw_lines(CHUNK) if by_line else iter(lambda: self.stream.read(CHUNK), b"")
        for offset, piece in _without_mark(pieces):
            ends = by_line and (piece.endswith(end) or len(piece) < CHUNK - len(_BOM))
            content, offset = rest + piece, offset - len(rest)
            whole = len(content) if ends else _whole_characters(content)
            rest = content[whole:]
            yield offset, content[:whole], ends
        if rest:
            yield offset + whole, rest, True

    def _has_newlines(self) -> bool:
        start = self.stream.peek(CHUNK)
        return b"\n" in start or b"\r" not in start[:-1]

    def _raw_lines(self, longest: int) -> Iterator[bytes]:
        """Lines end with \\n; in a file without any, as old Macs wrote, with \\r."""
        if self._has_newlines():
            yield from iter(lambda: self.stream.readline(longest), b"")
            return
        rest = b""
        while chunk := self.stream.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\r")
            yield from (line + b"\r" for line in lines)
        if rest:
            yield rest


def _without_mark(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """(offset in bytes, piece) of each, without a byte-order mark at the beginning."""
    offset = 0
    for piece in pieces:
        skip = len(_BOM) if offset == 0 and piece.startswith(_BOM) else 0
        yield offset + skip, piece[skip:]
        offset += len(piece)


def _whole_characters(content: bytes) -> int:
    """Bytes of `content` without a last UTF-8 character that is cut off."""
    for back in range(1, min(4, len(content) + 1)):
        byte = content[-back]
        if byte >= 0xC0:
            needed = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return len(content) - back if needed > back else len(content)
        if byte < 0x80:
            break
    return len(content)


def read_text(file: File) -> Documents:
    """Plain text, cut into documents by the option `documents`; long ones come in parts."""
    rule = file.options.documents or "file"
    held: list[str] = []
    size, begun, at_start = 0, False, True  # begun: a part was given; at_start: of a line
    for offset, content, ends in file.fragments(rule != "file"):
        text = file.text(content, file.place, offset)
        separates = at_start and ends and _separates(text, rule)
        if not separates:
            held.append(text)
            size += len(text)
        at_start = ends
        if separates or (rule == "line" and ends):
            if held or begun:
                yield _joined(held, rule, begun), file.position()
            held, size, begun = [], 0, False
        elif size > PART:
            whole = "".join(held)
            whole = whole.lstrip("\r\n") if rule == "endoftext" and not begun else whole
            cut = max(
                (each.end() for each in _CUTS.finditer(whole, len(whole) - _SEARCHED)), default=0
            )
            if cut or size > _LONGEST_PART:
                yield Part(whole[: cut or len(whole)]), file.position()
                whole, begun = whole[cut or len(whole) :], True
            held, size = [whole], len(whole)
    if held or begun or rule == "file":
        yield _joined(held, rule, begun), file.position()


def _separates(text: str, rule: str) -> bool:
    """Whether a line stands between documents."""
    if rule == "endoftext":
        return text.strip() == END_LINE
    return rule == "blank-line" and not text.strip()


def _joined(held: list[str], rule: str, begun: bool) -> str:
    """A document, or the last part of one, without the line ends around it; '' if it is blank."""
    text = "".join(held)
    if rule == "file":
        return text
    if rule == "endoftext" and not begun:
        text = text.lstrip("\r\n")
    text = text.rstrip("\r\n")
    return text if begun or rule != "line" or text.strip() else ""


def read_json(file: File) -> Documents:
    """A JSON value a line, one array of them, or values that go over several lines."""
    start = file.stream.peek(CHUNK).decode(errors="replace").removeprefix("\ufeff").lstrip()
    if start[:1] == "[":
        yield from _array(file)
        return
    if not has_whole_line(start):
        yield from _values(file)
        return
    for number, (offset, line) in enumerate(file.lines(), 1):
        if line.startswith(_BOM):  # of a file that `cat` put behind another
            file.tell(CorpusNote.MARK_INSIDE, line=number)
            offset, line = offset + len(_BOM), line[len(_BOM) :]
        if not line.strip():
            continue
        for document in file.tried(partial(_json_line, file, line, offset, number)):
            yield document, file.position()


def has_whole_line(start: str) -> bool:
    """Whether JSON that begins so has its first value on one line, also if that is damaged."""
    line, _, rest = start.partition("\n")
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return not rest.strip() or error.pos < len(error.doc.rstrip())
    except (ValueError, RecursionError):  # numbers or nesting beyond Python's limits
        pass
    return True


def _values(file: File) -> Documents:
    """JSON values one after the other, as programs write them for people to read."""
    text = _Text(file)
    for number in itertools.count(1):
        if not text.next_sign():
            break
        place = f"{file.place}, value {number}"
        for document in file.tried(partial(file.row, text.value(place), place)):
            yield document, file.position()


def _json_line(file: File, line: bytes, offset: int, number: int) -> Iterator[Document]:
    text = file.text(line, file.place, offset)
    place = f"{file.place}, line {number}"
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not valid JSON ({error})") from None
    return file.row(row, place)


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
        read = file.value if isinstance(row, str) else file.row
        for document in file.tried(partial(read, row, place)):
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
            row_place = f"{file.place}, line {rows.line_num}"
            for text in file.tried(partial(_csv_field, row, place, header, separator, row_place)):
                yield text, file.position()
    except csv.Error as error:
        raise DataError(
            f"{file.place}, line {rows.line_num} is not valid CSV ({error}); a field with quotes "
            'needs quotes around it, and each of its own doubled ("")'
        ) from None


def _csv_field(
    row: list[str], column: int, header: list[str], separator: str, place: str
) -> list[Document]:
    if len(row) != len(header):
        raise DataError(
            f"{place} has {len(row)} columns, its header {len(header)}; put fields that hold "
            f"{separator!r} into quotes"
        )
    return [row[column]]


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

"""Documents of one file: plain text, JSON lines or Parquet, plain, gzip or zstd.

Each reader gives pairs of a document's text and the bytes of the file consumed so far (for a
progress bar). A fault of the file is a DataError with the file, the place and what to do.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from epochal.data.options import PrepareOptions
from epochal.errors import DataError, NamedOption, nearest

Kind = Literal["text", "jsonl", "parquet"]
Compression = Literal["", "gz", "zst"]
Documents = Iterator[tuple[str, int]]

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20


def read_documents(
    path: Path, kind: Kind, compression: Compression, options: PrepareOptions
) -> Documents:
    """The documents of one file. Documents without text come as ''."""
    with _faults(path):
        if kind == "parquet":
            yield from _parquet(path, options)
            return
        with _opened(path, compression) as (stream, raw):
            yield from _READERS[kind](path, stream, raw, options)


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Faults of files and of their compression → DataError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); get it again") from error
    except OSError as error:
        if error.errno is None:  # not the system's, but pyarrow's about what the file holds
            raise DataError(f"{path} is truncated or damaged ({error}); get it again") from error
        raise DataError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def _opened(path: Path, compression: Compression) -> Iterator[tuple[IO[bytes], BinaryIO]]:
    """The content of a file as a stream, and the file itself, whose position gives the progress."""
    with path.open("rb") as raw:
        if compression == "gz":
            with gzip.open(raw, "rb") as unpacked:
                yield io.BufferedReader(unpacked, _CHUNK), raw
        elif compression == "zst":
            with io.BufferedReader(_Zstd(path, raw), _CHUNK) as unpacked:
                yield unpacked, raw
        else:
            yield raw, raw


class _Zstd(io.RawIOBase):
    """Unpacked content of a zstd file of one or more frames, which detects a truncated one."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        import zstandard

        self._path, self._raw = path, raw
        self._error: type[Exception] = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._packed and not (chunk := self._raw.read(_CHUNK)):
                if self._frame is not None:
                    raise EOFError("the last zstd frame has no end")
                return 0
            self._packed = self._packed or chunk
            self._ready = memoryview(self._unpack())
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpack(self) -> bytes:
        self._frame = self._frame or self._new()
        try:
            content: bytes = self._frame.decompress(self._packed)
        except self._error as error:
            raise DataError(
                f"{self._path} is truncated or damaged ({error}); get it again"
            ) from error
        self._packed = self._frame.unused_data if self._frame.eof else b""
        self._frame = None if self._frame.eof else self._frame
        return content


def _decode(content: bytes, path: Path, offset: int, options: PrepareOptions) -> str:
    try:
        return content.decode(errors="strict" if options.invalid_utf8 == "error" else "replace")
    except UnicodeDecodeError as error:
        looks = ""
        if offset == 0 and content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            looks = " (it looks like UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`)"
        raise DataError(
            f"{path} is not valid UTF-8 at byte {offset + error.start:,}{looks}; fix the file, or "
            "have such bytes read as U+FFFD (",
            NamedOption("invalid_utf8", "replace"),
            ")",
        ) from None


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(offset in bytes, line with its end) of each line, without a byte-order mark."""
    offset = 0
    for line in stream:
        skip = len(_BOM) if offset == 0 and line.startswith(_BOM) else 0
        yield offset + skip, line[skip:]
        offset += len(line)


def _text(path: Path, stream: IO[bytes], raw: BinaryIO, options: PrepareOptions) -> Documents:
    if options.documents == "file":
        content = stream.read()
        skip = len(_BOM) if content.startswith(_BOM) else 0
        yield _decode(content[skip:], path, skip, options), raw.tell()
    elif options.documents == "line":
        for offset, line in _lines(stream):
            text = _decode(line, path, offset, options).rstrip("\r\n")
            yield text if text.strip() else "", raw.tell()
    else:
        paragraph: list[str] = []
        for offset, line in _lines(stream):
            text = _decode(line, path, offset, options)
            if text.strip():
                paragraph.append(text)
            elif paragraph:
                yield "".join(paragraph).rstrip("\r\n"), raw.tell()
                paragraph = []
        if paragraph:
            yield "".join(paragraph).rstrip("\r\n"), raw.tell()


def _jsonl(path: Path, stream: IO[bytes], raw: BinaryIO, options: PrepareOptions) -> Documents:
    for number, (offset, line) in enumerate(_lines(stream), 1):
        if not line.strip():
            continue
        text = _decode(line, path, offset, options)
        place = f"{path}, line {number}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            hint = ""
            if number == 1 and text.lstrip().startswith("["):
                hint = "; it looks like one JSON array, turn it into lines with `jq -c '.[]'`"
            raise DataError(f"{place} is not valid JSON ({error}){hint}") from None
        yield _field(row, place, options), raw.tell()


def _field(row: Any, place: str, options: PrepareOptions) -> str:
    """The text of one JSON line; '' for null."""
    field = options.text_field
    if not isinstance(row, dict):
        kind = "an array" if isinstance(row, list) else f"the value {row!r:.40}"
        raise DataError(f"{place} is {kind}, not an object like {{{json.dumps(field)}: …}}")
    if field not in row:
        there = ", ".join(map(repr, row)) or "none"
        raise DataError(
            f"{place} has no field {field!r}; its fields are {there}.{nearest(field, row)} Name "
            "the one with the text (",
            NamedOption("text_field"),
            ")",
        )
    text = row[field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(
            f"{place}: the field {field!r} holds {type(text).__name__} {text!r:.40}, not text; "
            "name the field with the text (",
            NamedOption("text_field"),
            ")",
        )
    return _without_surrogates(text, place, options)


def _without_surrogates(text: str, place: str, options: PrepareOptions) -> str:
    """JSON can spell half a character (\\ud800), which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        if options.invalid_utf8 == "error":
            raise DataError(
                f"{place} spells half a character (a lone surrogate), which is not valid Unicode; "
                "fix it, or have it read as U+FFFD (",
                NamedOption("invalid_utf8", "replace"),
                ")",
            ) from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _parquet(path: Path, options: PrepareOptions) -> Documents:
    import pyarrow as pa
    import pyarrow.parquet as pq

    field, size = options.text_field, path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, field)
            total, row = file.metadata.num_rows, 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                column = batch.column(0)
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                for value in column.cast(pa.large_binary()).to_pylist():
                    place = Path(f"{path}, row {row}, column {field!r}")
                    row += 1
                    yield _decode(value or b"", place, 0, options), size * row // total
    except pa.ArrowException as error:
        raise DataError(f"{path} is truncated or damaged ({error}); get it again") from error


def _check_column(path: Path, schema: Any, field: str) -> None:
    import pyarrow as pa

    if field not in schema.names:
        there = ", ".join(map(repr, schema.names))
        raise DataError(
            f"{path} has no column {field!r}; its columns are {there}."
            f"{nearest(field, schema.names)} Name the one with the text (",
            NamedOption("text_field"),
            ")",
        )
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(test(kind) for test in is_text):
        raise DataError(
            f"{path}: the column {field!r} holds {kind}, not text; name the column with the text (",
            NamedOption("text_field"),
            ")",
        )


_READERS: dict[str, Callable[[Path, IO[bytes], BinaryIO, PrepareOptions], Documents]] = {
    "text": _text,
    "jsonl": _jsonl,
}

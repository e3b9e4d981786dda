"""Documents of one Parquet or Arrow file: the values of a column."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from epochal.data.fields import Document, no_field, splits
from epochal.data.notes import CorpusNote
from epochal.data.readers import Documents, File, doubled_column
from epochal.errors import DataError, NamedOption, not_installed

_ROWS = 1024
_TEXTS = (
    *("string", "large_string", "string_view", "null"),
    *("binary", "large_binary", "binary_view"),
)
_FILE_FORMAT = b"ARROW1"  # else it is Arrow's stream format, as `datasets` writes it


def read_parquet(file: File) -> Documents:
    """The rows of a Parquet file."""
    pa = _arrow()
    import pyarrow.parquet as pq

    try:
        with _seekable(file) as stream, pq.ParquetFile(stream) as table:
            name, rest = _column(file, table.schema_arrow)
            total, row = table.metadata.num_rows, 0
            for batch in table.iter_batches(batch_size=_ROWS, columns=[name]):
                documents = _values(file, batch.column(name), rest, row)
                row += batch.num_rows
                yield from ((document, file.size * row // total) for document in documents)
    except pa.ArrowException as error:
        raise DataError(f"{file.place} is truncated or damaged ({error}); get it again") from error


def read_arrow(file: File) -> Documents:
    """The rows of an Arrow file, also of one shard of a data set of Hugging Face's `datasets`."""
    pa = _arrow()

    try:
        with ExitStack() as stack:
            if file.stream.peek(8).startswith(_FILE_FORMAT):
                table = pa.ipc.open_file(stack.enter_context(_seekable(file)))
                batches = (table.get_batch(number) for number in range(table.num_record_batches))
            else:
                batches = table = pa.ipc.open_stream(file.stream)
            name, rest = _column(file, table.schema)
            row = 0
            for batch in batches:
                documents = _values(file, batch.column(name), rest, row)
                row += batch.num_rows
                yield from ((document, file.position()) for document in documents)
    except pa.ArrowException as error:
        raise DataError(f"{file.place} is truncated or damaged ({error}); get it again") from error


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        need = "Parquet and Arrow files need"
        raise DataError(not_installed(need, "pyarrow", "parquet")) from None
    return pyarrow


@contextmanager
def _seekable(file: File) -> Iterator[Any]:
    """The file as these formats need it; one that can only be read forward is copied first."""
    if file.stream.seekable():
        yield file.stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file.stream, copy)
        yield copy


def _column(file: File, schema: Any) -> tuple[str, str]:
    """(column, path within it) of the wanted field. Raises DataError if it has no text."""
    import pyarrow as pa

    field = file.options.text_field
    name, rest = next((s for s in splits(field) if s[0] in schema.names), ("", ""))
    if not name:
        no_field(f"{file.place} has no column", "columns", field, schema.names)
    if (count := schema.names.count(name)) > 1:
        doubled_column(file, count)
    kind = schema.field(name).type
    if pa.types.is_null(kind):
        file.tell(CorpusNote.NULL_COLUMN, field=name)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        file.tell(CorpusNote.BINARY_AS_TEXT, field=name)
    return name, rest


def _values(file: File, column: Any, rest: str, row: int) -> Iterator[Document]:
    """The documents of a column whose first value is of row number `row`."""
    import pyarrow as pa

    field = file.options.text_field
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_nested(kind):
        for number, value in enumerate(column.to_pylist(), row):
            yield from file.tried(
                partial(_nested, file, value, rest, f"{file.place}, row {number}")
            )
        return
    if rest or str(kind) not in _TEXTS:
        raise DataError(
            f"{file.place}: the column {field!r} holds {kind}, not text; name the column with "
            "the text (",
            NamedOption("text_field"),
            ")",
        )
    for number, content in enumerate(column.cast(pa.large_binary()).to_pylist(), row):
        place = f"{file.place}, row {number}, column {field!r}"
        yield from file.tried(partial(_text, file, content, place))


def _nested(file: File, value: Any, rest: str, place: str) -> Iterator[Document]:
    return file.value(file.look_up(value, rest, place), place, "column")


def _text(file: File, content: bytes | None, place: str) -> list[Document]:
    return [file.text(content or b"", place)]

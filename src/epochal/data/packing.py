"""Files as streams of UTF-8: unpacked by what they hold, and turned from other encodings."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from epochal.errors import DataError, NamedOption

CHUNK = 1 << 20
_WIDEST_WINDOW = 1 << 31  # the format's own limit, `zstd --long=31`
_SAMPLE = 1 << 15


@contextmanager
def faults(place: str) -> Iterator[None]:
    """Faults of files and of their packing → DataError that names `place`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, _DamagedZstd) as error:
        raise DataError(f"{place} is truncated or damaged ({error}); get it again") from error
    except OSError as error:
        if error.errno is None:  # not the system's, but a library's about what the file holds
            raise DataError(f"{place} is truncated or damaged ({error}); get it again") from error
        raise DataError(f"cannot read {place}: {error.strerror}") from error


class Chunks(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        """`pieces` are asked for when they are read; empty ones are passed over."""
        self._pieces = pieces
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what is there; 0 at the end."""
        while not self._ready:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._ready = memoryview(piece)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


class _DamagedZstd(Exception):
    pass


def _zstd(raw: io.BufferedReader) -> Chunks:
    return Chunks(_frames(raw))


def _frames(raw: io.BufferedReader) -> Iterator[bytes]:
    """Content of a zstd file of one or more frames; a truncated one is an EOFError."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_WIDEST_WINDOW)
    frame: Any = None
    packed = b""
    while packed or (packed := raw.read(CHUNK)):
        frame = frame or decompressor.decompressobj()
        try:
            content = frame.decompress(packed)
        except zstandard.ZstdError as error:
            raise _DamagedZstd(str(error)) from error
        packed = frame.unused_data if frame.eof else b""
        frame = None if frame.eof else frame
        yield content
    if frame is not None:
        raise EOFError("the last zstd frame has no end")


class _Packing(NamedTuple):
    name: str
    starts: re.Pattern[bytes]
    """The first bytes of such a file."""
    unpack: Callable[[Any], Any]


_PACKINGS = {
    ".gz": _Packing("gzip", re.compile(rb"\x1f\x8b"), lambda raw: gzip.GzipFile(fileobj=raw)),
    ".zst": _Packing("zstd", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _zstd),
    ".xz": _Packing("xz", re.compile(rb"\xfd7zXZ\x00"), lzma.LZMAFile),
    ".bz2": _Packing("bzip2", re.compile(rb"BZh[1-9]1AY&SY"), bz2.BZ2File),
}
"""By the suffix that such files have."""


def inner_name(name: str) -> tuple[str, str]:
    """(name without the suffix of a packing, that suffix or ''), in lower case."""
    name = name.lower()
    suffix = next((suffix for suffix in _PACKINGS if name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix


def unpacked(stream: io.BufferedReader[Any], name: str, place: str) -> io.BufferedReader:
    """The content of `stream`, which is of a file called `name`, whatever it is packed with.

    Raises DataError for a file that is not packed though its name says so.
    """
    start = stream.peek(16)[:16]
    for packing in _PACKINGS.values():
        if packing.starts.match(start):
            return io.BufferedReader(packing.unpack(stream), CHUNK)
    suffix = inner_name(name)[1]
    if suffix and start:
        raise DataError(
            f"{place} is not {_PACKINGS[suffix].name}, in spite of its name; if it is the text "
            f"itself, rename it to end without {suffix}"
        )
    return stream


def recoded(stream: io.BufferedReader, encoding: str, errors: str, place: str) -> io.BufferedReader:
    """`stream`, which is in `encoding`, as UTF-8. `errors` are strict or replace."""
    return io.BufferedReader(Chunks(_as_utf8(stream, encoding, errors, place)), CHUNK)


def _as_utf8(stream: io.BufferedReader, encoding: str, errors: str, place: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    done, chunk = 0, b"\0"
    while chunk:
        chunk = stream.read(CHUNK)
        kept = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, not chunk).encode(errors="surrogatepass")
        except UnicodeError as error:
            at = f" at byte {done - kept + error.start:,}" if hasattr(error, "start") else ""
            raise DataError(
                f"{place} is not valid {encoding}{at}; give another ",
                NamedOption("encoding"),
                ", or have such bytes read as U+FFFD (",
                NamedOption("invalid_utf8", "replace"),
                ")",
            ) from None
        done += len(chunk)


def guessed_encoding(content: bytes, at: int) -> str | None:
    """The likely encoding of `content`, which is not UTF-8 at byte `at`; None if it is not known.

    None, too, where most of what is not ASCII is UTF-8: such a text is damaged.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    sample = content[max(0, at - _SAMPLE) : at + _SAMPLE]
    read = sample.decode(errors="replace")
    wrong = read.count("\ufffd")
    if sum(character > "\x7f" for character in read) > 2 * wrong:
        return None
    import chardet

    try:
        name = chardet.detect(sample)["encoding"]
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None

"""What a token store holds, for a person: numbers, lengths of documents, samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.encoder import Tokenizer
from epochal.data.folder import TOKENIZER, TRAIN, check_tokenizer, is_prepared
from epochal.data.passport import Passport
from epochal.data.store import TokenStore, suffixed
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError

_SAMPLE_TOKENS = 120


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Documents of `shortest` to `longest` tokens."""

    shortest: int
    longest: int
    documents: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The beginning of a document."""

    document: int
    """Its number, from 0."""
    tokens: int
    """Its length."""
    text: str | None
    """None if no tokenizer is known."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a store holds."""

    prefix: str
    unique_tokens: int
    documents: int
    dtype: str
    bytes: int
    """Of .bin and .idx."""
    shortest: int
    """Tokens of the shortest document."""
    median: float
    mean: float
    longest: int
    bytes_per_token: float | None
    """UTF-8 bytes of text per token, end marks counted as tokens."""
    lengths: tuple[LengthBin, ...]
    """Documents by length, in powers of two."""
    samples: tuple[Sample, ...]
    passport: Passport | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        passport = self.passport.as_dict() if self.passport else None
        return {**{k: v for k, v in asdict(self).items() if k != "passport"}, "passport": passport}


def inspect(
    prefix: str | Path,
    *,
    tokenizer: str | Path | Tokenizer | None = None,
    samples: int = 3,
    seed: int = 1234,
) -> Description:
    """What the store `prefix` (or the training store of a corpus folder) holds.

    `tokenizer` decodes the samples; if not given it is the tokenizer.json beside the store.
    Raises DataError for a store that cannot be opened.
    """
    path = Path(prefix)
    store = TokenStore.open(path / TRAIN if is_prepared(path) else path)
    decoder = tokenizer_of(store, tokenizer)
    lengths = np.diff(store.document_starts())
    if len(lengths) == 0:
        raise DataError(f"the store {store.prefix} has no documents")
    text = store.passport.text_bytes if store.passport else None
    return Description(
        prefix=str(store.prefix),
        unique_tokens=store.unique_tokens,
        documents=store.documents,
        dtype=store.tokens.dtype.name,
        bytes=sum(suffixed(store.prefix, suffix).stat().st_size for suffix in (".bin", ".idx")),
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        mean=float(lengths.mean()),
        longest=int(lengths.max()),
        bytes_per_token=text / store.unique_tokens if text else None,
        lengths=tuple(_bins(lengths)),
        samples=tuple(_samples(store, decoder, samples, seed)),
        passport=store.passport,
        notes=store.notes,
    )


def tokenizer_of(store: TokenStore, given: str | Path | Tokenizer | None) -> Tokenizer | None:
    """The tokenizer given, or the one beside the store, or None. A wrong one is a DataError."""
    beside = store.prefix.parent / TOKENIZER
    if given is None and not beside.is_file():
        return None
    found = given if isinstance(given, Tokenizer) else load_tokenizer(given or beside)
    check_tokenizer(store, found)
    return found


def _bins(lengths: NDArray[np.int64]) -> Iterator[LengthBin]:
    powers = np.frexp(np.maximum(lengths, 1).astype(np.float64))[1] - 1
    for power in range(int(powers.min()), int(powers.max()) + 1):
        here = lengths[powers == power]
        shortest = min(2**power, int(here.min(initial=2**power)))  # 0 in the first
        yield LengthBin(shortest, 2 ** (power + 1) - 1, len(here), int(here.sum()))


def _samples(
    store: TokenStore, tokenizer: Tokenizer | None, count: int, seed: int
) -> Iterator[Sample]:
    key = rng.stream_key(seed, "inspect")
    numbers = rng.shuffled_index(key, np.arange(min(count, store.documents)), store.documents)
    for number in sorted(numbers.tolist()):
        ids = store.document(number)
        text = tokenizer.decode(ids[:_SAMPLE_TOKENS]) if tokenizer is not None else None
        yield Sample(number, len(ids), text)

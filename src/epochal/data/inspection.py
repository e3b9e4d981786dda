"""Inspect a token store (sizes, lengths of documents, samples) and verify that it is sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import files, rng
from epochal.data.corpus import (
    TOKENIZER,
    TRAIN,
    VALIDATION,
    Corpus,
    check_tokenizer,
    is_prepared,
)
from epochal.data.metadata import StoreMetadata
from epochal.data.notes import Check
from epochal.data.paper_sets import PaperSet
from epochal.data.repair import Checked, repair
from epochal.data.split import document_digests
from epochal.data.store import Tokens, TokenStore, store_prefix, suffixed
from epochal.data.subset import text_bytes
from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError
from epochal.results import Note

_SAMPLE_TOKENS = 120
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """A token store in a few numbers."""

    prefix: Path
    """Path without .bin and .idx."""
    unique_tokens: int
    documents: int
    text_bytes: int | None
    """UTF-8 bytes of its text; None without metadata."""
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetSummary(StoreSummary):
    """A subset, and the paper's set that it stands for."""

    paper: PaperSet | None
    """None for a number of tokens instead of a name."""
    same_tokens: bool | None
    """Whether it has as many tokens as the paper's set; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSummary:
    """A tokenizer in a few values."""

    name: str
    kind: str
    vocabulary: int
    """Tokens, without mask id and padding."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSummary:
    """A corpus folder as `epochal data prepare` reports it."""

    folder: Path
    already_existed: bool
    """Whether it was found, made before from the same inputs and settings."""
    train: StoreSummary
    validation: StoreSummary | None
    tokenizer: TokenizerSummary
    notes: tuple[Note, ...]


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
    tokens: int
    """Of the whole document."""
    text: str | None
    """None without a tokenizer."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a token store holds."""

    prefix: str
    unique_tokens: int
    documents: int
    dtype: str
    bytes: int
    """Size of .bin and .idx."""
    shortest: int
    """Tokens of the shortest document."""
    median: float
    mean: float
    longest: int
    bytes_per_token: float | None
    """UTF-8 bytes of text per token, end-of-document tokens included."""
    lengths: tuple[LengthBin, ...]
    """Documents by length, in powers of two."""
    samples: tuple[Sample, ...]
    metadata: StoreMetadata | None
    notes: tuple[Note, ...]


def _summarize_store(store: TokenStore) -> StoreSummary:
    """A few numbers of a store, without reading its tokens where metadata has them."""
    return StoreSummary(
        prefix=store.prefix,
        unique_tokens=store.unique_tokens,
        documents=store.documents,
        text_bytes=store.metadata.text_bytes if store.metadata else None,
        content_sha256=store.content_sha256,
    )


def summarize_subset(store: TokenStore, paper: PaperSet | None) -> SubsetSummary:
    """A few numbers of a subset, beside the paper's set that it was cut for."""
    summary = _summarize_store(store)
    return SubsetSummary(
        **{field.name: getattr(summary, field.name) for field in fields(summary)},
        paper=paper,
        same_tokens=None if paper is None else store.unique_tokens == paper.tokens,
    )


def summarize_corpus(corpus: Corpus) -> CorpusSummary:
    """A few numbers of a corpus that was prepared."""
    train, *validation = map(_summarize_store, corpus.stores)
    tokenizer = corpus.tokenizer
    return CorpusSummary(
        folder=corpus.folder,
        already_existed=corpus.already_existed,
        train=train,
        validation=validation[0] if validation else None,
        tokenizer=TokenizerSummary(
            name=tokenizer.name,
            kind=tokenizer.kind,
            vocabulary=tokenizer.vocabulary,
            sha256=tokenizer.sha256,
        ),
        notes=corpus.notes,
    )


def inspect(
    prefix: str | Path,
    *,
    tokenizer: str | Path | Tokenizer | None = None,
    samples: int = 3,
    seed: int = 1234,
) -> Description:
    """Describe the store `prefix` (or the training store of a corpus folder).

    `tokenizer` decodes the samples; if not given it is the tokenizer.json beside the store.
    Raises DataError for a store that cannot be opened.
    """
    path = Path(prefix)
    store = TokenStore.open(path / TRAIN if is_prepared(path) else path)
    decoder = tokenizer_of(store, tokenizer)
    lengths = np.diff(store.document_starts)
    if len(lengths) == 0:
        raise DataError(f"the store {store.prefix} has no documents")
    text = store.metadata.text_bytes if store.metadata else None
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
        metadata=store.metadata,
        notes=store.notes,
    )


def tokenizer_of(store: TokenStore, given: str | Path | Tokenizer | None) -> Tokenizer | None:
    """The tokenizer given, or the one beside the store, or None. A wrong one is a DataError."""
    if given is None:
        tokenizer = _beside(store.prefix)
    else:
        tokenizer = given if isinstance(given, Tokenizer) else load_tokenizer(given)
    if tokenizer is None:
        return None
    check_tokenizer(store, tokenizer)
    return tokenizer


def _beside(prefix: Path) -> Tokenizer | None:
    path = prefix.parent / TOKENIZER
    return load_tokenizer(path) if path.is_file() else None


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


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    store: str
    """Name of the store, of the corpus folder, or "both"."""
    check: Check
    ok: bool
    values: Mapping[str, Any] = field(default_factory=dict)


def verify(
    prefix: str | Path, *, tokenizer: str | Path | Tokenizer | None = None, fix: bool = False
) -> list[Finding]:
    """Findings on the store `prefix`, or on both stores of a corpus folder.

    Everything is read and hashed again. What cannot be checked without metadata or a tokenizer
    gets a finding that says so. `fix` repairs first what can be: an index is made again from the
    ids, and of ids that were cut off the whole documents are kept. Raises DataError if there is no
    store at all, or no tokenizer of that name.
    """
    path = Path(prefix)
    given = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    if not _exists(path / TRAIN):
        return _verify_store(store_prefix(path), given, fix)[0]
    findings, train = _verify_store(path / TRAIN, given, fix)
    if not (path / TOKENIZER).is_file():
        findings.append(Finding(path.name, Check.TOKENIZER_PRESENT, False))
    if not _exists(path / VALIDATION):
        return findings
    more, validation = _verify_store(path / VALIDATION, given, fix)
    findings += more
    if train is not None and validation is not None:
        shared = len(set(document_digests(train)) & set(document_digests(validation)))
        values = {"shared": shared}
        findings.append(Finding("both", Check.NO_SHARED_DOCUMENTS, shared == 0, values))
    return findings


def _exists(prefix: Path) -> bool:
    """Whether there is at least half a store."""
    return any(suffixed(prefix, suffix).exists() for suffix in (".bin", ".idx"))


def _verify_store(
    prefix: Path, tokenizer: Tokenizer | None, fix: bool
) -> tuple[list[Finding], TokenStore | None]:
    """Findings on one store, and the store if it could be opened."""
    if not _exists(prefix):
        TokenStore.open(prefix)  # raises with what is missing
    checks: list[Checked] = []
    try:
        if fix:
            checks += repair(prefix, tokenizer or _beside(prefix))
        store = TokenStore.open(prefix)
    except DataError as error:
        checks.append((Check.OPENS, False, {"error": str(error)}))
        return [Finding(prefix.name, *each) for each in checks], None
    values = {"unique_tokens": store.unique_tokens, "documents": store.documents}
    checks.append((Check.OPENS, True, values))
    checks += [(Check.LENGTHS_CORRECTED, True, dict(each.values)) for each in store.notes]
    checks += _against_metadata(store)
    try:
        tokenizer = tokenizer_of(store, tokenizer)
    except DataError as error:
        tokenizer = None
        checks.append((Check.TOKENIZER_MATCHES, False, {"error": str(error)}))
    checks += _against_tokenizer(store, tokenizer)
    return [Finding(prefix.name, *each) for each in checks], store


def _against_metadata(store: TokenStore) -> Iterator[Checked]:
    metadata = store.metadata
    if metadata is None:
        yield Check.HAS_METADATA, True, {}
        return
    for check, expected, suffix in (
        (Check.IDS_HASH, metadata.content_sha256, ".bin"),
        (Check.INDEX_HASH, metadata.index_sha256, ".idx"),
    ):
        if expected is not None:
            sha256 = files.sha256(suffixed(store.prefix, suffix))
            yield check, sha256 == expected, {"sha256": sha256, "expected": expected}


def _against_tokenizer(store: TokenStore, tokenizer: Tokenizer | None) -> Iterator[Checked]:
    metadata = store.metadata
    facts = metadata.tokenizer if metadata else None
    facts = facts or (tokenizer.facts if tokenizer else None)
    if facts is None:
        yield Check.HAS_TOKENIZER, True, {}
        return
    lowest, highest, marks = _extent(store.tokens, facts.end_of_document)
    inside = lowest >= 0 and highest < facts.vocabulary
    values = {"lowest": lowest, "highest": highest, "vocabulary": facts.vocabulary}
    yield Check.IDS_IN_VOCABULARY, inside, values
    starts = store.document_starts
    truncated = bool(metadata and metadata.truncated_last_document)
    ends = starts[1 : len(starts) - truncated]
    lasting = np.diff(starts)[: len(ends)] > 0
    marked = int((store.tokens[ends[lasting] - 1] == facts.end_of_document).sum())
    whole = int(lasting.sum())
    values = {"marked": marked, "documents": whole, "truncated": truncated}
    yield Check.ENDS_MARKED, marked == whole, values
    yield Check.MARKS_ONLY_AT_ENDS, marks == marked, {"inside": marks - marked}
    if inside and metadata and metadata.text_bytes is not None and tokenizer is not None:
        size = text_bytes(store.tokens, tokenizer)
        if size is not None:
            expected = metadata.text_bytes
            yield Check.TEXT_BYTES, size == expected, {"bytes": size, "expected": expected}


def _extent(tokens: Tokens, mark: int) -> tuple[int, int, int]:
    """Smallest id, largest id, and number of times that `mark` occurs."""
    pieces = [tokens[first : first + _CHUNK] for first in range(0, len(tokens), _CHUNK)]
    return (
        min(int(piece.min()) for piece in pieces),
        max(int(piece.max()) for piece in pieces),
        sum(int((piece == mark).sum()) for piece in pieces),
    )

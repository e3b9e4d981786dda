"""How many of a corpus' unique tokens are unique: repeated documents, passages and lines, leakage.

What is repeated is taken away in this order, each token once: documents equal to an earlier one,
documents near to an earlier one, tokens of a passage that stood earlier, tokens of a line that many
documents have. What is left is U_effective. Text that says the same in other words (semantic
duplicates) is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from epochal import files
from epochal.data.corpus import TRAIN, VALIDATION, is_prepared
from epochal.data.inspection import tokenizer_of
from epochal.data.near import NearDocuments, detection
from epochal.data.ngrams import Mask, Sought, chunks, cover, windows_of
from epochal.data.options import DuplicateOptions
from epochal.data.passages import Amount, Passages, RepeatedPassage
from epochal.data.split import among, document_digests, first_with_same_text
from epochal.data.store import TokenStore, suffixed
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError, EpochalError, StorageError
from epochal.progress import bar, say
from epochal.results import to_json

LEAK_NGRAM = 13
"""Tokens in a row that count as leaked; GPT-3's measure of contamination (arXiv 2005.14165) has 13
words."""
_VERSION = 1
_Z = 1.96
_MOST_VALIDATION = 1 << 22


@dataclass(frozen=True, slots=True)
class Leakage:
    """What the two stores of a corpus share."""

    train: Amount
    """Of the training store."""
    validation: Amount
    """Of the validation store."""


@dataclass(frozen=True, slots=True)
class EffectiveUniqueTokens:
    """The tokens of a store that are not repeated."""

    unique_tokens: int
    """U, all tokens of the store."""
    estimate: float
    """U_effective."""
    low: float
    """End of the 95 % interval: sampling error, and near duplicates that MinHash misses."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateReport:
    """What is repeated in a corpus."""

    store: str
    content_sha256: str
    """Of the training store."""
    validation_sha256: str | None
    unique_tokens: int
    documents: int
    sampled_tokens: int
    """In which passages and lines were looked for."""
    exact: Amount
    """Documents equal to an earlier one."""
    near: Amount
    """Other documents that are near to an earlier one."""
    missed: Amount
    """Expected near duplicates that MinHash did not propose; part of no other amount."""
    passages: Amount
    """Tokens of the documents left, in a passage that stood earlier in them."""
    lines: Amount | None
    """Tokens left in lines of many documents, but for the first; None if no line ends are known."""
    effective: EffectiveUniqueTokens
    leaked_documents: Leakage | None
    """Equal documents; None without a validation set, as for the two below."""
    leaked_near: Leakage | None
    """Near documents, equal ones included."""
    leaked_ngrams: Leakage | None
    """Tokens in 13 tokens in a row that the other store has, too."""
    most_repeated: tuple[RepeatedPassage, ...]
    options: DuplicateOptions
    version: int = _VERSION


def measure_duplicates(
    prefix: str | Path,
    options: DuplicateOptions | None = None,
    *,
    tokenizer: str | Path | Tokenizer | None = None,
) -> DuplicateReport:
    """What is repeated in the corpus folder or the store `prefix`.

    It is kept beside the store as `<store>.duplicates.json`, and read from there as long as the
    stores' tokens and the options are the same. Raises DataError for a store that cannot be opened.
    """
    options, path = options or DuplicateOptions(), Path(prefix)
    folder = is_prepared(path)
    train = TokenStore.open(path / TRAIN if folder else path)
    other = path / VALIDATION
    there = folder and suffixed(other, ".idx").exists()
    validation = TokenStore.open(other) if there else None
    kept = suffixed(train.prefix, ".duplicates.json")
    before = _read(kept)
    if before is not None and _is_of(before, train, validation, options):
        return before
    report = find_duplicates(train, validation, tokenizer_of(train, tokenizer), options)
    try:
        files.write_json(kept, to_json(report))
    except StorageError as error:  # a corpus may be read-only
        say(f"the measurement is not kept: {error}")
    return report


def _read(path: Path) -> DuplicateReport | None:
    """A measurement made before; None if there is none that can be read."""
    try:
        return TypeAdapter(DuplicateReport).validate_json(path.read_bytes())
    except (OSError, ValueError, EpochalError):
        return None


def _is_of(
    report: DuplicateReport,
    train: TokenStore,
    validation: TokenStore | None,
    options: DuplicateOptions,
) -> bool:
    sha256 = validation.content_sha256 if validation else None
    return (report.content_sha256, report.validation_sha256, report.options, report.version) == (
        train.content_sha256,
        sha256,
        options,
        _VERSION,
    )


def find_duplicates(
    train: TokenStore,
    validation: TokenStore | None = None,
    tokenizer: Tokenizer | None = None,
    options: DuplicateOptions | None = None,
) -> DuplicateReport:
    """What is repeated in `train`, and what it shares with `validation`."""
    options = options or DuplicateOptions()
    if not train.documents:
        raise DataError(f"the store {train.prefix} has no documents")
    total = train.unique_tokens
    found = find_repeated(train, validation, options.similarity)
    near = found.near > 0
    kept = ~(found.exact | near)
    inside = Passages(train, kept, tokenizer, options).measure()
    missed = _missed(train, found.near)
    left = total - int(np.diff(train.document_starts)[~kept].sum()) - inside.both.tokens
    error = _Z * inside.both.standard_error
    low = left - error - missed.tokens - _Z * missed.standard_error
    documents = ngrams = nears = None
    if validation is not None and found.leaked and found.leaked_near:
        documents = _leakage(train, validation, found.leaked)
        nears = _leakage(train, validation, found.leaked_near)
        ngrams = _leaked_ngrams(train, validation)
    return DuplicateReport(
        store=str(train.prefix),
        content_sha256=train.content_sha256,
        validation_sha256=validation.content_sha256 if validation else None,
        unique_tokens=total,
        documents=train.documents,
        sampled_tokens=inside.sampled_tokens,
        exact=_documents(train, found.exact),
        near=_documents(train, near),
        missed=missed,
        passages=inside.passages,
        lines=inside.lines,
        effective=EffectiveUniqueTokens(
            total, left, max(0.0, low), min(float(total), left + error)
        ),
        leaked_documents=documents,
        leaked_near=nears,
        leaked_ngrams=ngrams,
        most_repeated=inside.most_repeated,
        options=options,
    )


def _missed(store: TokenStore, near: NDArray[np.float64]) -> Amount:
    """Near duplicates that MinHash is expected to have left out, by those it found."""
    lengths, odds = np.diff(store.document_starts)[near > 0], 1 / detection(near[near > 0]) - 1
    tokens = float((lengths * odds).sum())
    error = float((lengths**2 * odds * (1 + odds)).sum()) ** 0.5
    return Amount(tokens, tokens / store.unique_tokens, None, error)


@dataclass(frozen=True, slots=True)
class RepeatedDocuments:
    """[documents] which documents are repeated."""

    exact: Mask
    """Of the training store: equal to an earlier one."""
    near: NDArray[np.float64]
    """Of the training store: similarity to an earlier one that is near but not equal, or 0."""
    leaked: tuple[Mask, Mask] | None
    """Of both stores: equal to one of the other."""
    leaked_near: tuple[Mask, Mask] | None
    """Of both stores: near or equal to one of the other."""


def find_repeated(
    train: TokenStore, validation: TokenStore | None, similarity: float
) -> RepeatedDocuments:
    """Documents that are equal or near to another one."""
    stores = [train] if validation is None else [train, validation]
    digests = [_digests(store) for store in stores]
    exact = first_with_same_text(digests[0]) != np.arange(train.documents)
    documents = NearDocuments(stores)
    first = np.concatenate([~exact, *(np.zeros(len(d), dtype=bool) for d in digests[1:])])
    near = documents.earlier(similarity, first)[: train.documents]
    if validation is None:
        return RepeatedDocuments(exact, near, None, None)
    leaked = among(digests[0], digests[1]), among(digests[1], digests[0])
    across = documents.across(similarity, np.ones(len(first), dtype=bool)) > 0
    both = leaked[0] | across[: train.documents], leaked[1] | across[train.documents :]
    return RepeatedDocuments(exact, near, leaked, both)


def _digests(store: TokenStore) -> NDArray[np.uint64]:
    """[documents, 2] 128 bits that identify each document."""
    return np.frombuffer(b"".join(document_digests(store)), dtype="<u8").reshape(-1, 2)


def _documents(store: TokenStore, mask: Mask) -> Amount:
    tokens = int(np.diff(store.document_starts)[mask].sum())
    return Amount(tokens, tokens / store.unique_tokens, int(mask.sum()))


def _leakage(train: TokenStore, validation: TokenStore, masks: tuple[Mask, Mask]) -> Leakage:
    return Leakage(_documents(train, masks[0]), _documents(validation, masks[1]))


def _leaked_ngrams(train: TokenStore, validation: TokenStore) -> Leakage:
    """Tokens of each store in 13 tokens in a row of the other. Of a validation store of more than
    4M tokens the first ones are looked at."""
    looked_at = min(validation.unique_tokens, _MOST_VALIDATION)
    units = windows_of(validation, LEAK_NGRAM)(0, looked_at)
    sought = Sought(units.hashes)
    find, leaked, done = windows_of(train, LEAK_NGRAM), 0, 0
    with bar("Leakage", train.unique_tokens) as progress:
        for chunk in chunks(find, 0, train.unique_tokens):
            sought.see(chunk)
            here = np.zeros(len(chunk.places), dtype=bool)
            here[sought.find(chunk.hashes)[0]] = True
            if here.any():
                places = chunk.places[here]
                # A token counts where the first of the windows that hold it begins.
                ends = np.concatenate(([done], places[:-1] + LEAK_NGRAM))
                leaked += int((places + LEAK_NGRAM - np.maximum(places, ends)).sum())
                done = int(places[-1]) + LEAK_NGRAM
            progress.update(int(chunk.places[-1]) if len(chunk.places) else 0)
    shared = units[sought.times[sought.numbers(units.hashes)] > 0]
    there = int(cover(shared, 0, looked_at).sum())
    return Leakage(Amount(leaked, leaked / train.unique_tokens), Amount(there, there / looked_at))

"""Whether a token store is sound: everything read and hashed again, each check a finding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epochal import files
from epochal.data.describe import tokenizer_of
from epochal.data.encoder import Tokenizer
from epochal.data.folder import TOKENIZER, TRAIN, VALIDATION, is_prepared
from epochal.data.store import Tokens, TokenStore, store_prefix, suffixed
from epochal.data.subset import text_bytes
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError

_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    store: str
    check: str
    ok: bool
    detail: str


def verify(prefix: str | Path, *, tokenizer: str | Path | Tokenizer | None = None) -> list[Finding]:
    """Findings on the store `prefix`, or on both stores of a corpus folder.

    Everything is read and hashed again. What cannot be checked, for want of a passport or a
    tokenizer, is said in a finding. Raises DataError if there is no store at all, or no
    tokenizer of that name.
    """
    path = Path(prefix)
    named = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    if not is_prepared(path):
        return _verify_store(store_prefix(path), named)[0]
    findings, train = _verify_store(path / TRAIN, named)
    if not (path / TOKENIZER).is_file():
        findings.append(Finding(path.name, "its tokenizer is there", False, f"no {TOKENIZER}"))
    if not suffixed(path / VALIDATION, ".idx").exists():
        return findings
    more, validation = _verify_store(path / VALIDATION, named)
    findings += more
    if train is not None and validation is not None:
        shared = len(_document_digests(train) & _document_digests(validation))
        detail = f"{shared:,} shared" if shared else "none shared"
        findings.append(Finding("both", "no document is in both stores", shared == 0, detail))
    return findings


def _verify_store(
    prefix: Path, tokenizer: Tokenizer | None
) -> tuple[list[Finding], TokenStore | None]:
    """Findings on one store, and the store if it could be opened."""
    if not any(suffixed(prefix, suffix).exists() for suffix in (".bin", ".idx")):
        TokenStore.open(prefix)  # says what is missing
    try:
        store = TokenStore.open(prefix)
    except DataError as error:
        return [Finding(prefix.name, "the files fit together", False, str(error))], None
    detail = f"{store.unique_tokens:,} tokens in {store.documents:,} documents"
    checks = [("the files fit together", True, "; ".join((detail, *store.notes)))]
    checks += _against_passport(store)
    try:
        tokenizer = tokenizer_of(store, tokenizer)
    except DataError as error:
        tokenizer = None
        checks.append(("the tokenizer is the one that made it", False, str(error)))
    checks += _against_tokenizer(store, tokenizer)
    return [Finding(prefix.name, *check) for check in checks], store


_Check = tuple[str, bool, str]


def _against_passport(store: TokenStore) -> Iterator[_Check]:
    passport = store.passport
    if passport is None:
        yield "passport", True, "none, so hashes, tokenizer and origin cannot be checked"
        return
    for name, known, suffix in (
        ("ids are those that were written", passport.content_sha256, ".bin"),
        ("index is the one that was written", passport.index_sha256, ".idx"),
    ):
        if known is not None:
            found = files.sha256(suffixed(store.prefix, suffix))
            same = found == known
            yield name, same, f"SHA-256 {found[:12]}" + ("" if same else f", not {known[:12]}")


def _against_tokenizer(store: TokenStore, tokenizer: Tokenizer | None) -> Iterator[_Check]:
    passport = store.passport
    facts = passport.tokenizer if passport else None
    facts = facts or (tokenizer.facts if tokenizer else None)
    if facts is None:
        yield "tokenizer", True, "none is known, so the ids cannot be checked; name one"
        return
    lowest, highest, marks = _extent(store.tokens, facts.end_of_document)
    inside = lowest >= 0 and highest < facts.vocabulary
    yield (
        "ids are in the vocabulary",
        inside,
        f"{lowest:,} to {highest:,} of {facts.vocabulary:,}",
    )
    starts = store.document_starts()
    truncated = bool(passport and passport.truncated_last_document)
    ends = starts[1 : len(starts) - truncated]
    lasting = np.diff(starts)[: len(ends)] > 0
    ended = int((store.tokens[ends[lasting] - 1] == facts.end_of_document).sum())
    whole = int(lasting.sum())
    yield (
        "each document ends with its mark",
        ended == whole,
        f"{ended:,} of {whole:,}" + (", the last one is cut" if truncated else ""),
    )
    yield "the mark is nowhere else", marks == ended, f"{marks - ended:,} inside documents"
    if inside and passport and passport.text_bytes is not None and tokenizer is not None:
        found = text_bytes(store.tokens, tokenizer)
        if found is not None:
            same = found == passport.text_bytes
            yield "ids stand for as much text as the passport says", same, f"{found:,} bytes"


def _extent(tokens: Tokens, mark: int) -> tuple[int, int, int]:
    """Smallest id, largest id, and how often `mark` occurs."""
    pieces = [tokens[first : first + _CHUNK] for first in range(0, len(tokens), _CHUNK)]
    return (
        min(int(piece.min()) for piece in pieces),
        max(int(piece.max()) for piece in pieces),
        sum(int((piece == mark).sum()) for piece in pieces),
    )


def _document_digests(store: TokenStore) -> set[bytes]:
    return {
        hashlib.blake2b(store.document(number).tobytes(), digest_size=16).digest()
        for number in range(store.documents)
    }

"""What is known of a corpus before it is tokenised: sizes, repeated texts, the split.

Texts are told apart by a BLAKE2b digest of 128 bits, so a document costs 24 bytes of memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.corpus import RawCorpus
from epochal.errors import DataError
from epochal.progress import bar

Mask = NDArray[np.bool_]

_DIGEST_BYTES = 16
_PROGRESS_EVERY = 256


@dataclass(frozen=True)
class Scan:
    """The documents of a corpus that have text, in order."""

    digests: NDArray[np.uint64]
    """[documents, 2] of their UTF-8 text."""
    lengths: NDArray[np.int64]
    """[documents] UTF-8 bytes."""
    empty: int
    """Documents without text, which are in none of the arrays."""
    with_nul: int
    """Documents with a NUL character: more likely binary data than text."""

    @property
    def documents(self) -> int:
        """Documents that have text."""
        return len(self.lengths)

    @cached_property
    def repeats(self) -> Mask:
        """[documents] whether an earlier document has the same text."""
        repeats: Mask = first_with_same_text(self.digests) != np.arange(self.documents)
        return repeats


def digest(text: bytes) -> bytes:
    """16 bytes that tell one text from another."""
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()


def scan(corpus: RawCorpus, title: str = "Scanning") -> Scan:
    """Go through all documents once. Raises DataError if none has text."""
    digests, lengths = bytearray(), []
    empty = with_nul = 0
    with bar(title, corpus.bytes or None) as progress:
        for number, (text, consumed) in enumerate(corpus.documents()):
            if number % _PROGRESS_EVERY == 0:
                progress.update(consumed, f"{number:,} documents")
            if not text:
                empty += 1
                continue
            content = text.encode()
            digests += digest(content)
            lengths.append(len(content))
            with_nul += b"\0" in content
    if not lengths:
        names = ", ".join(source.name for source in corpus.sources[:3])
        raise DataError(
            f"there is no text in {names}: documents without text: {empty:,}; give a file with text"
        )
    return Scan(
        np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2),
        np.array(lengths, dtype=np.int64),
        empty,
        with_nul,
    )


def first_with_same_text(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[n, 2] digests → [n] number of the first document that has the same text."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable, so equals stay in order
    ordered = digests[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = np.empty(len(order), dtype=np.int64)
    firsts[order] = order[new][np.cumsum(new) - 1]
    return firsts


def among(digests: NDArray[np.uint64], others: NDArray[np.uint64]) -> Mask:
    """[n] whether each text is also one of `others`."""
    firsts = first_with_same_text(np.concatenate((others, digests)))
    return firsts[len(others) :] < len(others)


def choose_validation(lengths: NDArray[np.int64], share: float, seed: int, usable: Mask) -> Mask:
    """[documents] which documents are for validation: about `share` of the usable text.

    Documents are ranked by a hash of (seed, their number) and taken from the lowest rank on,
    each if it brings the amount nearer to what is wanted, until that is reached. So the choice
    depends on nothing but seed, share and lengths. At least one document is taken, and never
    all. Raises DataError if there is but one.
    """
    numbers = np.flatnonzero(usable)
    if len(numbers) < 2:
        raise DataError(
            "all text is a single document, so no validation set can be split off; cut it into "
            "documents with --documents blank-line (or line), bring a validation text with "
            "--validation-inputs FILE, or do without by --validation 0"
        )
    wanted = share * float(lengths[numbers].sum())
    key = rng.stream_key(seed, "validation split")
    ranked = numbers[np.argsort(rng.row_keys(key, numbers), kind="stable")]
    chosen = np.zeros(len(lengths), dtype=bool)
    taken = 0.0
    for number in ranked:
        length = float(lengths[number])
        if abs(taken + length - wanted) < abs(taken - wanted):
            chosen[number] = True
            taken += length
        if taken >= wanted:
            break
    if not chosen.any():
        # Every document is far larger than the share. The first that leaves most of the text.
        half = lengths[numbers].sum() / 2
        fitting = ranked[lengths[ranked] <= half]
        chosen[fitting[0] if len(fitting) else ranked[np.argmin(lengths[ranked])]] = True
    if chosen[numbers].all():
        chosen[ranked[-1]] = False
    return chosen

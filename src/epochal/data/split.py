"""Which document goes where: training, validation, or left out.

One scan of the inputs finds lengths and repeated texts; then the split is decided, before anything
is written. Whatever is in the validation set is taken out of the training set, documents with equal
text included: the validation set is the common measure. Texts are identified by a BLAKE2b digest of
128 bits, so a document costs 24 bytes of memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.fields import Document, Part
from epochal.data.inputs import TextInputs
from epochal.data.notes import CorpusNote
from epochal.data.store import TokenStore
from epochal.errors import DataError, NamedOption
from epochal.progress import bar
from epochal.results import Note, note

Mask = NDArray[np.bool_]

_DIGEST_BYTES = 16
_PROGRESS_EVERY = 256
_MANY_REPEATS = 0.2  # share of the documents; chosen by us
_FAR_OFF = 2.0  # factor between the validation share and the wanted one; chosen by us
_CHANGED = "an input file changed while it was being prepared; run the command again"


@dataclass(frozen=True)
class Scan:
    """The documents of a text that are not empty, in order."""

    digests: NDArray[np.uint64]
    """[documents, 2] of their UTF-8 text."""
    lengths: NDArray[np.int64]
    """[documents] UTF-8 bytes."""
    empty: int
    """Documents without text, which are in none of the arrays."""
    with_nul: int
    """Documents with a NUL character: more likely binary data than text."""
    given_as_ids: int = 0
    """Documents that came as token ids; their lengths are bytes of text if the tokenizer's are
    known, else tokens."""

    @property
    def documents(self) -> int:
        """Number of documents that have text."""
        return len(self.lengths)

    @cached_property
    def repeats(self) -> Mask:
        """[documents] whether an earlier document has the same text."""
        repeats: Mask = first_with_same_text(self.digests) != np.arange(self.documents)
        return repeats


@dataclass(frozen=True)
class Selection:
    """What becomes of the documents of one text. Masks are [documents that have text]."""

    inputs: TextInputs
    scan: Scan
    train: Mask
    """For the training store."""
    validation: Mask
    """For the validation store."""
    leaked: int = 0
    """Documents left out of training because the validation set has their text."""
    dropped: int = 0
    """Documents left out, on request, because an earlier one has their text."""

    @cached_property
    def used(self) -> Mask:
        """Documents that go into either store."""
        used: Mask = self.train | self.validation
        return used

    def texts(self, wanted: Mask) -> Iterator[Document]:
        """The wanted documents, long ones in parts (see `Part`).

        Raises DataError if the input changed since the scan.
        """
        number, hasher = 0, None
        digests = self.scan.digests.tobytes()
        for text, _ in self.inputs.parts():
            if not len(text) and hasher is None:
                continue
            if number == self.scan.documents:
                raise DataError(_CHANGED)
            hasher = hasher or _hasher()
            if wanted[number]:
                hasher.update(_content(text))
                at = 16 * number
                if not isinstance(text, Part) and hasher.digest() != digests[at : at + 16]:
                    raise DataError(_CHANGED)
                yield text
            if not isinstance(text, Part):
                number, hasher = number + 1, None
        if number != self.scan.documents:
            raise DataError(_CHANGED)


@dataclass(frozen=True)
class CorpusSplit:
    """Where every document goes."""

    selections: tuple[Selection, ...]
    """Of the inputs, and of the validation inputs if there are any."""
    seed: int | None
    """By which documents were held out; None if none were."""
    notes: tuple[Note, ...] = ()

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation set."""
        return any(selection.validation.any() for selection in self.selections)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all text that goes into either store."""
        return sum(int(each.scan.lengths[each.used].sum()) for each in self.selections)


def split_corpus(
    inputs: TextInputs, held_out: TextInputs | None, share: float, seed: int, drop_duplicates: bool
) -> CorpusSplit:
    """Scan the inputs and split them. `held_out` are the user's own validation inputs.

    Raises DataError if no text is left for training.
    """
    scanned = scan(inputs)
    usable = _usable(scanned, drop_duplicates)
    chosen = np.zeros(scanned.documents, dtype=bool)
    others: list[Selection] = []
    if held_out is not None:
        other = scan(held_out, "Scanning the validation text")
        kept = _usable(other, drop_duplicates)
        none = np.zeros_like(kept)
        others = [Selection(held_out, other, none, kept, dropped=int((~kept).sum()))]
        validation_digests = other.digests
    else:
        if share > 0:
            chosen = choose_validation(scanned.lengths, share, seed, usable)
        validation_digests = scanned.digests[chosen]
    leaked = among(scanned.digests, validation_digests) & ~chosen & usable
    train = usable & ~chosen & ~leaked
    if not train.any():
        raise DataError(
            "no text is left for training: every document is also in the validation set; give "
            "more text or another validation set, or do without one (",
            NamedOption("validation", "0"),
            ")",
        )
    main = Selection(inputs, scanned, train, chosen, int(leaked.sum()), int((~usable).sum()))
    notes = (*_scan_notes(main, drop_duplicates), *_share_notes(main, share))
    return CorpusSplit((main, *others), seed if share > 0 else None, notes)


def _usable(scanned: Scan, drop_duplicates: bool) -> Mask:
    return ~scanned.repeats if drop_duplicates else np.ones(scanned.documents, dtype=bool)


def _scan_notes(main: Selection, dropping: bool) -> Iterator[Note]:
    """Repeated, empty and binary documents, and leakage that was removed."""
    scanned = main.scan
    repeats = int(scanned.repeats.sum())
    if repeats > _MANY_REPEATS * scanned.documents and not dropping:
        yield note(CorpusNote.REPEATED, repeated=repeats, documents=scanned.documents)
    if scanned.empty:
        yield note(CorpusNote.EMPTY, documents=scanned.empty)
    if scanned.with_nul:
        yield note(CorpusNote.WITH_NUL, documents=scanned.with_nul)
    if main.leaked:
        yield note(CorpusNote.LEAKED, documents=main.leaked)


def _share_notes(main: Selection, wanted: float) -> Iterator[Note]:
    """Whether long documents made the validation set much larger or smaller than wanted."""
    lengths = main.scan.lengths
    taken, rest = int(lengths[main.validation].sum()), int(lengths[main.train].sum())
    share = taken / (taken + rest)
    if wanted and not wanted / _FAR_OFF <= share <= wanted * _FAR_OFF:
        yield note(
            CorpusNote.VALIDATION_SHARE,
            share=share,
            wanted=wanted,
            validation_documents=int(main.validation.sum()),
            documents=int(main.used.sum()),
        )


def digest(text: bytes) -> bytes:
    """16 bytes that identify a text."""
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()


def document_digests(store: TokenStore) -> Iterator[bytes]:
    """16 bytes that identify the ids of each document."""
    return (digest(store.document(number).tobytes()) for number in range(store.documents))


def _hasher() -> hashlib.blake2b:
    """Gives the `digest` of a text that comes in parts."""
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def scan(inputs: TextInputs, title: str = "Scanning") -> Scan:
    """Read all documents once. Raises DataError if none has text."""
    digests, lengths = bytearray(), list[int]()
    empty = with_nul = given_as_ids = 0
    sizes = inputs.tokenizer.token_byte_lengths if inputs.tokenizer else None
    with bar(title, inputs.bytes or None) as progress:
        hasher, length, has_nul = None, 0, False  # of a text of which parts were seen
        for number, (text, consumed) in enumerate(inputs.parts()):
            if number % _PROGRESS_EVERY == 0 or hasher:
                progress.update(consumed, f"{len(lengths):,} documents")
            if not len(text) and hasher is None:
                empty += 1
                continue
            content = _content(text)
            hasher = hasher or _hasher()
            hasher.update(content)
            length, has_nul = length + len(content), has_nul or b"\0" in content
            if isinstance(text, Part):
                continue
            digests += hasher.digest()
            if isinstance(text, str):
                lengths.append(length)
                with_nul += has_nul
            else:
                given_as_ids += 1
                lengths.append(len(text) if sizes is None else int(sizes[text].sum()))
            hasher, length, has_nul = None, 0, False
    if not lengths:
        names = ", ".join(source.name for source in inputs.sources[:3])
        raise DataError(
            f"there is no text in {names}: documents without text: {empty:,}; give a file with text"
        )
    return Scan(
        np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2),
        np.array(lengths, dtype=np.int64),
        empty,
        with_nul,
        given_as_ids,
    )


def _content(document: Document) -> bytes:
    if isinstance(document, str):
        return document.encode()
    return document.astype("<i4").tobytes()


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
    all. Raises DataError if there is only one.
    """
    numbers = np.flatnonzero(usable)
    if len(numbers) < 2:
        raise DataError(
            "all text is a single document, so no validation set can be split off; cut it into "
            "documents (",
            NamedOption("documents", "blank-line"),
            " or line), give a validation text (",
            NamedOption("validation_inputs"),
            "), or do without one (",
            NamedOption("validation", "0"),
            ")",
        )
    wanted = share * float(lengths[numbers].sum())
    key = rng.stream_key(seed, "validation split")
    ranked = numbers[rng.random_order(key, numbers)]
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

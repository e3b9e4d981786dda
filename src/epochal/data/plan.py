"""What becomes of each document: training, validation, or left out and why.

Whatever is in the validation set is taken out of the training set, documents with equal text
included: the validation set is the common measuring stick.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from epochal.data import notices
from epochal.data.corpus import RawCorpus
from epochal.data.split import Mask, Scan, among, choose_validation, digest, scan
from epochal.errors import DataError

_CHANGED = "an input file changed while it was being prepared; run the command again"


@dataclass(frozen=True)
class Part:
    """One corpus and what becomes of its documents. Masks are [documents with text]."""

    corpus: RawCorpus
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

    def texts(self, wanted: Mask) -> Iterator[str]:
        """Texts of the wanted documents. Raises DataError if the input changed since the scan."""
        number = 0
        digests = self.scan.digests.tobytes()
        for text, _ in self.corpus.documents():
            if not text:
                continue
            if number == self.scan.documents:
                raise DataError(_CHANGED)
            if wanted[number]:
                if digest(text.encode()) != digests[16 * number : 16 * number + 16]:
                    raise DataError(_CHANGED)
                yield text
            number += 1
        if number != self.scan.documents:
            raise DataError(_CHANGED)


@dataclass(frozen=True)
class Plan:
    """The fate of every document, decided before anything is written."""

    parts: tuple[Part, ...]
    """The corpus, and the validation inputs if there are any."""
    share: float
    """Share of the text wanted for validation; 0 if none is split off."""
    seed: int

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation set."""
        return any(part.validation.any() for part in self.parts)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all text that goes into either store."""
        return sum(int(part.scan.lengths[part.used].sum()) for part in self.parts)


def make_plan(
    corpus: RawCorpus, held_out: RawCorpus | None, share: float, seed: int, drop_duplicates: bool
) -> Plan:
    """Scan the inputs and decide. `held_out` are the user's own validation inputs.

    Raises DataError if no text is left for training.
    """
    found = scan(corpus)
    usable = _usable(found, drop_duplicates)
    chosen = np.zeros(found.documents, dtype=bool)
    parts: list[Part] = []
    if held_out is not None:
        other = scan(held_out, "Scanning the validation text")
        kept = _usable(other, drop_duplicates)
        parts = [Part(held_out, other, np.zeros_like(kept), kept, dropped=int((~kept).sum()))]
        measured = other.digests
    else:
        if share > 0:
            chosen = choose_validation(found.lengths, share, seed, usable)
        measured = found.digests[chosen]
    leaked = among(found.digests, measured) & ~chosen & usable
    train = usable & ~chosen & ~leaked
    if not train.any():
        raise DataError(
            "no text is left for training: every document is also in the validation set; give "
            "more text or another validation set, or do without by --validation 0"
        )
    notices.oddities(found, int(leaked.sum()), drop_duplicates)
    notices.odd_share(share, found.lengths, chosen, train)
    main = Part(corpus, found, train, chosen, int(leaked.sum()), int((~usable).sum()))
    return Plan((main, *parts), share, seed)


def _usable(found: Scan, drop_duplicates: bool) -> Mask:
    return ~found.repeats if drop_duplicates else np.ones(found.documents, dtype=bool)

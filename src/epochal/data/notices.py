"""What a person should hear about a corpus before training on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from epochal.data.corpus import RawCorpus
from epochal.data.passport import Passport
from epochal.data.split import Mask, Scan
from epochal.progress import say

_MANY_REPEATS = 0.2
_FAR_OFF = 2.0


def count(number: int, noun: str) -> str:
    """'1 document', '2,000 documents'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def skipped_files(*corpora: RawCorpus | None) -> None:
    """Tell which files of folders are not read."""
    for corpus in corpora:
        if corpus is not None and corpus.skipped:
            files = count(corpus.skipped.total(), "file")
            kinds = ", ".join(f"{n} {suffix}" for suffix, n in corpus.skipped.most_common(5))
            say(f"left out {files} of no known kind of text ({kinds}); name one to read it")


def oddities(scan: Scan, leaked: int, dropping: bool) -> None:
    """Tell of repeated, empty and binary documents, and of leakage that was removed."""
    repeats = int(scan.repeats.sum())
    if repeats > _MANY_REPEATS * scan.documents and not dropping:
        say(
            f"{repeats:,} of {scan.documents:,} documents repeat an earlier one word for word; "
            "--drop-duplicates leaves them out"
        )
    if scan.empty:
        say(f"left out {count(scan.empty, 'empty document')}")
    if scan.with_nul:
        say(f"NUL characters are in {count(scan.with_nul, 'document')}; is this text?")
    if leaked:
        say(
            f"left {count(leaked, 'document')} out of the training set because the validation set "
            "has the same text"
        )


def odd_share(wanted: float, lengths: NDArray[np.int64], validation: Mask, train: Mask) -> None:
    """Tell if long documents made the validation set much larger or smaller than wanted."""
    if wanted == 0:
        return
    taken, rest = int(lengths[validation].sum()), int(lengths[train].sum())
    share = taken / (taken + rest)
    if not wanted / _FAR_OFF <= share <= wanted * _FAR_OFF:
        say(
            f"the validation set is {share:.1%} of the text, not {wanted:.1%}: the documents are "
            f"too long to come nearer ({int(validation.sum())} of "
            f"{int(validation.sum() + train.sum())} are in it)"
        )


def cut_in_order(passport: Passport | None) -> None:
    """Tell if a cut to fewer tokens is of several files in the inputs' order, so no fair sample."""
    if passport is None or passport.parent is None or passport.shuffled is not None:
        return
    if passport.unique_tokens >= passport.parent.unique_tokens:
        return
    sources = passport.sources
    # The built-in text, which knows its interpreter, comes in a random order by itself.
    if sources is None or sources.files < 2 or sources.listed[0].interpreter is not None:
        return
    say(
        f"the first {passport.documents:,} of {count(passport.parent.documents, 'document')} are "
        f"taken, of {sources.files:,} files in their order; where these differ that is no fair "
        "sample, which `epochal data prepare --shuffle 1` makes"
    )

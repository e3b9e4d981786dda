"""A tokenizer of which only the size is known: ids can be used, text cannot."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from epochal.data.encoder import Tokenizer
from epochal.errors import DataError

NOT_KNOWN = "not known"
"""Stands for a checksum in the record of a run that was imported without a corpus."""


class UnknownTokenizer(Tokenizer):
    """Stands for the tokenizer of an imported model that came without one.

    Logits and likelihoods of ids work; whatever needs text says what is missing.
    """

    def __init__(self, vocabulary: int) -> None:
        """Ids 0 … vocabulary − 1; as in GPT-2's the last ends a document, and the mask follows."""
        self.name = "unknown"
        self.kind = "unknown"
        self.vocabulary = vocabulary
        self.mask = vocabulary
        self.end_of_document = vocabulary - 1
        self.end_token = ""
        self.why_slow = None

    def encode(self, text: str) -> NoReturn:
        """Raise DataError: there is no vocabulary to look text up in."""
        raise DataError(_NEEDED)

    def decode(self, ids: ArrayLike) -> NoReturn:
        """Raise DataError: there is no vocabulary to look ids up in."""
        raise DataError(_NEEDED)

    def save(self, path: str | Path) -> NoReturn:
        """Raise DataError: there is nothing to save."""
        raise DataError(_NEEDED)

    @cached_property
    def token_byte_lengths(self) -> NDArray[np.int64] | None:
        """None: bytes per token are not known."""
        return None

    @cached_property
    def sha256(self) -> str:
        """A name that no real tokenizer has."""
        return f"unknown-{self.vocabulary}"


_NEEDED = (
    "this imported model came without a tokenizer, so it knows ids but no text; import it again "
    "with --tokenizer (a tokenizer.json, a folder with vocab.json and merges.txt, or gpt2)"
)

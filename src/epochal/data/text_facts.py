"""What masks may depend on beside a row's key: how rare tokens are, where words begin."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from epochal.data.blend import Blend
from epochal.data.store import TokenStore
from epochal.data.tokenizer import Tokenizer
from epochal.errors import DataError

_CHUNK = 1 << 22
_SPACE, _CONTINUED, _ENDED = "▁", "##", "</w>"  # SentencePiece, WordPiece, BPE with suffixes


def token_counts(store: TokenStore, vocabulary: int) -> NDArray[np.int64]:
    """[vocabulary] how often each token occurs."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for first in range(0, store.unique_tokens, _CHUNK):
        counts += np.bincount(store.tokens[first : first + _CHUNK], minlength=vocabulary)
    return counts


class TextFacts:
    """Facts of a training text, each found when it is first asked for."""

    def __init__(
        self, train: TokenStore | Blend, tokenizer: Tokenizer, rows_per_epoch: int
    ) -> None:
        """`train` has the run's unique tokens, which are ⌊U / L⌋ rows."""
        self._train, self._tokenizer = train, tokenizer
        self.rows_per_epoch = rows_per_epoch

    @cached_property
    def ranks(self) -> NDArray[np.float64]:
        """[vocabulary] place of each token from the most frequent one, 0, on; of equally frequent
        ones the lower id comes first."""
        stores = self._train.stores if isinstance(self._train, Blend) else (self._train,)
        size = self._tokenizer.vocabulary
        counts = np.sum([token_counts(store, size) for store in stores], axis=0)
        ranks = np.empty(size)
        ranks[np.argsort(-counts, kind="stable")] = np.arange(size)
        return ranks

    def word_starts(self, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[B, L] tokens → [B, L] whether a word begins there; the first of a row does.

        A word is a run of letters, digits and characters beyond ASCII, with the space before it if
        the token has it. Any other character is by itself, with what the token has of them.
        """
        begins_inside, ends_inside = self._inside
        starts = np.ones(tokens.shape, dtype=np.bool_)
        starts[:, 1:] = ~(begins_inside[tokens[:, 1:]] & ends_inside[tokens[:, :-1]])
        return starts

    @cached_property
    def _inside(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[vocabulary] whether a word may go on with a token's first character, and its last."""
        found = [self._ends(number) for number in range(self._tokenizer.vocabulary)]
        first, last = np.array(found, dtype=np.bool_).T
        return first, last

    def _ends(self, number: int) -> tuple[bool, bool]:
        tokenizer = self._tokenizer
        if number == tokenizer.end_of_document or tokenizer.kind == "wordlevel":
            return False, False
        spelt = tokenizer.token_text(number)
        try:
            content = tokenizer.token_bytes(number)
        except DataError:  # no bytes: what the vocabulary writes
            if tokenizer.kind == "wordpiece":
                return spelt.startswith(_CONTINUED), True
            content = spelt.replace(_SPACE, " ").replace(_ENDED, " ").encode()
        return _is_word(content[:1]), _is_word(content[-1:])


def _is_word(byte: bytes) -> bool:
    return byte.isalnum() or byte >= b"\x80"

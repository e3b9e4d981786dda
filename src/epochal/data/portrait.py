"""A corpus as the page about it shows it: scripts, odd documents, how its tokenizer fits."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.corpus import Corpus
from epochal.data.duplicates import DuplicateReport, measure_duplicates
from epochal.data.inspection import Description, inspect
from epochal.data.options import DuplicateOptions
from epochal.data.store import TokenStore
from epochal.data.text_facts import token_counts
from epochal.data.tokenizer import Tokenizer
from epochal.data.vocabularies import RARE

_READ = 1 << 20  # tokens that are decoded for scripts
_SHOWN = 80  # tokens of an odd document
_EACH = 4  # odd documents of a kind
_LEAST = 20  # tokens of a document that may be odd by its tokens
_KINDS = {"N": "digits", "P": "punctuation", "S": "symbols", "Z": "spaces", "M": "marks"}


@dataclass(frozen=True, slots=True)
class ScriptShare:
    """Characters of one script, or of one kind if they are no letters."""

    name: str
    characters: int
    share: float


@dataclass(frozen=True, slots=True)
class OddDocument:
    """A document unlike the others."""

    why: str
    """`rare` or `common` tokens, `longest` or `shortest`."""
    document: int
    tokens: int
    surprise: float
    """Mean −log p of its tokens by their frequencies in the store, nats."""
    text: str
    """Its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFit:
    """How a tokenizer fits a training store."""

    name: str
    vocabulary: int
    unseen: int
    """Tokens that never occur."""
    rare: int
    """That occur, but fewer than 10 times."""
    entropy: float
    """Of the token frequencies, nats per token: what a model knows that knows only these."""
    train_bytes_per_token: float | None
    validation_bytes_per_token: float | None
    frequencies: tuple[int, ...]
    """Of the tokens that occur, from the most frequent one on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """What a corpus holds."""

    train: Description
    validation: Description | None
    duplicates: DuplicateReport
    scripts: tuple[ScriptShare, ...]
    """Of the characters that were read, the most frequent one first."""
    characters: int
    """That were read: of documents drawn at random, up to 1M tokens."""
    odd: tuple[OddDocument, ...]
    fit: TokenizerFit


def portray(
    folder: str | Path,
    options: DuplicateOptions | None = None,
    *,
    samples: int = 5,
) -> Portrait:
    """Everything that the page about the corpus in `folder` shows.

    `samples` documents are shown. Raises DataError if there is no corpus.
    """
    corpus = Corpus.open(folder)
    train, tokenizer = corpus.stores[0], corpus.tokenizer
    described = inspect(folder, tokenizer=tokenizer, samples=samples)
    other = corpus.validation_store
    validation = inspect(other.prefix, tokenizer=tokenizer, samples=0) if other else None
    counts = token_counts(train, tokenizer.vocabulary)
    scripts = _scripts(train, tokenizer)
    characters = sum(scripts.values())
    return Portrait(
        train=described,
        validation=validation,
        duplicates=measure_duplicates(folder, options),
        scripts=tuple(
            ScriptShare(name, count, count / characters) for name, count in scripts.most_common()
        ),
        characters=characters,
        odd=tuple(_odd(train, tokenizer, counts)),
        fit=_fit(tokenizer, counts, described, validation),
    )


def _fit(
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    train: Description,
    validation: Description | None,
) -> TokenizerFit:
    seen = np.sort(counts[counts > 0])[::-1]
    shares = seen / seen.sum()
    return TokenizerFit(
        name=tokenizer.name,
        vocabulary=tokenizer.vocabulary,
        unseen=int((counts == 0).sum()),
        rare=int((seen < RARE).sum()),
        entropy=float(-(shares * np.log(shares)).sum()),
        train_bytes_per_token=train.bytes_per_token,
        validation_bytes_per_token=validation.bytes_per_token if validation else None,
        frequencies=tuple(seen.tolist()),
    )


def _scripts(store: TokenStore, tokenizer: Tokenizer) -> Counter[str]:
    """Characters by script, of documents drawn at random."""
    characters: Counter[str] = Counter()
    key, left = rng.stream_key(1234, "scripts"), _READ
    for number in rng.random_order(key, np.arange(store.documents)).tolist():
        ids = store.document(number)[:left]
        characters.update(tokenizer.decode(ids[ids != tokenizer.end_of_document]))
        left -= len(ids)
        if left <= 0:
            break
    scripts: Counter[str] = Counter()
    for character, count in characters.items():
        scripts[script(character)] += count
    return scripts


@lru_cache(maxsize=1 << 16)
def script(character: str) -> str:
    """The script of a letter, by the first word of its name in Unicode; else a kind."""
    if character == "\N{REPLACEMENT CHARACTER}":
        return "not UTF-8"
    category = unicodedata.category(character)
    if category[0] == "L":
        return unicodedata.name(character, "unknown").split()[0].capitalize()
    if character.isspace():
        return "spaces"
    return _KINDS.get(category[0], "control characters")


def _odd(store: TokenStore, tokenizer: Tokenizer, counts: NDArray[np.int64]) -> list[OddDocument]:
    """The documents with the rarest and the commonest tokens, the longest and the shortest."""
    surprise = np.log(counts.sum()) - np.log(np.maximum(counts, 1))
    lengths = np.diff(store.document_starts)
    means = np.zeros(store.documents)
    for number in range(store.documents):
        ids = store.document(number)
        means[number] = surprise[ids].mean() if len(ids) else 0.0
    long = np.flatnonzero(lengths >= _LEAST)
    by_surprise, by_length = long[np.argsort(means[long], kind="stable")], np.argsort(lengths)
    chosen = {
        "rare": by_surprise[::-1][:_EACH],
        "common": by_surprise[:_EACH],
        "longest": by_length[::-1][:_EACH],
        "shortest": by_length[:_EACH],
    }
    odd, met = [], set()
    for why, numbers in chosen.items():
        for number in numbers.tolist():
            if number not in met:
                met.add(number)
                text = tokenizer.decode(store.document(number)[:_SHOWN])
                odd.append(
                    OddDocument(why, number, int(lengths[number]), float(means[number]), text)
                )
    return odd

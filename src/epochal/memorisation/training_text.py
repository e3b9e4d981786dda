"""The text that a run was trained on: whether it is unchanged, prefixes in it, and canaries."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.data.blend import Blend
from epochal.data.canaries import Canary
from epochal.data.corpus import open_corpus
from epochal.data.store import TokenStore
from epochal.data.tokenizer import NOT_KNOWN, Tokenizer
from epochal.errors import RunError, UserError
from epochal.evaluation.load import tokenizer_of
from epochal.runs import RunRecord

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainingText:
    """What a run was trained and validated on."""

    train: TokenStore
    validation: TokenStore
    canaries: list[tuple[Canary, int, int]]
    """Each with how often it occurs in `train`, and in what `data.unique_tokens` excluded."""

    @staticmethod
    def of(record: RunRecord, canaries: list[Canary]) -> TrainingText:
        """Of a run. Raises RunError if its corpus is unknown or has changed since, and UserError
        for a blend of stores."""
        hashes = {role: facts["content_sha256"] for role, facts in record.info["corpus"].items()}
        if NOT_KNOWN in hashes.values():
            raise RunError(
                f"{record.path} was imported without a corpus, so its training text is unknown; "
                "import it again with its corpus"
            )
        data = record.data
        corpus = open_corpus(data)
        train = corpus.train
        if isinstance(train, Blend):
            raise UserError(
                f"{record.path} was trained on a blend of stores; memorise needs a single one"
            )
        for role, store in (("train", train), ("validation", corpus.validation)):
            if store.content_sha256 != hashes[role]:
                raise RunError(
                    f"the store {store.prefix} is not the one that {record.path} was trained "
                    "with, so memorisation cannot be measured on it; restore it"
                )
        tokenizer = tokenizer_of(record)
        if tokenizer.sha256 != corpus.tokenizer.sha256:
            raise RunError(
                f"the tokenizer of the corpus {train.prefix.parent} is not the one that "
                f"{record.path} was trained with; restore it"
            )
        placed = []
        whole = open_corpus(dataclasses.replace(data, unique_tokens=None)).train
        assert isinstance(whole, TokenStore)
        for canary in canaries:
            ids = ids_of(tokenizer, canary.prefix, canary.secret)[0][1:]
            seen = _occurrences(train, ids)
            placed.append((canary, seen, _occurrences(whole, ids) - seen))
        return TrainingText(train, corpus.validation, placed)


def draw_prefixes(store: TokenStore, need: int, most: int, seed: int) -> Integers:
    """[prefixes, need] runs of tokens within documents, no two at one offset, up to `most`.

    Spread over the documents as evenly as their lengths allow, at random offsets; all prefix
    lengths end at the same position, so that only the length differs.
    """
    starts = store.document_starts
    room = np.maximum(np.diff(starts) - need + 1, 0)
    visits = even_share(room, min(most, int(room.sum())))
    first = [
        starts[document]
        + rng.shuffled_index(
            rng.stream_key(seed, "places", document),
            np.arange(visits[document]),
            int(room[document]),
        )
        for document in np.flatnonzero(visits).tolist()
    ]
    if not first:
        return np.zeros((0, need), dtype=np.int64)
    rows = np.stack([np.asarray(store.tokens[at : at + need]) for at in np.concatenate(first)])
    return rows.astype(np.int64)


def even_share(room: Integers, count: int) -> Integers:
    """How many of `count` ≤ room.sum() each gets, as equal as their room allows."""
    low, high = 0, int(room.max(initial=0))
    while low < high:  # the most that all who have room for it can get
        middle = (low + high + 1) // 2
        if int(np.minimum(room, middle).sum()) <= count:
            low = middle
        else:
            high = middle - 1
    share = np.minimum(room, low)
    left = count - int(share.sum())
    wider = np.flatnonzero(room > low)
    share[wider[np.arange(left) * len(wider) // max(left, 1)]] += 1
    return share


def ids_of(tokenizer: Tokenizer, prefix: str, secret: str) -> tuple[Integers, int]:
    """Tokens of a canary after an end of document, and how many come before its secret."""
    before = tokenizer.encode(prefix).astype(np.int64)
    whole = tokenizer.encode(prefix + secret).astype(np.int64)
    same = min(len(before), len(whole))
    differs = np.flatnonzero(before[:same] != whole[:same])
    known = int(differs[0]) if len(differs) else same
    return np.concatenate(([tokenizer.end_of_document], whole)).astype(np.int64), known + 1


def _occurrences(store: TokenStore, ids: Integers) -> int:
    """How often the tokens occur in the store, in this order."""
    tokens = store.tokens
    at = np.flatnonzero(np.asarray(tokens[: len(tokens) - len(ids) + 1]) == ids[0])
    for offset in range(1, len(ids)):
        at = at[np.asarray(tokens[at + offset]) == ids[offset]]
    return len(at)

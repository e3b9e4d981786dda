"""The text that a run was trained on: whether it still is, places in it, and canaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
class Text:
    """What a run learned from and was judged on."""

    train: TokenStore
    validation: TokenStore
    canaries: list[tuple[Canary, int, int]]
    """Each with how often it stands in `train`, and in what `data.unique_tokens` cut away."""

    @staticmethod
    def of(record: RunRecord, canaries: list[Canary]) -> Text:
        """Of a run. Raises RunError if its corpus is not known or has changed since, and
        UserError for a blend of stores."""
        known = {role: facts["content_sha256"] for role, facts in record.info["corpus"].items()}
        if NOT_KNOWN in known.values():
            raise RunError(
                f"{record.path} was imported without a corpus, so it is not known what it was "
                "trained on; import it again with --corpus"
            )
        data = record.data
        corpus = open_corpus(data)
        text = corpus.train
        if isinstance(text, Blend):
            raise UserError(
                f"{record.path} was trained on a blend of stores; memorise needs a single one"
            )
        for role, store in (("train", text), ("validation", corpus.validation)):
            if store.content_sha256 != known[role]:
                raise RunError(
                    f"the store {store.prefix} is not the one that {record.path} was trained "
                    "with, so what the run remembers of it would mean nothing; restore it"
                )
        tokenizer = tokenizer_of(record)
        if tokenizer.sha256 != corpus.tokenizer.sha256:
            raise RunError(
                f"the tokenizer of the corpus {text.prefix.parent} is not the one that "
                f"{record.path} was trained with; restore it"
            )
        placed = []
        whole = open_corpus(dataclasses.replace(data, unique_tokens=None)).train
        assert isinstance(whole, TokenStore)
        for canary in canaries:
            ids = ids_of(tokenizer, canary.prefix, canary.secret)[0][1:]
            seen = occurrences(text, ids)
            placed.append((canary, seen, occurrences(whole, ids) - seen))
        return Text(text, corpus.validation, placed)


def why_unlike(records: Mapping[str, RunRecord]) -> str | None:
    """Why the validation NLL of these runs do not compare, in one clause; None if they do."""
    (first, one), *others = records.items()
    for name, other in others:
        pairs = {
            "validation set": [
                run.info["corpus"]["validation"]["content_sha256"] for run in (one, other)
            ],
            "tokenizer": [tokenizer_of(run).sha256 for run in (one, other)],
            "`data.sequence_length`": [run.recipe.data.sequence_length for run in (one, other)],
        }
        for what, (left, right) in pairs.items():
            if left != right:
                return (
                    f"{first} and {name} have not the same {what}, so their NLL do not compare; "
                    "give runs that have"
                )
    return None


def places(store: TokenStore, need: int, most: int, seed: int) -> Integers:
    """[places, need] tokens within documents, no place twice, up to `most`.

    Spread over the documents as evenly as their lengths allow, at random offsets; all prefixes
    end at the same place, so that only their length differs.
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
    """How many of `count` ≤ room.sum() fall to each, as alike as their room allows."""
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


def occurrences(store: TokenStore, ids: Integers) -> int:
    """How often the tokens stand in the store, in this order."""
    tokens = store.tokens
    at = np.flatnonzero(np.asarray(tokens[: len(tokens) - len(ids) + 1]) == ids[0])
    for offset in range(1, len(ids)):
        at = at[np.asarray(tokens[at + offset]) == ids[offset]]
    return len(at)

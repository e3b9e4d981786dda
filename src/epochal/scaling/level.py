"""What a model knows that knows nothing but how often each token is."""

from __future__ import annotations

import numpy as np

from epochal.data.blend import Blend
from epochal.data.opened import open_corpus
from epochal.data.store import TokenStore
from epochal.errors import EpochalError
from epochal.runs import RunRecord
from epochal.scaling.points import Points
from epochal.scaling.verdict import TITLES

COUNTED = 10_000_000
"""Tokens of the text that are counted."""


def frequency_level(train: TokenStore, validation: TokenStore, vocabulary: int) -> float:
    """NLL of the validation tokens by the frequencies of the training tokens, nats per token.

    Each token is counted once more than it was seen.
    """
    counts = np.bincount(train.tokens[:COUNTED], minlength=vocabulary) + 1.0
    seen = np.bincount(validation.tokens[:COUNTED], minlength=vocabulary)
    return float(-(seen * np.log(counts / counts.sum())).sum() / seen.sum())


def plateau_notes(points: Points) -> list[str]:
    """What is to be said of runs that are no better than that.

    Nothing for points without run folders, and where their corpus is not found.
    """
    if not points.recipes:
        return []
    level = _level(points.run[int(np.argmax(points.unique_tokens))])
    if level is None:
        return []
    notes = []
    for family in sorted(set(points.family)):
        own = points.of_family(family)
        behind = int((own.loss >= level).sum())
        if behind:
            notes.append(
                f"{behind} of {len(own)} {TITLES[family]} runs are no better than token "
                f"frequencies alone ({level:.3f} nats per token): they say nothing of the fall "
                "that follows, so leave them out, or train longer"
            )
    return notes


def _level(run: str) -> float | None:
    """That of a run's corpus; None where it is not found, or mixes stores."""
    try:
        record = RunRecord(run)
        corpus = open_corpus(record.data)
    except EpochalError:
        return None
    if isinstance(corpus.train, Blend):
        return None
    return frequency_level(corpus.train, corpus.validation, corpus.tokenizer.vocabulary)

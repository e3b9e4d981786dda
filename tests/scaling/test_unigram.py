"""The level of token frequencies, and runs that have not got below it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from epochal.data.corpus import Corpus
from epochal.scaling.extrapolation import corpus_unigram_nll, plateau_notes
from epochal.scaling.points import make_points
from epochal.scaling.read import read_points


def test_the_level_is_that_of_a_unigram_model(tiny_corpus):
    corpus = Corpus.open(tiny_corpus)
    vocabulary = corpus.tokenizer.vocabulary
    train, held = corpus.train.tokens.tolist(), corpus.validation.tokens.tolist()
    total = len(train) + vocabulary
    expected = -sum(math.log((train.count(token) + 1) / total) for token in set(held)
                    for _ in range(held.count(token))) / len(held)  # fmt: skip
    found = corpus_unigram_nll(corpus.train, corpus.validation, vocabulary)
    assert found == pytest.approx(expected, rel=1e-12)


def test_runs_that_have_not_got_below_are_told(tiny_corpus, tiny_pair):
    corpus = Corpus.open(tiny_corpus)
    points = read_points([tiny_pair])
    seen = corpus.train.first(int(points.unique_tokens[0]))
    level = corpus_unigram_nll(seen, corpus.validation, corpus.tokenizer.vocabulary)
    high, low = (replace(points, loss=0 * points.loss + level + by) for by in (0.1, -0.1))
    words = f"are no better than token frequencies alone ({level:.3f} nats per token)"
    assert [words in note for note in plateau_notes(high)] == [True, True]
    assert plateau_notes(high)[0].startswith("1 of 1 AR runs")
    assert plateau_notes(low) == []
    assert plateau_notes(make_points(1e6, 1e6, 1e6, 99.0)) == []

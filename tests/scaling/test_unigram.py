"""The level of token frequencies, and runs that have not got below it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from planted import make_points

from epochal.data.corpus import Corpus
from epochal.report.text import describe
from epochal.scaling.points import corpus_unigram_nll, unigram_level_notes
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
    families = sorted(set(points.family))
    notes = unigram_level_notes(high)
    assert [n.values["family"] for n in notes] == families
    assert [(n.values["count"], n.values["total"]) for n in notes] == [(1, 1), (1, 1)]
    assert notes[0].values["unigram_nll"] == pytest.approx(level)
    assert "AR runs do not beat the unigram baseline" in describe(notes[0])
    assert unigram_level_notes(low) == []
    assert unigram_level_notes(make_points(1e6, 1e6, 1e6, 99.0)) == []

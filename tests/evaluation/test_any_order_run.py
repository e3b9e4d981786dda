"""A run that learned random orders, through the rooms."""

from __future__ import annotations

import pytest

from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.gap import gap
from epochal.evaluation.load import load_run
from epochal.evaluation.options import EvalOptions
from epochal.generation.config import GenerationConfig
from epochal.runs import RunRecord
from epochal.training.train import train
from tiny_runs import overrides

ORDERS = EvalOptions(estimator="masked", draws=3)


@pytest.fixture(scope="module")
def run(tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anyorder") / "anyorder"
    train(None, overrides(tiny_corpus, folder, family="anyorder", train__steps=40))
    return folder


def test_it_learns_and_is_scored_both_ways(run, tiny_pair):
    losses = [line["loss"] for line in RunRecord(run).metrics("train")]
    assert losses[-1] < losses[0] - 0.5
    exact, bound = evaluate(run), evaluate(run, ORDERS)
    assert (exact.estimator, exact.is_bound, bound.is_bound) == ("exact", False, True)
    assert 0 < bound.standard_error_draws < 0.05
    # What training minimises: the last loss is of the same kind.
    assert bound.nll_nats_per_token == pytest.approx(losses[-1], abs=0.4)
    assert RunRecord(run).evaluation("best", masked=True) == bound
    paired = gap(run, tiny_pair / "mdm", ORDERS).results[0]
    assert paired.nll_nats_per_token == bound.nll_nats_per_token


def test_it_continues_texts_and_fills_gaps(run):
    model = load_run(run)
    text = model.generate("The", GenerationConfig(tokens=5))[0]
    assert text.startswith("The")
    filled = model.generate("The [MASK:3] of [MASK:1-2] is", GenerationConfig())[0]
    assert filled.startswith("The ")
    assert filled.endswith(" is")

"""A run that learned from left to right and with masks, through every room."""

from __future__ import annotations

import json

import pytest
import torch

from epochal.cli.main import main
from epochal.comparison.compare import ComparisonNote
from epochal.errors import OptionError, UserError
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.gap import gap
from epochal.evaluation.load import load_run
from epochal.evaluation.options import EvalOptions
from epochal.generation.config import GenerationConfig
from epochal.interop.exports import export_hf
from epochal.interop.load import load
from epochal.runs import RunRecord
from epochal.studies.compare import compare_existing
from epochal.training.train import train
from tiny_runs import overrides

MASKED = EvalOptions(estimator="masked", draws=4)


@pytest.fixture(scope="module")
def dual(tiny_corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("dual") / "dual"
    train(None, overrides(tiny_corpus, run, family="dual", train__steps=60))
    return run


def test_it_learns_and_is_scored_both_ways(dual, tiny_pair):
    losses = [line["loss"] for line in RunRecord(dual).metrics("train")]
    assert losses[-1] < losses[0] - 0.5
    exact, bound = evaluate(dual), evaluate(dual, MASKED)
    assert (exact.estimator, bound.estimator) == ("exact", "masked")
    assert (exact.is_bound, bound.is_bound) == (False, True)
    assert exact.standard_error_draws == 0 < bound.standard_error_draws
    assert exact.tokens_scored == bound.tokens_scored
    assert 3 < exact.nll_nats_per_token < 5.5 > bound.nll_nats_per_token > 3
    record = RunRecord(dual)
    assert record.evaluation("best") == exact
    assert record.evaluation("best", masked=True) == bound
    other = gap(dual, tiny_pair / "mdm", MASKED)
    assert [one.estimator for one in other.results] == ["masked", "stratified"]


def test_masks_are_refused_for_a_family_that_has_none(tiny_pair):
    with pytest.raises(OptionError, match="dual"):
        evaluate(tiny_pair / "ar", MASKED)


def test_compare_says_both(dual, tiny_pair, capsys):
    runs = [dual, tiny_pair / "ar", tiny_pair / "mdm"]
    found = compare_existing(runs)
    (masked,) = [one for one in found.notes if one.code == ComparisonNote.MASKED]
    bound = RunRecord(dual).evaluation("best", masked=True)
    assert masked.values["nll"]["dual"][0] == bound.nll_nats_per_token
    assert found.best_run("dual").nll == RunRecord(dual).evaluation("best").nll_nats_per_token
    with pytest.raises(SystemExit):
        main(["compare", *map(str, runs)])
    assert f"{bound.nll_nats_per_token:.3f}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["eval", str(dual), "--estimator", "masked", "--json"])
    assert json.loads(capsys.readouterr().out)["estimator"] == "masked"


def test_it_continues_texts_and_fills_gaps(dual):
    model = load_run(dual)
    text = model.generate("The", GenerationConfig(tokens=5))[0]
    assert text.startswith("The")
    assert model.generate("The", GenerationConfig(tokens=5)) == [text]
    filled = model.generate("The [MASK:3] of [MASK:1-2] is", GenerationConfig(steps=2))[0]
    assert filled.startswith("The ")
    assert filled.endswith(" is")
    with pytest.raises(UserError, match="steps"):
        model.generate("The", GenerationConfig(steps=2))


def test_an_export_comes_back_as_what_it_was(dual, tmp_path):
    export_hf(dual, tmp_path / "hf")
    model, again = load_run(dual), load(tmp_path / "hf")
    assert again.family == "dual"
    ids = torch.tensor([[1, 5, 7, model.tokenizer.mask, 3]])
    torch.testing.assert_close(again.logits(ids), model.logits(ids))
    gaps = GenerationConfig(temperature=0)
    assert again.generate("The [MASK:3] of", gaps) == model.generate("The [MASK:3] of", gaps)

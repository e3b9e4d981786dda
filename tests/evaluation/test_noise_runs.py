"""Runs of uniform and hybrid noise through every room, and the rooms that refuse them."""

from __future__ import annotations

import pytest
import torch

from epochal.cli.main import main
from epochal.errors import RecipeError, UserError
from epochal.evaluation.ensemble import ensemble
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.gap import gap
from epochal.evaluation.load import load_run
from epochal.evaluation.options import EvalOptions
from epochal.generation.config import GenerationConfig
from epochal.interop.exports import export_safetensors
from epochal.memorisation.memorise import memorise
from epochal.runs import RunRecord
from epochal.studies.compare import compare_existing
from epochal.training.distill import distill
from epochal.training.train import train
from tiny_runs import overrides

NAMES = {
    "hybrid": {},
    "uniform": {},
    "told": {"family": "uniform", "model.noise_conditioning": True},
}


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    for name, changes in NAMES.items():
        values = overrides(tiny_corpus, folder / name, family=name, train__steps=60)
        train(None, values | changes)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_they_learn_and_are_scored_and_write(runs, name):
    losses = [line["loss"] for line in RunRecord(runs / name).metrics("train")]
    assert sum(losses[-10:]) < sum(losses[:10]) - 8
    found = evaluate(runs / name, EvalOptions(draws=4))
    assert (found.estimator, found.is_bound) == ("stratified", True)
    assert 0 < found.standard_error_draws < 0.1
    assert 0 < found.nats_missed < 1e-3
    assert 3.5 < found.nll_nats_per_token < 5.5
    model = load_run(runs / name)
    text = model.generate("The", GenerationConfig(tokens=20, steps=10))[0]
    assert text.startswith("The")
    assert model.generate("The", GenerationConfig(tokens=20, steps=10)) == [text]
    assert "[MASK" not in text
    assert model.generate("The [MASK:3] of")[0].endswith(" of")
    with pytest.raises(UserError, match="remask"):
        model.generate("The", GenerationConfig(remask=0.5))


def test_they_are_compared_with_the_others(runs, tiny_pair):
    paired = gap(runs / "uniform", tiny_pair / "mdm", EvalOptions(draws=4))
    assert paired.standard_error > 0
    compared = compare_existing([runs / "uniform", tiny_pair / "ar"])
    assert compared.best_run("uniform").nll > 3.5


def test_what_needs_the_nll_of_tokens_refuses_them(runs, tmp_path, capsys):
    with pytest.raises(UserError, match="logits"):
        load_run(runs / "uniform").logits(torch.tensor([[1, 2]]))
    with pytest.raises(UserError, match="uniform-noise"):
        memorise([runs / "uniform"])
    with pytest.raises(UserError, match="a family that does: block, dual, mdm"):
        evaluate(runs / "uniform", EvalOptions(estimator="masked"))
    with pytest.raises(UserError, match="give runs of ar, block, dual, mdm"):
        ensemble([runs / "uniform"] * 2)
    with pytest.raises(RecipeError, match="cannot be students"):
        distill([runs / "hybrid"], tmp_path / "student")
    assert export_safetensors(runs / "hybrid", tmp_path).family == "hybrid"
    with pytest.raises(SystemExit) as ended:
        main(["downstream", str(runs / "hybrid"), "--tasks", "lambada"])
    assert ended.value.code == 2
    assert "hybrid-noise diffusion" in capsys.readouterr().err

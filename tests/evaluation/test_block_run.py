"""A run of block diffusion through every room, and the rooms that refuse it."""

from __future__ import annotations

import pytest
import torch

from epochal.cli.main import main
from epochal.errors import OptionError, UserError
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.gap import gap
from epochal.evaluation.load import load_run
from epochal.evaluation.options import EvalOptions
from epochal.generation.config import GenerationConfig
from epochal.interop.exports import export_safetensors
from epochal.memorisation.memorise import memorise
from epochal.runs import RunRecord
from epochal.studies.compare import compare_existing
from epochal.training.train import train
from tiny_runs import overrides


@pytest.fixture(scope="module")
def block(tiny_corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("block") / "block"
    changes = {"family": "block", "block.size": 8, "train__steps": 60}
    train(None, overrides(tiny_corpus, run, **changes))
    return run


def test_it_learns_and_is_scored_and_compared(block, tiny_pair):
    losses = [line["loss"] for line in RunRecord(block).metrics("train")]
    assert losses[-1] < losses[0] - 0.5
    found = evaluate(block, EvalOptions(draws=4))
    assert found.estimator == "stratified"
    assert found.standard_error_draws > 0
    assert 3 < found.nll_nats_per_token < 5.5
    paired = gap(block, tiny_pair / "mdm", EvalOptions(draws=4))
    assert paired.standard_error < found.standard_error
    compared = compare_existing([block, tiny_pair / "ar"])
    assert compared.best_run("block").nll == pytest.approx(found.nll_nats_per_token, abs=0.1)


def test_it_writes_and_fills_gaps(block):
    model = load_run(block)
    text = model.generate("The", GenerationConfig(tokens=20, steps=10))[0]
    assert text.startswith("The")
    assert model.generate("The", GenerationConfig(tokens=20, steps=10)) == [text]
    assert model.generate("The [MASK:3] of")[0].endswith(" of")
    with pytest.raises(OptionError, match="steps"):
        model.generate("The", GenerationConfig(tokens=20, steps=1))
    with pytest.raises(UserError, match="cached"):
        model.generate("The", GenerationConfig(block=4, cached=True))


def test_what_needs_single_tokens_refuses_it(block, tmp_path, capsys):
    with pytest.raises(UserError, match="logits"):
        load_run(block).logits(torch.tensor([[1, 2]]))
    with pytest.raises(UserError, match="block diffusion"):
        memorise([block])
    assert export_safetensors(block, tmp_path).family == "block"
    with pytest.raises(SystemExit) as ended:
        main(["downstream", str(block), "--tasks", "lambada"])
    assert ended.value.code == 2
    assert "block diffusion" in capsys.readouterr().err

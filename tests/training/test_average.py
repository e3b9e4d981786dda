"""The running average of the weights: its values, its place in a run, its checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from epochal.errors import CheckpointError
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.options import EvalOptions
from epochal.interop.load import load
from epochal.recipe.schema import Train
from epochal.training.optim import WeightAverage, make_average
from epochal.training.train import train
from tiny_runs import overrides


class FakeNumbers:
    steps, rows_per_epoch, global_batch_size = 24, 31, 4


def test_values_are_those_of_the_formula():
    layer = nn.Linear(3, 2).double()
    average = WeightAverage(layer, 0.6)
    expected = layer.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            layer.weight.add_(step + 1)
        average.update(step)
        decay = min(0.6, (2 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach()
        torch.testing.assert_close(average.weights["weight"], expected)
    assert torch.equal(average.weights["bias"], layer.bias)  # of what stays, exactly that


@pytest.mark.parametrize(("epochs", "last"), [(1.0, 8), (2.0, 16), (0.01, 1), (9.0, 24)])
def test_the_mean_of_the_last_epochs(epochs, last):
    """Of 24 steps, 8 to an epoch; before the last ones, the weights themselves."""
    settings = Train(steps=24, average_epochs=epochs)
    layer, seen = nn.Linear(3, 2).double(), []
    average = make_average(layer, settings, FakeNumbers)
    for step in range(24):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3))
        seen.append(layer.weight.detach().clone())
        average.update(step)
        if step < 24 - last:
            assert torch.equal(average.weights["weight"], layer.weight)
    torch.testing.assert_close(average.weights["weight"], torch.stack(seen[-last:]).mean(dim=0))


def test_shown_in_place_of_the_weights_and_taken_back():
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer, 0.9)
    old = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    with average.applied():
        assert torch.equal(layer.weight, old)
    assert (layer.weight == 0).all()
    assert torch.equal(average.weights["weight"], old)


@pytest.fixture(scope="module")
def with_average(tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ema")
    return train(None, overrides(tiny_corpus, folder, train__ema=0.8, eval__ema=True))


def nll_of(model, ids):
    return float(model.nll(ids).sum())


def test_best_and_ema_are_averages_and_last_is_not(with_average):
    ids = torch.arange(30)[None] % 200
    logits = {name: load(with_average.path, name).logits(ids) for name in ("last", "ema")}
    assert not torch.allclose(logits["last"], logits["ema"])
    best = load(with_average.path, "best")
    if best.step == 24:  # the curve still falls at the end of this run
        assert torch.equal(best.logits(ids), logits["ema"])
    kept = evaluate(with_average.path, EvalOptions(checkpoint="ema"))
    assert (kept.checkpoint, kept.step) == ("ema", 24)
    lines = with_average.metrics("eval")
    assert lines[-1]["nll_nats_per_token"] == pytest.approx(kept.nll_nats_per_token, abs=0.2)


def test_averaging_does_not_touch_the_training(with_average, tiny_corpus, tmp_path):
    plain = train(None, overrides(tiny_corpus, tmp_path))
    ids = torch.arange(30)[None]
    found = load(with_average.path, "last").logits(ids)
    assert torch.equal(found, load(plain.path, "last").logits(ids))
    with pytest.raises(CheckpointError, match=r"no average of the weights.*train\.ema"):
        load(plain.path, "ema")

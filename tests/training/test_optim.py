"""AdamW's groups and update, and the learning rate, against independent reckonings."""

from __future__ import annotations

import math

import pytest
import torch

from epochal.models import Transformer, initialise
from epochal.recipe.schema import Train
from epochal.sizes import Architecture
from epochal.training.optim import learning_rate, make_optimizer

SHAPE = Architecture(d_model=16, ffn_width=64, head_width=8, heads=2, layers=2)


def settings(**changes):
    return Train(**({"steps": 100, "lr": 1e-3, "min_lr": 1e-4, "warmup": 0.1} | changes))


def model():
    made = Transformer(SHAPE, 100)
    initialise(made, 1)
    return made


def test_matrices_decay_and_norms_do_not():
    made = model()
    decayed, free = make_optimizer(made, settings()).param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    names = {id(weight): name for name, weight in made.named_parameters()}
    assert all("norm" in names[id(weight)] for weight in free["params"])
    assert not any("norm" in names[id(weight)] for weight in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_updates_are_those_of_the_published_algorithm():
    """Loshchilov & Hutter, arXiv 1711.05101, algorithm 2, in float64."""
    made = model()
    chosen = settings(lr=3e-3, beta1=0.8, beta2=0.9, adam_eps=1e-6, weight_decay=0.3)
    optimizer = make_optimizer(made, chosen)
    weights = dict(made.named_parameters())
    expected = {name: w.detach().double().clone() for name, w in weights.items()}
    first = {name: torch.zeros_like(w) for name, w in expected.items()}
    second = {name: torch.zeros_like(w) for name, w in expected.items()}
    generator = torch.Generator().manual_seed(3)
    for step in range(1, 5):
        for name, weight in weights.items():
            weight.grad = torch.randn(weight.shape, generator=generator)
            grad = weight.grad.double()
            first[name] = 0.8 * first[name] + 0.2 * grad
            second[name] = 0.9 * second[name] + 0.1 * grad**2
            decay = 0.3 if weight.dim() > 1 else 0.0
            move = (first[name] / (1 - 0.8**step)) / (
                (second[name] / (1 - 0.9**step)).sqrt() + 1e-6
            )
            expected[name] -= 3e-3 * (move + decay * expected[name])
        optimizer.step()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-5, atol=1e-6)


def rates(**changes):
    chosen = settings(**changes)
    return [learning_rate(chosen, step, 100) for step in range(100)]


def test_cosine_is_torchs_after_the_warm_up():
    found = rates()
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=1e-4)
    expected = []
    for _ in range(91):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert found[9:] == pytest.approx(expected, rel=1e-9)


def test_the_warm_up_is_linear_and_wastes_no_step():
    assert rates()[:10] == pytest.approx([1e-4 * (step + 1) for step in range(10)])
    assert rates(warmup=0.0)[0] < 1e-3
    assert rates(warmup=0.0)[0] == pytest.approx(1e-3, rel=1e-3)


def test_linear_and_constant():
    assert rates(schedule="linear")[9:] == pytest.approx(
        [1e-3 - (1e-3 - 1e-4) * k / 90 for k in range(91)]
    )
    assert rates(schedule="constant")[9:] == [1e-3] * 91


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_last_step_has_the_least_rate(schedule):
    assert rates(schedule=schedule)[-1] == pytest.approx(1e-4)
    assert math.isclose(learning_rate(settings(warmup=0.0, steps=1), 0, 1), 1e-4)

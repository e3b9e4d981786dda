"""Muon and cautious weight decay against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epochal.models import Transformer, initialise
from epochal.recipe.schema import Train
from epochal.sizes import Architecture
from epochal.training.muon import _POLAR_EXPRESS, _SAFETY, MOMENTUM, RMS, orthogonal
from epochal.training.optim import make_optimizer

SHAPE = Architecture(d_model=16, d_ff=32, head_dim=8, heads=2, layers=2)
BAND = (0.84, 1.13)


def model(shape=SHAPE):
    made = Transformer(shape, 60)
    initialise(made, 1)
    return made


def optimizer_of(made, **changes):
    return make_optimizer(made, Train(**({"steps": 9, "lr": 1e-2, "min_lr": 0.0} | changes)))


def with_spectrum(m, n, values, seed=0):
    """[m, n] with these singular values, and its U·Vᵀ."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(k, len(values), generator=generator))[0] for k in (m, n))
    return u @ torch.diag(torch.tensor(values)).float() @ v.mT, u @ v.mT


@pytest.mark.parametrize(("m", "n"), [(24, 24), (16, 40), (40, 16)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_singular_values_come_to_the_band_and_directions_stay(m, n, scale):
    values = np.geomspace(2e-3, 1, min(m, n)) * scale
    matrix, polar = with_spectrum(m, n, values.tolist())
    found = orthogonal(matrix)
    u, spectrum, v = torch.linalg.svd(found, full_matrices=False)
    assert BAND[0] <= spectrum.min() <= spectrum.max() <= BAND[1]
    torch.testing.assert_close(u @ v, polar, atol=2e-4, rtol=0)
    assert (found - polar).norm() / polar.norm() < 0.13


def test_the_polynomials_meet_the_band_from_a_thousandth_on_and_shrink_less():
    start = np.geomspace(1e-6, 1, 100_001)
    x = start
    for a, b, c in _POLAR_EXPRESS:
        s = x / _SAFETY
        x = a * s + b * s**3 + c * s**5
    inside = x[start >= 1e-3]
    assert BAND[0] < inside.min() < 0.85
    assert 1.12 < inside.max() < BAND[1]
    assert (np.diff(x[start < 1e-4]) > 0).all()
    assert not orthogonal(torch.zeros(4, 6)).any()


def blocks_matrices(made):
    return {name: w for name, w in made.named_parameters() if "blocks." in name and w.dim() == 2}


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_updates_are_those_of_the_definitions(kind, cautious):
    """In float64, written out: AdamW (arXiv 1711.05101), Muon by its singular vectors' band."""
    rate, decay = 1e-2, 2.0
    made = model()
    optimizer = optimizer_of(made, optimizer=kind, cautious_decay=cautious, weight_decay=decay)
    weights = dict(made.named_parameters())
    by_muon = blocks_matrices(made) if kind == "muon" else {}
    expected = {name: w.detach().double().clone() for name, w in weights.items()}
    first = {name: torch.zeros_like(w) for name, w in expected.items()}
    second = {name: torch.zeros_like(w) for name, w in expected.items()}
    generator = torch.Generator().manual_seed(3)
    for step in range(1, 4):
        for name, weight in weights.items():
            weight.grad = torch.randn(weight.shape, generator=generator)
            grad, old = weight.grad.double(), expected[name]
            beta = MOMENTUM if name in by_muon else 0.9
            first[name] = beta * first[name] + (1 - beta) * grad
            second[name] = 0.95 * second[name] + 0.05 * grad**2
            if name in by_muon:
                direction = orthogonal(MOMENTUM * first[name] + (1 - MOMENTUM) * grad)
                update = RMS * max(old.shape) ** 0.5 * direction
            else:
                ratio = (second[name] / (1 - 0.95**step)).sqrt() + 1e-8
                update = first[name] / (1 - 0.9**step) / ratio
            held = torch.ones_like(old)
            if cautious:
                held = (update * old >= 0).double()
                assert old.dim() == 1 or 0.2 < held.mean() < 0.8
            own = decay if old.dim() > 1 else 0.0
            expected[name] = old - rate * update - rate * own * held * old
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-5, atol=2e-6)


def test_muon_has_the_matrices_of_blocks_with_updates_of_adamws_size():
    made = model()
    optimizer = optimizer_of(made, optimizer="muon", weight_decay=0.0)
    before = {name: w.detach().clone() for name, w in made.named_parameters()}
    for weight in made.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    moved = {name for name, w in made.named_parameters() if "momentum" in optimizer.state[w]}
    assert moved == set(blocks_matrices(made))
    for name in moved:
        change = made.get_parameter(name).detach() - before[name]
        assert float(change.square().mean().sqrt()) == pytest.approx(1e-2 * RMS, rel=0.13)


def test_with_completep_an_updates_largest_singular_value_is_that_of_the_base_model():
    largest = []
    for width in (16, 64):
        shape = Architecture(d_model=width, d_ff=2 * width, head_dim=8, heads=width // 8, layers=1)
        made = model(shape.relative_to(16, 1, 8))
        optimizer = optimizer_of(made, optimizer="muon", weight_decay=0.5)
        for group in optimizer.param_groups:
            assert group.get("own_decay", 0) * group["lr"] in (0, pytest.approx(0.5 * 1e-2))
        weight = made.blocks[0].attention.query.weight
        before = weight.detach().clone()
        for group in optimizer.param_groups:
            group["own_decay"] = 0.0
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        largest.append(float(torch.linalg.matrix_norm(weight.detach() - before, 2)))
    assert largest[1] == pytest.approx(largest[0], rel=0.1)

"""The loss of a student against its formula, written out in float64, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epochal.objectives import cross_entropy, linear_nll
from epochal.objectives.distillation import distilled_loss, soft_targets

POSITIONS, WIDTH, VOCABULARY = 9, 3, 5


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def problem(scored=6, seed=1):
    """Hidden states, table, targets, weights (one of them zero), distinct positions."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator, dtype=torch.float64)
    table = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    index = torch.randperm(POSITIONS, generator=generator)[:scored]
    targets = torch.randint(VOCABULARY, (scored,), generator=generator)
    weights = 3 * torch.rand(scored, generator=generator, dtype=torch.float64)
    weights[1] = 0
    return hidden.requires_grad_(), table.requires_grad_(), targets, weights, index


def teachers(seed=2):
    """Two, of different width."""
    generator = torch.Generator().manual_seed(seed)
    each = [
        (
            2 * torch.randn(POSITIONS, width, generator=generator, dtype=torch.float64),
            torch.randn(VOCABULARY, width, generator=generator, dtype=torch.float64),
        )
        for width in (2, 4)
    ]
    return [hidden for hidden, _ in each], [table for _, table in each]


def by_hand(hidden, table, targets, weights, index, share, temperature):
    """(total, NLL, T² · KL) position by position."""
    z = hidden.detach().numpy()[index.numpy()] @ table.detach().numpy().T
    states, tables = teachers()
    each = [h.numpy()[index.numpy()] @ t.numpy().T for h, t in zip(states, tables, strict=True)]
    total, nll, soft = 0.0, [], []
    for s in range(len(index)):
        p = np.mean([softmax(logits[s] / temperature) for logits in each], axis=0)
        q = softmax(z[s] / temperature)
        nll.append(-np.log(softmax(z[s])[targets[s]]))
        soft.append(temperature**2 * sum(p[v] * np.log(p[v] / q[v]) for v in range(VOCABULARY)))
        total += float(weights[s]) * ((1 - share) * nll[-1] + share * soft[-1])
    return total, nll, soft


def ours(hidden, table, targets, weights, index, share, temperature, figures=None):
    if figures is None:
        figures = torch.zeros(2, len(targets), dtype=torch.float64)
    soft = soft_targets(*teachers(), index, temperature)
    return distilled_loss(hidden, table, targets, weights, index, soft, share, figures=figures)


@pytest.mark.parametrize("block", [1, 11, 2**24])
@pytest.mark.parametrize(("share", "temperature"), [(0, 1), (0.3, 1), (0.7, 2.5), (1, 0.5)])
def test_the_value_is_the_formulas(monkeypatch, share, temperature, block):
    monkeypatch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: block)
    given, figures = problem(), torch.zeros(2, 6, dtype=torch.float64)
    found = ours(*given, share, temperature, figures)
    total, nll, soft = by_hand(*given, share, temperature)
    assert found.item() == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(figures, [nll, soft], rtol=1e-11)


@pytest.mark.parametrize(("share", "temperature"), [(0.3, 1), (0.7, 2.5), (1, 0.5)])
def test_gradients_are_those_of_small_changes(share, temperature):
    """Central differences of the formula, nothing of autograd."""
    hidden, table, *rest = problem()
    (2.5 * ours(hidden, table, *rest, share, temperature)).backward()
    small = 1e-6
    for values in (hidden, table):
        for place in np.ndindex(*values.shape):
            change = torch.zeros_like(values)
            change[place] = small
            up, down = (
                by_hand(
                    hidden + sign * change if values is hidden else hidden,
                    table + sign * change if values is table else table,
                    *rest,
                    share,
                    temperature,
                )[0]
                for sign in (1, -1)
            )
            slope = 2.5 * (up - down) / (2 * small)
            assert values.grad[place].item() == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_without_an_index_all_positions_count():
    hidden, table, *_ = problem()
    targets, weights = torch.arange(9) % VOCABULARY, torch.ones(9, dtype=torch.float64)
    everywhere = ours(hidden, table, targets, weights, None, 0.4, 1.5)
    listed = ours(hidden, table, targets, weights, torch.arange(9), 0.4, 1.5)
    assert everywhere.item() == listed.item()


def test_share_0_is_the_usual_loss():
    given, plain = problem(), problem()
    found, expected = ours(*given, 0, 2), linear_nll(*plain)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-14)
    torch.testing.assert_close(given[0].grad, plain[0].grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(given[1].grad, plain[1].grad, rtol=1e-12, atol=1e-14)


def test_a_student_that_is_its_teacher_has_no_kl_and_no_gradient():
    hidden, table, targets, weights, index = problem()
    soft = soft_targets([hidden.detach()] * 2, [table.detach()] * 2, index, 1.0)
    figures = torch.zeros(2, 6, dtype=torch.float64)
    total = distilled_loss(hidden, table, targets, weights, index, soft, 1, figures=figures)
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-14)
    assert figures[1].abs().max() < 1e-14
    assert hidden.grad.abs().max() < 1e-13
    assert table.grad.abs().max() < 1e-13
    assert figures[0].min() > 0


def test_in_bf16_it_is_near():
    """Under autocast, as on a GPU; sums stay in float32."""
    hidden, table, targets, weights, index = problem()
    expected = by_hand(hidden, table, targets, weights, index, 0.5, 2.0)[0]
    states, tables = ([one.float() for one in side] for side in teachers())
    figures = torch.zeros(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        soft = soft_targets(states, tables, index, 2.0)
        narrow = [one.detach().float().requires_grad_() for one in (hidden, table)]
        found = distilled_loss(*narrow, targets, weights.float(), index, soft, 0.5, figures=figures)
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=0.02)
    assert narrow[0].grad.isfinite().all()

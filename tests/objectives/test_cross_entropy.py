"""`linear_nll` and `token_nll` against float64 log-softmax, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epochal.objectives import cross_entropy, linear_nll, mean_logit_nll, token_nll


def problem(positions, width, vocabulary, scored, seed, dtype=torch.float64, spread=1.0):
    """Random hidden states, table, targets, weights (some zero) and distinct positions."""
    generator = torch.Generator().manual_seed(seed)
    hidden = spread * torch.randn(positions, width, generator=generator, dtype=dtype)
    table = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    index = torch.randperm(positions, generator=generator)[:scored]
    targets = torch.randint(vocabulary, (scored,), generator=generator)
    weights = 3 * torch.rand(scored, generator=generator)
    weights[torch.rand(scored, generator=generator) < 0.2] = 0
    return hidden.requires_grad_(), table.requires_grad_(), targets, weights, index


def reference(hidden, table, targets, weights, index):
    """Value and gradients in float64, by the definition."""
    hidden, table = (x.detach().double().requires_grad_() for x in (hidden, table))
    logits = hidden[index] @ table.T
    nll = -torch.log_softmax(logits, dim=1)[torch.arange(len(targets)), targets]
    total = (weights.double() * nll).sum()
    return (total.detach(), *torch.autograd.grad(total, (hidden, table)), nll.detach())


SIZES = st.tuples(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 50), st.floats(0, 1), st.integers(0, 999)
)


@given(SIZES, st.sampled_from([1, 7, 64, 2**25]))
def test_value_and_gradients(sizes, block):
    positions, width, vocabulary, share, seed = sizes
    scored = round(share * positions)
    hidden, table, targets, weights, index = problem(positions, width, vocabulary, scored, seed)
    value, by_hidden, by_table, nll = reference(hidden, table, targets, weights, index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: block)
        found = linear_nll(hidden, table, targets, weights, index)
        (2.5 * found).backward()
        each = token_nll(hidden, table, targets, index)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.detach(), value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hidden.grad, 2.5 * by_hidden, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(table.grad, 2.5 * by_table, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(each, nll, rtol=1e-12, atol=1e-12)


def test_without_an_index_all_positions_count():
    hidden, table, targets, weights, _ = problem(12, 5, 30, 12, 1)
    value, by_hidden, by_table, _ = reference(hidden, table, targets, weights, torch.arange(12))
    found = linear_nll(hidden, table, targets, weights)
    found.backward()
    torch.testing.assert_close(found.detach(), value)
    torch.testing.assert_close(hidden.grad, by_hidden, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(table.grad, by_table, rtol=1e-6, atol=1e-7)


def test_gradients_are_those_of_small_changes():
    """Independent of autograd: central differences in float64."""
    hidden, table, targets, weights, index = problem(6, 3, 7, 4, 2)
    linear_nll(hidden, table, targets, weights, index).backward()
    small = 1e-6
    for values in (hidden, table):
        for place in np.ndindex(*values.shape):
            change = torch.zeros_like(values)
            change[place] = small
            both = [
                linear_nll(
                    hidden + sign * change if values is hidden else hidden,
                    table + sign * change if values is table else table,
                    targets,
                    weights,
                    index,
                )
                for sign in (1, -1)
            ]
            slope = ((both[0] - both[1]) / (2 * small)).item()
            assert slope == pytest.approx(values.grad[place].item(), abs=1e-6)


def test_nothing_scored_is_zero_with_zero_gradients():
    hidden, table, targets, weights, index = problem(5, 3, 7, 0, 3)
    found = linear_nll(hidden, table, targets, weights, index)
    found.backward()
    assert found == 0
    assert (hidden.grad == 0).all()
    assert (table.grad == 0).all()
    assert token_nll(hidden, table, targets, index).shape == (0,)


def test_positions_that_are_not_scored_are_not_computed():
    """Not even a NaN there can reach the loss or a gradient."""
    hidden, table, targets, weights, index = problem(10, 4, 20, 6, 4)
    rest = torch.tensor(sorted(set(range(10)) - set(index.tolist())))
    with torch.no_grad():
        hidden[rest] = float("nan")
    found = linear_nll(hidden, table, targets, weights, index)
    found.backward()
    assert found.isfinite()
    assert (hidden.grad[rest] == 0).all()
    assert table.grad.isfinite().all()
    assert token_nll(hidden, table, targets, index).isfinite().all()


def test_the_number_of_logits_is_that_of_scored_positions(monkeypatch):
    sizes = []

    def spy(logits, targets, weights):
        sizes.append(tuple(logits.shape))
        return plain(logits, targets, weights)

    plain = cross_entropy._softmax
    monkeypatch.setattr(cross_entropy, "_softmax", spy)
    monkeypatch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: 60)
    hidden, table, targets, weights, index = problem(100, 4, 20, 11, 5)
    linear_nll(hidden, table, targets, weights, index)
    assert sum(rows for rows, _ in sizes) == 11
    assert max(rows * columns for rows, columns in sizes) <= 60
    assert len({rows for rows, _ in sizes}) <= 2  # blocks of nearly equal size


@pytest.mark.parametrize("spread", [100.0, 1e4])
def test_large_logits_neither_overflow_nor_vanish(spread):
    hidden, table, targets, weights, index = problem(30, 8, 40, 30, 6, torch.float32, spread)
    value, by_hidden, by_table, _ = reference(hidden, table, targets, weights, index)
    found = linear_nll(hidden, table, targets, weights, index)
    found.backward()
    torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=0)
    torch.testing.assert_close(hidden.grad.double(), by_hidden, rtol=1e-3, atol=1e-3)
    scale = by_table.abs().max()
    torch.testing.assert_close(table.grad.double() / scale, by_table / scale, rtol=1e-3, atol=1e-4)


def test_float32_is_as_good_as_plain_float32():
    hidden, table, targets, weights, index = problem(300, 32, 500, 200, 7, torch.float32)
    value, by_hidden, by_table, _ = reference(hidden, table, targets, weights, index)
    found = linear_nll(hidden, table, targets, weights, index)
    found.backward()
    torch.testing.assert_close(found.double(), value, rtol=3e-6, atol=0)
    torch.testing.assert_close(hidden.grad.double(), by_hidden, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(table.grad.double(), by_table, rtol=1e-3, atol=1e-4)


def test_bf16_autocast():
    """Products in bf16 (8 bits), softmax and sums in float32: errors of a few 2⁻⁹."""
    hidden, table, targets, weights, index = problem(400, 64, 300, 300, 8, torch.float32, 0.3)
    value, by_hidden, by_table, nll = reference(hidden, table, targets, weights, index)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_nll(hidden, table, targets, weights, index)
        each = token_nll(hidden, table, targets, index)
    found.backward()
    assert found.dtype == each.dtype == torch.float32
    assert hidden.grad.dtype == table.grad.dtype == torch.float32
    torch.testing.assert_close(found.double(), value, rtol=2e-3, atol=0)
    torch.testing.assert_close(each.double(), nll, rtol=0, atol=0.06)
    for grad, expected in ((hidden.grad, by_hidden), (table.grad, by_table)):
        error = (grad.double() - expected).norm() / expected.norm()
        assert error < 0.01


def test_the_compiled_form_is_the_same():
    """What torch.compile is given, run without compiling."""
    hidden, table, targets, weights, _ = problem(9, 4, 20, 9, 9)
    logits = (hidden @ table.T).detach()
    plain, fused = logits.clone(), logits.clone()
    a = cross_entropy._softmax(plain, targets, weights)
    b = cross_entropy._fused_softmax(fused, targets, weights)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(plain, fused, rtol=1e-6, atol=1e-7)


def test_the_nll_of_each_position_is_written_down_if_wanted(monkeypatch):
    monkeypatch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: 60)  # several blocks
    hidden, table, targets, weights, index = problem(40, 6, 20, 17, 11)
    each = torch.full((17,), float("nan"), dtype=torch.float64)
    total = linear_nll(hidden, table, targets, weights, index, each=each)
    torch.testing.assert_close(each, token_nll(hidden, table, targets, index))
    torch.testing.assert_close(total, (each * weights).sum())
    assert total.item() == linear_nll(hidden, table, targets, weights, index).item()


@given(st.integers(0, 500), st.integers(1, 300), st.integers(1, 5000))
def test_blocks_cover_all_rows_once(rows, vocabulary, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: limit)
        blocks = cross_entropy._blocks(rows, vocabulary, torch.device("cpu"))
    places = [place for block in blocks for place in range(rows)[block]]
    assert places == list(range(rows))
    sizes = {block.stop - block.start for block in blocks}
    assert all((size - 1) * vocabulary < limit for size in sizes)


def test_a_second_backward_is_refused_rather_than_wrong():
    hidden, table, targets, weights, index = problem(5, 3, 7, 4, 10)
    total = 2 * linear_nll(hidden, table, targets, weights, index)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError):
        total.backward()
    assert np.isfinite(hidden.grad.numpy()).all()


@pytest.mark.parametrize("block", [64, 2**24])
def test_the_mean_of_logits_of_groups(block, monkeypatch):
    """Widths may differ; against the softmax written out in float64."""
    monkeypatch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: block)
    make = torch.Generator().manual_seed(0)
    hidden = [torch.randn(9, width, generator=make, dtype=torch.float64) for width in (4, 6, 5)]
    tables = [torch.randn(11, one.shape[1], generator=make, dtype=torch.float64) for one in hidden]
    index, targets = torch.tensor([0, 2, 3, 7]), torch.tensor([1, 10, 0, 5])
    groups = [(0,), (0, 2), (0, 1, 2)]
    logits = torch.stack([x[index] @ t.T for x, t in zip(hidden, tables, strict=True)])
    found = mean_logit_nll(hidden, tables, targets, groups, index)
    for group, nll in zip(groups, found, strict=True):
        p = torch.softmax(logits[list(group)].mean(dim=0), dim=1)
        torch.testing.assert_close(nll, -p[torch.arange(4), targets].log())

"""The compiled form of `linear_nll` against the plain one."""

from __future__ import annotations

import pytest
import torch

from epochal.device import has_compiler
from epochal.objectives import cross_entropy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler(), reason="no C++ compiler to compile with"),
]


@pytest.mark.filterwarnings("ignore")  # of the compiler's own libraries
@pytest.mark.parametrize("bf16", [False, True])
def test_value_and_gradients_are_those_of_the_plain_form(bf16, monkeypatch):
    # Several blocks, the last one smaller.
    monkeypatch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: 4096)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(50, 16, generator=generator)
    table = torch.randn(384, 16, generator=generator)
    index = torch.randperm(50, generator=generator)[:37]
    targets = torch.randint(384, (37,), generator=generator)
    weights = torch.rand(37, generator=generator) * 3

    def found(compiled):
        h, t = hidden.clone().requires_grad_(), table.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = cross_entropy.linear_nll(h, t, targets, weights, index, compiled=compiled)
        loss.backward()
        return loss.detach(), h.grad, t.grad

    for ours, plain in zip(found(True), found(False), strict=True):
        scale = float(plain.abs().max())
        torch.testing.assert_close(ours, plain, rtol=0, atol=scale * (2e-2 if bf16 else 1e-5))


@pytest.mark.filterwarnings("ignore")  # of the compiler's own libraries
def test_nll_alone_is_that_of_the_plain_form(monkeypatch):
    monkeypatch.setattr(cross_entropy, "logits_block", lambda vocabulary, gpu: 4096)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(50, 16, generator=generator)
    table = torch.randn(384, 16, generator=generator)
    targets = torch.randint(384, (50,), generator=generator)
    for bf16, within in ((False, 1e-5), (True, 2e-2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            ours = cross_entropy.token_nll(hidden, table, targets, compiled=True)
            plain = cross_entropy.token_nll(hidden, table, targets)
        torch.testing.assert_close(ours, plain, rtol=within, atol=within)

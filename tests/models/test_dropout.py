"""Dropout: unbiased, with the rate it is told, also inside the fast attention kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epochal.device import has_compiler
from epochal.models import Transformer, branch_scales, initialise
from epochal.models.attention import Attention, rotary_tables
from epochal.sizes import Architecture

SHAPE = Architecture(d_model=16, d_ff=32, head_dim=8, heads=2, layers=2)
RULES = {
    "causal": "causal",
    "bidirectional": "bidirectional",
    "mask": torch.ones(1, 1, 6, 6, dtype=torch.bool).tril() & ~torch.eye(6).roll(1, 0).bool(),
}


def model(**dropout):
    made = Transformer(SHAPE, 60, **dropout)
    initialise(made, 1)
    return made


COMPILED = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]
CASES = [(rule, False) for rule in RULES] + [
    pytest.param("causal", True, marks=COMPILED, id="causal-compiled")
]


@pytest.mark.parametrize(("rule", "compiled"), CASES)
def test_attention_dropout_has_the_right_mean_and_variance(rule, compiled):
    """Probabilities a become a·b/(1−r): mean a, and variance a²·r/(1−r) for each (rule, head)."""
    rate, draws = 0.3, 20_000
    torch.manual_seed(0)
    attention = Attention(16, 2, 8, rate)
    with torch.no_grad():
        for linear in (attention.query, attention.key):
            linear.weight.mul_(3)  # probabilities that differ
        attention.output.weight.copy_(torch.eye(16))
        attention.value.weight.copy_(torch.eye(16))
    # Values are the inputs: with one-hot inputs, outputs are the probabilities themselves.
    x = torch.eye(16)[:6].repeat(1, 1, 1) + torch.eye(16)[8:14].repeat(1, 1, 1)
    rotary = rotary_tables(torch.arange(6), 8, 10000.0)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = attention.eval()(x, rotary, RULES[rule])[0]
        wide = RULES[rule] if isinstance(RULES[rule], str) else RULES[rule].repeat(draws, 1, 1, 1)
        attend = torch.compile(attention.train()) if compiled else attention.train()
        first, many = (attend(x.repeat(draws, 1, 1), rotary, wide) for _ in range(2))
        torch.manual_seed(0)
        again = attend(x.repeat(draws, 1, 1), rotary, wide)
    assert torch.equal(again, first)
    assert not torch.equal(first, many)
    assert torch.equal(attention.eval()(x, rotary, RULES[rule])[0], plain)
    expected_std = plain * (rate / (1 - rate)) ** 0.5
    error = (many.mean(dim=0) - plain).abs()
    assert (error <= 5 * expected_std / draws**0.5 + 1e-6).all()
    torch.testing.assert_close(many.std(dim=0), expected_std, rtol=0.05, atol=1e-6)
    kept = many[:, plain > 1e-3] > 0
    assert kept.double().mean().item() == pytest.approx(1 - rate, abs=0.01)


def test_hidden_and_embedding_dropout_have_their_own_rates():
    ids = torch.randint(60, (500, 6), generator=torch.Generator().manual_seed(1))
    seen = {}

    def watch(name):
        def hook(module, args):
            seen[name] = args[0].detach()

        return hook

    made = model(hidden_dropout=0.2, embedding_dropout=0.5)
    made.blocks[0].attention_norm.register_forward_pre_hook(watch("embedding"))
    made.blocks[0].feed_forward_norm.register_forward_pre_hook(watch("after attention"))
    torch.manual_seed(3)
    made.train()(ids, "causal")
    embedding, after = seen["embedding"], seen["after attention"]
    assert (embedding == 0).double().mean().item() == pytest.approx(0.5, abs=0.01)
    kept = embedding != 0
    torch.testing.assert_close(embedding[kept], 2 * made.embedding(ids)[kept])
    assert (after == embedding).double().mean().item() == pytest.approx(0.2, abs=0.01)


def test_embedding_dropout_is_hidden_dropout_unless_given():
    assert model(hidden_dropout=0.2).embedding_dropout == 0.2
    assert model(hidden_dropout=0.2, embedding_dropout=0.0).embedding_dropout == 0.0


def test_stochastic_depth_is_linear_in_depth_and_has_mean_1():
    scales = branch_scales(0.4, 4, 7, np.arange(20_000))
    lost = torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None].expand(4, 2)
    torch.testing.assert_close((scales == 0).float().mean(dim=0), lost, atol=0.015, rtol=0)
    torch.testing.assert_close(scales.mean(dim=0), torch.ones(4, 2), atol=0.03, rtol=0)
    torch.testing.assert_close(scales.amax(dim=0), 1 / (1 - lost))
    assert torch.corrcoef(scales.flatten(1).T).fill_diagonal_(0).abs().max() < 0.03  # independent
    assert torch.equal(branch_scales(0.4, 4, 7, np.arange(5, 9)), scales[5:9])
    assert not torch.equal(branch_scales(0.4, 4, 8, np.arange(9)), scales[:9])


def test_branches_are_skipped_whole():
    made, ids = model(), torch.arange(12)[None].repeat(3, 1)
    none, all_ = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    plain = made(ids, "causal")
    assert torch.equal(made(ids, "causal", scales=all_), plain)
    skipped = made(ids, "causal", scales=none)
    assert torch.equal(skipped, made.final_norm(made.embedding(ids)))
    mixed = made(ids, "causal", scales=torch.stack((all_[0], none[0], all_[0])))
    torch.testing.assert_close(mixed, torch.stack((plain[0], skipped[1], plain[2])))
    seen = []
    made.blocks[1].feed_forward_norm.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    made.blocks[1].attention_norm.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    only = all_.clone()
    only[:, 1, 0] = 0
    made(ids, "causal", scales=only)
    assert torch.equal(seen[0], seen[1])  # attention of the second block alone


def test_nothing_is_dropped_in_evaluation():
    ids = torch.arange(12)[None]
    dropped = model(attention_dropout=0.5, hidden_dropout=0.5, embedding_dropout=0.5).eval()
    assert torch.equal(dropped(ids, "causal"), model().eval()(ids, "causal"))

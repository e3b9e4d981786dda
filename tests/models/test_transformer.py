"""The transformer against plain references: rotary positions, attention rules, cache, padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from epochal.models import Transformer, initialise
from epochal.models.attention import Attention, rotary_tables, rotate
from epochal.recipe import load_recipe
from epochal.sizes import Architecture
from epochal.training.train import build_model

SHAPE = Architecture(d_model=16, layers=2, heads=3, head_dim=8, d_ff=20)


def small_model(shape=SHAPE, vocabulary=30, dtype=torch.float64, **settings):
    model = Transformer(shape, vocabulary, **settings)
    initialise(model, 5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)  # far from the almost uniform start, so that mistakes show
    return model.to(dtype).eval()


def ids(rows, length, seed=0, vocabulary=30):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (rows, length), generator=generator)


def complex_rotation(x, positions, theta):
    """[B, L, H, K] rotated by multiplying (x_i + i·x_{i+K/2}) with exp(i·position·θ^(−2i/K))."""
    x = x.numpy().astype(np.float64)
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    angle = np.asarray(positions)[..., None] * theta ** (-np.arange(half) / half)
    turned = pairs * np.exp(1j * angle)[..., :, None, :]
    return np.concatenate([turned.real, turned.imag], axis=-1)


@given(st.integers(1, 4), st.integers(1, 40), st.sampled_from([100.0, 10000.0, 5e5]))
def test_rotation_is_a_complex_product(half, length, theta):
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 3, 2 * half, generator=generator, dtype=torch.float64)
    found = rotate(x, *rotary_tables(torch.arange(length), 2 * half, theta))
    # The angles are float32: their error is about position · 6e-8.
    expected = complex_rotation(x, np.arange(length), theta)
    np.testing.assert_allclose(found, expected, atol=1e-6 * length)


def test_rotation_with_positions_per_row():
    x = torch.randn(2, 3, 1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    positions = torch.tensor([[0, 5, 2], [7, 7, 1]])
    found = rotate(x, *rotary_tables(positions, 4, 10000.0))
    np.testing.assert_allclose(found, complex_rotation(x, positions, 10000.0), atol=1e-5)


@given(st.integers(0, 500))
def test_scores_depend_on_distance_only(shift):
    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 1, 2, 1, 8, generator=generator, dtype=torch.float64)

    def score(start):
        tables = rotary_tables(torch.tensor([start, start + 3]), 8, 10000.0)
        return (rotate(q, *tables)[:, 0] * rotate(k, *tables)[:, 1]).sum().item()

    assert score(shift) == pytest.approx(score(0), abs=1e-3)


def plain_attention(layer, x, positions, seen):
    """Softmax over the places that `seen` [L, L] allows, written out position by position."""
    rows, length, _ = x.shape
    width = layer.head_dim
    q, k, v = (p(x).view(rows, length, -1, width) for p in (layer.query, layer.key, layer.value))
    q, k = (torch.from_numpy(complex_rotation(y, positions, 10000.0)) for y in (q, k))
    out = torch.zeros_like(v)
    for row in range(rows):
        for head in range(q.shape[2]):
            for i in range(length):
                places = [j for j in range(length) if seen[i][j]]
                scores = [
                    float(q[row, i, head] @ k[row, j, head]) / math.sqrt(width) for j in places
                ]
                shares = np.exp(np.array(scores) - max(scores))
                for share, j in zip(shares / shares.sum(), places, strict=True):
                    out[row, i, head] += share * v[row, j, head]
    return layer.output(out.flatten(2))


@torch.no_grad()
@pytest.mark.parametrize("rule", ["causal", "bidirectional", "explicit"])
def test_attention_is_softmax_written_out(rule):
    length = 6
    torch.manual_seed(3)
    layer = Attention(16, 3, 8, dropout=0.5).double().eval()
    x = torch.randn(2, length, 16, dtype=torch.float64)
    seen = {
        "causal": np.tril(np.ones((length, length), bool)),
        "bidirectional": np.ones((length, length), bool),
        "explicit": np.random.default_rng(0).random((length, length)) < 0.4,
    }[rule]
    seen |= np.eye(length, dtype=bool)
    given_rule = (
        torch.from_numpy(seen)[None, None].expand(2, 1, -1, -1) if rule == "explicit" else rule
    )
    found = layer(x, rotary_tables(torch.arange(length), 8, 10000.0), given_rule)
    expected = plain_attention(layer, x, np.arange(length), seen)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_a_block_written_out():
    """Pre-norm RMSNorm, SwiGLU, both added to the stream; tied logits."""
    shape = Architecture(d_model=16, layers=1, heads=3, head_dim=8, d_ff=20)
    model = small_model(shape, norm_eps=1e-3)
    tokens = ids(2, 5)

    def norm(x, weight):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-3) * weight

    block = model.blocks[0]
    x = model.embedding.weight[tokens]
    causal = np.tril(np.ones((5, 5), bool))
    normed = norm(x, block.attention_norm.weight)
    x = x + plain_attention(block.attention, normed, np.arange(5), causal)
    y = norm(x, block.feed_forward_norm.weight)
    gate, up = y @ block.feed_forward.gate.weight.T, y @ block.feed_forward.up.weight.T
    x = x + (gate * torch.sigmoid(gate) * up) @ block.feed_forward.down.weight.T
    logits = norm(x, model.final_norm.weight) @ model.embedding.weight.T
    np.testing.assert_allclose(model.logits(tokens, "causal"), logits, atol=1e-4)


@torch.no_grad()
def test_only_the_bidirectional_model_sees_the_future():
    model, tokens = small_model(), ids(1, 12)
    for place in range(12):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % 30
        causal = model(changed, "causal") - model(tokens, "causal")
        assert (causal[0, :place] == 0).all()
        assert causal[0, place:].abs().amax(dim=-1).min() > 1e-6
        both = model(changed, "bidirectional") - model(tokens, "bidirectional")
        assert both[0].abs().amax(dim=-1).min() > 1e-6


@torch.no_grad()
def test_an_explicit_mask_equals_the_named_rules():
    model, tokens = small_model(), ids(2, 7)
    lower = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, 1, 7, 7)
    for rule, mask in (("causal", lower), ("bidirectional", torch.ones_like(lower))):
        assert torch.allclose(model(tokens, rule), model(tokens, mask), atol=1e-12)


@torch.no_grad()
def test_positions_may_be_given_and_only_differences_count():
    model, tokens = small_model(), ids(2, 7)
    plain = model(tokens, "causal")
    assert torch.equal(model(tokens, "causal", torch.arange(7)), plain)
    assert torch.equal(model(tokens, "causal", torch.arange(7).repeat(2, 1)), plain)
    assert torch.allclose(model(tokens, "causal", torch.arange(7) + 50), plain, atol=1e-3)
    assert not torch.allclose(model(tokens, "causal", 2 * torch.arange(7)), plain, atol=1e-2)


@torch.no_grad()
@given(st.integers(1, 12), st.integers(0, 100))
def test_the_cache_gives_what_a_full_pass_gives(prompt, seed):
    model, tokens = small_model(), ids(2, 13, seed)
    caches = model.new_caches(2, 13)
    pieces = [model(tokens[:, :prompt], "causal", caches=caches)]
    pieces += [model(tokens[:, i : i + 1], "causal", caches=caches) for i in range(prompt, 13)]
    assert torch.allclose(torch.cat(pieces, dim=1), model(tokens, "causal"), atol=1e-12)


def test_a_filled_cache_takes_several_positions_at_once():
    model, tokens = small_model(), ids(2, 11)
    caches = model.new_caches(2, 11)
    pieces = [model(part, "causal", caches=caches) for part in tokens.split([4, 3, 1, 3], dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), model(tokens, "causal"), atol=1e-12)


@torch.no_grad()
def test_rows_of_a_batch_do_not_touch_each_other():
    model, tokens = small_model(), ids(3, 8)
    together = model(tokens, "bidirectional")
    for row in range(3):
        assert torch.allclose(model(tokens[row : row + 1], "bidirectional")[0], together[row])


def test_the_padded_table():
    """Rows for mask and padding: there, but no token's input changes them."""
    model = small_model(vocabulary=30)
    assert model.table.shape == (128, 16)
    assert model.logits(ids(1, 4), "causal").shape == (1, 4, 128)
    model.embedding(ids(2, 9)).sum().backward()
    assert model.embedding.weight.grad[30:].abs().sum() == 0
    assert model.logits(torch.tensor([[30]]), "bidirectional").isfinite().all()


def test_untied_models_have_their_own_table():
    shape = Architecture(16, 1, 2, 8, 20, tie_embeddings=False)
    model = small_model(shape)
    assert model.table is model.head.weight
    assert model.table.shape == model.embedding.weight.shape
    assert not torch.equal(model.table, model.embedding.weight)
    hidden = model(ids(1, 4), "causal")
    assert torch.allclose(model.logits(ids(1, 4), "causal"), hidden @ model.table.T)


def test_dropout_only_while_training():
    model = small_model(attention_dropout=0.5, hidden_dropout=0.5)
    tokens = ids(2, 8)
    assert torch.equal(model(tokens, "causal"), model(tokens, "causal"))
    assert torch.equal(model(tokens, "causal"), small_model()(tokens, "causal"))
    model.train()
    torch.manual_seed(1)
    first, second = model(tokens, "causal"), model(tokens, "causal")
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("std", [0.02, 0.006])
def test_initial_weights(std):
    values = {"model.d_model": 64, "model.layers": 8, "model.heads": 4, "model.init_std": std}
    recipe = load_recipe(None, values | {"seed": 7, "train.steps": 1})
    model = build_model(recipe, 1000)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == 1).all(), name
            continue
        residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
        wanted = std / math.sqrt(16) if residual else std
        relative_error = 1 / math.sqrt(2 * weight.numel())
        assert weight.std().item() == pytest.approx(wanted, rel=5 * relative_error), name
        assert abs(weight.mean().item()) < 5 * wanted / math.sqrt(weight.numel()), name


def test_initial_weights_follow_from_the_seed_and_the_name_only():
    def weights(seed, layers, **more):
        shape = Architecture(16, layers, 2, 8, 20, **more)
        model = Transformer(shape, 30)
        torch.manual_seed(layers)
        initialise(model, seed)
        return dict(model.named_parameters())

    first, again, other = weights(1, 1), weights(1, 1, tie_embeddings=False), weights(2, 1)
    for name, weight in first.items():
        assert torch.equal(weight, again[name])
        assert weight.dim() == 1 or not torch.equal(weight, other[name])
    deeper = weights(1, 3)
    assert torch.equal(first["embedding.weight"], deeper["embedding.weight"])
    blocks = [deeper[f"blocks.{layer}.attention.query.weight"] for layer in range(3)]
    assert not torch.equal(blocks[0], blocks[1])


def test_the_start_is_close_to_guessing():
    model = Transformer(Architecture(64, 4, 4, 16, 192), 200)
    initialise(model, 1)
    with torch.no_grad():
        logits = model.logits(ids(4, 16, vocabulary=200), "causal")
    nll = F.cross_entropy(logits.flatten(0, 1), ids(4, 16, 9, 200).flatten())
    assert nll.item() == pytest.approx(math.log(256), abs=0.1)

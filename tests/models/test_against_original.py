"""Our model with the original's weights gives the original's logits, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import original
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.models import Transformer
from epochal.objectives import (
    Autoregressive,
    MaskedDiffusion,
    Problem,
    Rows,
    linear_nll,
    noise,
)
from epochal.sizes import Architecture
from tiny_world import weighted_nll


@pytest.fixture(scope="module", params=["ar", "mdm"])
def family(request):
    return request.param


def kept(family, kind):
    prefix = f"{kind}/"
    files = original.arrays(family).items()
    return {name.removeprefix(prefix): x for name, x in files if name.startswith(prefix)}


def test_logits_are_the_originals(family):
    given = kept(family, "logits")
    model = original.our_model(kept(family, "weight"))
    with torch.no_grad():
        found = model.logits(torch.from_numpy(given["tokens"]).long(), original.FAMILIES[family])
    # The samples' README: "a plain rewrite … reproduces logits to below 1e-6" (of their size, ~10).
    found = found[:, :: original.LOGITS_EVERY].numpy()
    np.testing.assert_allclose(found, given["logits"], rtol=0, atol=5e-6)


def test_the_kept_files_are_the_samples(family, shared):
    """All logits, from the original's own pickles, where they are at hand."""
    samples = shared / "samples"
    weights = original.pickled_weights(samples / f"{family}_checkpoint" / "global_step60")
    mine = kept(family, "weight")
    assert weights.keys() == mine.keys()
    assert all(np.array_equal(weights[name], mine[name]) for name in weights)
    with np.load(samples / f"{family}_logits.npz") as given, torch.no_grad():
        tokens = torch.from_numpy(given["tokens"]).long()
        found = original.our_model(weights).logits(tokens, original.FAMILIES[family])
        np.testing.assert_allclose(found.numpy(), given["logits"], rtol=0, atol=5e-6)


def loss_problem(family, given):
    weights = np.ones(given["labels"].shape, dtype=np.float32)
    if family == "mdm":
        weights = given["masked"] / given["p_mask"]
    return Problem(
        inputs=torch.from_numpy(given["input"]).long(),
        targets=torch.from_numpy(given["labels"]).long(),
        weights=torch.from_numpy(weights.astype(np.float32)),
        denominator=weights.size,
        attention=original.FAMILIES[family],
    )


def test_loss_and_gradients_are_the_originals(family):
    given = kept(family, "loss")
    problem = loss_problem(family, given)
    model = original.our_model(kept(family, "weight"))
    index = problem.scored()
    place = slice(None) if index is None else index
    hidden = model(problem.inputs, problem.attention).flatten(0, 1)
    loss = linear_nll(
        hidden,
        model.table,
        problem.targets.flatten()[place],
        problem.weights.flatten()[place],
        index,
    )
    loss = loss / problem.denominator
    assert loss.item() == pytest.approx(float(given["loss"]), abs=2e-6)
    with torch.no_grad():
        by_definition = weighted_nll(model.logits(problem.inputs, problem.attention), problem)
    assert by_definition.item() == pytest.approx(float(given["loss"]), abs=2e-6)
    loss.backward()
    grads = {name: weight.grad for name, weight in model.named_parameters()}
    norms = dict(zip(given["grad_names"].tolist(), given["grad_norms"].tolist(), strict=True))
    for theirs, expected in norms.items():
        found = torch.cat([grads[name].flatten() for name in our_names(theirs)]).norm().item()
        assert found == pytest.approx(expected, rel=2e-5), theirs
    query = grads["blocks.0.attention.query.weight"][0]
    np.testing.assert_allclose(query, given["grad_qkv_layer0_row0"], rtol=1e-3, atol=1e-7)
    row = {"ar": 499, "mdm": 500}[family]  # end of text, or the mask
    expected = given["grad_emb_masktoken_or_eod"]
    np.testing.assert_allclose(grads["embedding.weight"][row], expected, rtol=1e-3, atol=1e-6)


def our_names(theirs):
    """Our parameters for one of the original's, in the order of its rows."""
    if theirs.startswith("tied_modules"):
        return ["embedding.weight"]
    layer, _, key = theirs.partition(".")
    if layer == "4":
        return ["final_norm.weight"]
    parts = {
        "input_layernorm.weight": ["attention_norm"],
        "self_attention.query_key_value.weight": [
            "attention.query",
            "attention.key",
            "attention.value",
        ],
        "self_attention.dense.weight": ["attention.output"],
        "post_attention_layernorm.weight": ["feed_forward_norm"],
        "mlp.dense_h_to_4h.weight": ["feed_forward.gate", "feed_forward.up"],
        "mlp.dense_4h_to_h.weight": ["feed_forward.down"],
    }[key]
    return [f"blocks.{int(layer) - 2}.{part}.weight" for part in parts]


def test_ar_problem_is_the_originals():
    given = kept("ar", "loss")
    theirs = loss_problem("ar", given)
    ours = Autoregressive().training_problem(torch.from_numpy(given["window"]).long(), None)
    for name in ("inputs", "targets", "weights"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert (ours.denominator, ours.attention) == (theirs.denominator, theirs.attention)


def test_mdm_problem_follows_the_originals_rules(monkeypatch):
    """With the original's masks and probabilities put in place of our draws."""
    given = kept("mdm", "loss")
    theirs = loss_problem("mdm", given)
    eps = 1e-3
    levels = (given["p_mask"][:, 0].astype(float) - eps) / (1 - eps)
    monkeypatch.setattr(noise, "iid_levels", lambda rows: levels)
    monkeypatch.setattr(noise, "independent_masks", lambda keys, prob, length: given["masked"])
    rows = Rows(np.arange(4, dtype=np.uint64), np.arange(4), 4, 0)
    objective = MaskedDiffusion(Options(eps=eps), mask=500)
    ours = objective.training_problem(torch.from_numpy(given["window"]).long(), rows)
    for name in ("inputs", "targets"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-6)
    assert (ours.denominator, ours.attention) == (theirs.denominator, theirs.attention)


def test_the_shape_of_the_samples():
    """d 48, 3 heads of 16, 2 layers, inner 128, table of 512 rows for 500 tokens and a mask."""
    shape = Architecture(d_model=48, layers=2, heads=3, head_dim=16, d_ff=128)
    weights = kept("ar", "weight")
    assert Transformer(shape, 500).table.shape == weights["1.word_embeddings.weight"].shape
    assert shape.params_exact(500) == sum(x.size for x in weights.values())

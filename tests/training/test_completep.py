"""CompleteP: the paper's table, the base model, and sizes that stay alike as models grow."""

from __future__ import annotations

import tomllib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from epochal.cli.main import main
from epochal.errors import RecipeError
from epochal.interop.exports import export_safetensors
from epochal.interop.load import load
from epochal.models import Transformer, folded_weights, initialise
from epochal.models.attention import rotary_tables, rotate
from epochal.recipe import load_recipe
from epochal.recipe.load import recipe_from_tree
from epochal.recipe.schema import Train
from epochal.scaling.plan import like_run
from epochal.sizes import Architecture, Multipliers
from epochal.training.optim import make_optimizer
from epochal.training.train import bare_model, train
from tiny_runs import final_files, overrides

BASE = Architecture(d_model=32, layers=2, heads=2, head_dim=16, d_ff=64)
LARGE = Architecture(d_model=96, layers=5, heads=3, head_dim=64, d_ff=192, tie_embeddings=False)
VOCABULARY = 60


def recipe(**changes):
    values = {"model.size": "7M", "train.steps": 1, "model.parametrisation": "completep"}
    return load_recipe(None, values | {key.replace("__", "."): v for key, v in changes.items()})


def made(shape, dtype=torch.float32):
    model = Transformer(shape, VOCABULARY)
    initialise(model, 3)
    return model.to(dtype).eval()


# The table of arXiv 2505.01618 for α = 1, of the shape LARGE on the base BASE: m_N = 3, m_L = 2.5.
# kind of weight → (initial std, rate, weight decay, epsilon), each as a factor of the base's
TABLE = {
    "embedding": (1, 1, 1, 1),
    "head": (1, 1, 1, 1),
    "matrix of a block": (3**-0.5, 1 / 3, 3, 1 / 7.5),
    "norm of a block": (None, 1, 0, 1 / 7.5),
    "last norm": (None, 1, 0, 1),
}


def kind_of(name):
    if name.startswith("blocks."):
        return "norm of a block" if "norm" in name else "matrix of a block"
    return {"embedding.weight": "embedding", "head.weight": "head"}.get(name, "last norm")


def test_initial_weights_and_groups_are_those_of_the_table():
    model = made(LARGE.relative_to(32, 2, 16))
    optimizer = make_optimizer(model, Train(steps=1, lr=0.01, adam_eps=1e-6, weight_decay=0.5), 2)
    names = {id(weight): name for name, weight in model.named_parameters()}
    seen = set()
    for group in optimizer.param_groups:
        for weight in group["params"]:
            seen.add(names[id(weight)])
            std, rate, decay, eps = TABLE[kind_of(names[id(weight)])]
            assert group["lr_scale"] == pytest.approx(rate)
            assert group["lr"] == pytest.approx(0.01 * rate)
            assert group["weight_decay"] == pytest.approx(0.5 * decay)
            assert group["eps"] == pytest.approx(1e-6 / 2 * eps)
            if std is None:
                assert (weight == 1).all()
                continue
            if names[id(weight)].endswith(("output.weight", "down.weight")):
                std /= (2 * BASE.layers) ** 0.5
            assert float(weight.detach().std()) == pytest.approx(0.02 * std, rel=0.06)
    assert seen == set(names.values())


def by_the_table(model, ids, width, depth, base_head):
    """[B, L, V] causal logits, written out."""

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    heads, k = model.shape.heads, model.shape.head_dim
    rotary = rotary_tables(torch.arange(ids.shape[1]), k, 10000.0)
    x = model.embedding.weight[ids]
    for block in model.blocks:
        part, read = block.attention, norm(x, block.attention_norm.weight)
        q, key, v = (
            (read @ weight.weight.T).unflatten(-1, (heads, k))
            for weight in (part.query, part.key, part.value)
        )
        scores = torch.einsum("blhk,bmhk->bhlm", rotate(q, *rotary), rotate(key, *rotary))
        scores = scores * base_head**0.5 / k
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        mixed = torch.einsum(
            "bhlm,bmhk->blhk", scores.masked_fill(later, -torch.inf).softmax(-1), v
        )
        x = x + mixed.flatten(2) @ part.output.weight.T / depth
        part, read = block.feed_forward, norm(x, block.feed_forward_norm.weight)
        inner = F.silu(read @ part.gate.weight.T) * (read @ part.up.weight.T)
        x = x + inner @ part.down.weight.T / depth
    return norm(x, model.final_norm.weight) @ model.table.T / width


@pytest.mark.parametrize("tied", [False, True])
def test_the_forward_pass_is_that_of_the_table_and_can_be_folded(tied):
    shape = Architecture(96, 5, 3, 64, 192, tie_embeddings=tied)
    model = made(shape.relative_to(32, 2, 16), torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # far from the almost uniform start, so that mistakes show
    ids = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    expected = by_the_table(model, ids, 3, 2.5, 16)
    torch.testing.assert_close(model.logits(ids, "causal"), expected, rtol=1e-6, atol=1e-7)
    plain = made(shape, torch.float64)
    plain.load_state_dict(folded_weights(model))
    torch.testing.assert_close(plain.logits(ids, "causal"), expected, rtol=1e-6, atol=1e-7)
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(plain.logits(ids, "causal"), expected, rtol=0.1)


def test_the_base_model_trains_bit_for_bit_as_the_standard(tiny_corpus, tmp_path):
    changes = {"train__steps": 8, "train__ema": 0.9, "model__layers": 2}
    train(None, overrides(tiny_corpus, tmp_path / "standard", **changes))
    base = {"model__base_width": 32, "model__base_depth": 2}
    at_base = {"model__parametrisation": "completep"} | base
    train(None, overrides(tiny_corpus, tmp_path / "completep", **changes, **at_base))
    assert final_files(tmp_path / "completep") == final_files(tmp_path / "standard")


def test_the_recipe_names_the_base():
    def multipliers(**changes):
        return recipe(**changes).model.architecture().multipliers

    assert multipliers() == Multipliers()  # the 7M is the base where none is given
    assert multipliers(model__size="44M") == Multipliers(4.0, 8 / 3, 2.0)
    base = {"model__base_width": 64, "model__base_depth": 6}
    assert multipliers(**base) == Multipliers(2.0, 0.5, 1.0)
    assert multipliers(**base, model__base_head_dim=8) == Multipliers(2.0, 0.5, 4.0)
    assert recipe(model__parametrisation="standard").model.architecture().multipliers == (
        Multipliers()
    )


@pytest.mark.parametrize("key", ["base_width", "base_depth", "base_head_dim"])
def test_a_base_without_completep_or_without_its_other_half_is_refused(key, capsys):
    with pytest.raises(RecipeError, match=f"`model.{key}` = 8 only counts with"):
        recipe(model__parametrisation="standard", **{f"model__{key}": 8})
    with pytest.raises(RecipeError, match=f"`model.{key}` = 8 needs `model.base_"):
        recipe(**{f"model__{key}": 8})
    with pytest.raises(SystemExit) as ended:
        main(["train", "quickstart", f"model.{key}=8", "--dry-run"])
    assert ended.value.code == 2
    assert "only counts with" in capsys.readouterr().err


def test_a_plan_like_a_run_keeps_its_base():
    run = recipe(model__base_width=64, model__base_depth=6, model__base_head_dim=8)
    planned = load_recipe(None, {"model.size": "14M", "train.epochs": 2})
    kept = like_run(planned, run).model
    assert kept.architecture() == planned.model.architecture().relative_to(64, 6, 8)


def test_a_safetensors_file_and_its_recipe_make_the_model(tiny_corpus, tmp_path):
    changes = {"train__steps": 4, "model__parametrisation": "completep"}
    train(None, overrides(tiny_corpus, tmp_path / "run", **changes))
    ours = load(tmp_path / "run")
    file = export_safetensors(tmp_path / "run", tmp_path / "x.safetensors").path
    with safe_open(file, "pt") as opened:
        text = opened.metadata()["recipe"]
    rebuilt = bare_model(recipe_from_tree(tomllib.loads(text)), ours.tokenizer.vocabulary).to_empty(
        device="cpu"
    )
    rebuilt.load_state_dict(load_file(file))
    ids = torch.randint(200, (2, 9), generator=torch.Generator().manual_seed(1))
    assert torch.equal(rebuilt.eval().logits(ids, "causal"), ours.model.logits(ids, "causal"))


# The coordinate check: after a few steps at one learning rate, how far have the logits and the
# residual stream moved? With CompleteP as far in large models as in small ones.

WIDTHS, DEPTHS = (32, 64, 128, 256), (2, 4, 8, 16)


def moved(shape, steps=4):
    """Root mean squares of the change of (logits, residual stream) over a few steps of AdamW."""
    model = made(shape)
    optimizer = make_optimizer(model, Train(steps=steps, lr=0.01))
    ids = torch.randint(VOCABULARY, (8, 17), generator=torch.Generator().manual_seed(5))
    seen = []
    model.final_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    first = model.logits(ids[:, :-1], "causal").detach()
    for _ in range(steps):
        logits = model.logits(ids[:, :-1], "causal")
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    last = model.logits(ids[:, :-1], "causal").detach()
    return [float((b - a).square().mean().sqrt()) for a, b in ((first, last), (seen[0], seen[-1]))]


def movements(shapes):
    """[shapes, 2]: how far the logits and the residual stream of each shape moved."""
    return torch.tensor([moved(shape) for shape in shapes])


def shapes(widths=(32,), depths=(2,)):
    """Two heads, which become wider with the model."""
    return [Architecture(w, layers, 2, w // 2, 2 * w) for w in widths for layers in depths]


# (axis, least growth of the movement of (logits, stream) with the standard parametrisation from
# the smallest to the largest). Measured: 4.4 and 84 over widths, 1.6 and 31 over depths.
AXES = {"width": ({"widths": WIDTHS}, (3, 40)), "depth": ({"depths": DEPTHS}, (1.4, 15))}


@pytest.mark.parametrize("axis", AXES)
def test_the_coordinate_check(axis):
    """With CompleteP the largest movement is less than 1.5 times the smallest (measured: 1.25)."""
    kinds, least = AXES[axis]
    standard = movements(shapes(**kinds))
    assert (standard[-1] / standard[0] > torch.tensor(least)).all()
    scaled = movements([shape.relative_to(32, 2, 16) for shape in shapes(**kinds)])
    assert (scaled.amax(0) / scaled.amin(0) < 1.5).all()

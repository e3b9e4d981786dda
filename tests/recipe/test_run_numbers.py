"""What a recipe amounts to, against numbers by hand and the paper's own runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import RecipeError
from epochal.recipe import load_recipe, run_numbers
from epochal.results import to_json

# One layer of width 4: N = 4·16 + 3·4·8 + 6·4 + 10·4 = 224 at V = 10.
TINY = {
    "model.d_model": 4,
    "model.layers": 1,
    "model.heads": 1,
    "model.d_ff": 8,
    "data.sequence_length": 16,
    "train.global_batch_size": 4,
}


def numbers(length, unique_tokens=1000, vocabulary=10, **more):
    return run_numbers(load_recipe(None, TINY | length | more), unique_tokens, vocabulary)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"train.steps": 7}, 7),
        # 62 rows an epoch, 124 rows, 31 steps.
        ({"train.epochs": 2}, 31),
        # 155 rows: 38 steps and three rows left.
        ({"train.epochs": 2.5}, 38),
        ({"train.epochs": 0.1}, 1),
        # 64 tokens a step.
        ({"train.tokens": 640}, 10),
        ({"train.tokens": 703}, 10),
        ({"train.tokens": "1k"}, 15),
        # 6·224 = 1344 FLOPs a token, 86,016 a step.
        ({"train.flops": 860_160}, 10),
        ({"train.flops": 860_159}, 9),
        ({"train.flops": 1e6}, 11),
    ],
)
def test_lengths_by_hand(length, steps):
    found = numbers(length)
    assert found.steps == steps
    assert (found.rows_per_epoch, found.params, found.flops_per_token) == (62, 224, 1344)
    assert found.params_non_embedding == 184
    assert found.tokens == 64 * steps
    assert found.flops == 1344 * 64 * steps
    assert found.epochs == pytest.approx(4 * steps / 62)


def test_progress_in_each_unit():
    found = numbers({"train.steps": 20})
    at = found.at(5)
    assert (at.steps, at.tokens, at.flops, at.percent) == (5, 320, 320 * 1344, 25)
    assert at.epochs == pytest.approx(20 / 62)
    assert found.at(20).epochs == found.epochs
    as_dict = to_json(found)
    assert as_dict["tokens"] == found.tokens
    assert as_dict["flops"] == found.flops
    assert as_dict["epochs"] == found.epochs
    assert as_dict["unique_tokens"] == 1000


@pytest.mark.parametrize(
    ("size", "epochs", "steps", "flops"),
    [("140M", 50, 9532, 4.34e18), ("425M", 500, 95_322, 1.25e20)],
)
def test_the_papers_best_runs(size, epochs, steps, flops):
    """Quick-start scripts at 99,952,399 tokens an epoch (paper.md §4)."""
    changes = {"model.size": size, "train.epochs": epochs, "data.sequence_length": 2048}
    found = run_numbers(load_recipe(None, changes), 99_952_399, 50257)
    # They cut tokens · epochs into rows at the end, we cut each epoch: 0.2 steps an epoch less.
    assert abs(found.steps - steps) <= 0.002 * epochs + 1
    assert found.flops == pytest.approx(flops, rel=2e-3)


@given(st.integers(1, 30), st.integers(1, 12))
def test_whole_epochs_in_thirds(thirds, batch):
    """n thirds of an epoch are never a row short for being written in binary."""
    changes = TINY | {"train.epochs": thirds / 3, "train.global_batch_size": batch}
    found = run_numbers(load_recipe(None, changes), 16 * 36 + 1, 10)
    assert found.steps == 12 * thirds // batch


def test_a_share_of_an_epoch_is_meant_in_decimals():
    """29 % of 100 rows are 29, though 0.29 · 100 is 28.999… in binary."""
    changes = TINY | {"train.epochs": 0.29, "train.global_batch_size": 1}
    assert run_numbers(load_recipe(None, changes), 1600, 10).steps == 29


def test_too_little_text():
    with pytest.raises(RecipeError, match=r"`data.sequence_length` = 16 needs more than 16 uniq"):
        numbers({"train.steps": 1}, unique_tokens=16)
    assert numbers({"train.steps": 1}, unique_tokens=17).rows_per_epoch == 1


@pytest.mark.parametrize(
    "length", [{"train.epochs": 0.04}, {"train.tokens": 63}, {"train.flops": 86_015}]
)
def test_less_than_a_step(length):
    with pytest.raises(RecipeError, match=r"less than one step of `train.global_batch_size` = 4"):
        numbers(length)


def test_shapes():
    shape = load_recipe(None, {"train.steps": 1, "model.size": "7M"}).model.architecture()
    assert (shape.d_model, shape.heads, shape.tie_embeddings) == (128, 4, True)
    changed = {
        "train.steps": 1,
        "model.size": "7M",
        "model.layers": 9,
        "model.tie_embeddings": False,
    }
    shape = load_recipe(None, changed).model.architecture()
    assert (shape.d_model, shape.layers, shape.tie_embeddings) == (128, 9, False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "`model.d_model` is missing: give `model.size`"),
        ({"d_model": 64, "heads": 2}, "`model.layers` is missing"),
        (
            {"d_model": 64, "heads": 3, "layers": 1},
            "`model.d_model` = 64 is not a multiple of `model.heads`",
        ),
        ({"d_model": 16, "heads": 2, "layers": 1}, "`model.d_ff`, or a width of at least 24"),
        ({"d_model": 16, "heads": 8, "layers": 1}, "or a width of at least 32"),
        ({"d_model": 9, "heads": 2, "layers": 1, "head_dim": 8}, "or a width of at least 24"),
        ({"size": "8M"}, "there is no size '8M' on the ladder"),
    ],
)
def test_shapes_that_are_none(model, message):
    changes = {f"model.{key}": value for key, value in model.items()} | {"train.steps": 1}
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, changes).model.architecture()
    assert message in str(caught.value)


@pytest.mark.parametrize(("size", "epochs", "steps"), [("140M", 50, 9532), ("425M", 500, 95_322)])
def test_the_papers_steps_exactly_in_its_order_of_rows(size, epochs, steps):
    """Its scripts: samples = tokens · epochs / 2048 in whole numbers."""
    changes = {"model.size": size, "train.epochs": epochs, "data.sequence_length": 2048}
    changes["data.order"] = "megatron"
    found = run_numbers(load_recipe(None, changes), 99_952_399, 50257)
    assert found.rows == 99_952_399 * epochs // 2048
    assert found.steps == steps

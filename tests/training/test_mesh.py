"""A mesh fits, or is refused before anything starts, with the nearest value that would do."""

from __future__ import annotations

import pytest

from epochal.errors import RecipeError
from epochal.recipe import load_recipe
from epochal.recipe.numbers import micro_rows
from epochal.sizes import stage_layers
from epochal.training.parallel.mesh import MeshPlan, plan_mesh

SHAPE = {"model.d_model": 96, "model.layers": 4, "model.heads": 6, "train.steps": 10}


def plan(world, vocabulary=300, **changes):
    values = SHAPE | {key.replace("__", "."): value for key, value in changes.items()}
    return plan_mesh(load_recipe(None, values), world, vocabulary)


def test_one_process_needs_no_mesh():
    assert plan(1) == MeshPlan()
    # A recipe made for a cluster also runs on one device.
    for key in ("zero", "tensor", "pipeline"):
        assert plan(1, **{f"parallel__{key}": 2}) == MeshPlan()


def test_what_is_left_is_data_parallel():
    assert plan(8) == MeshPlan(data=8)
    assert plan(8, parallel__tensor=2) == MeshPlan(data=4, shard=4, tensor=2, zero=1)
    assert plan(8, parallel__zero=3) == MeshPlan(data=8, shard=8, zero=3)
    hybrid = plan(8, parallel__zero=2, parallel__shard=4)
    assert (hybrid.shard, hybrid.replicas, hybrid.world) == (4, 2, 8)


@pytest.mark.parametrize(
    ("world", "changes", "message"),
    [
        (4, {"parallel__tensor": 3}, r"does not divide the 4 processes.*parallel.tensor=2"),
        (4, {"parallel__data": 3}, r"= 3 × 1 is not the 4 processes.*parallel.data=4"),
        (8, {"parallel__tensor": 4}, r"parallel.tensor` = 4 does not divide .* 6 attention heads"),
        (8, {"parallel__zero": 3, "parallel__shard": 3}, r"parallel.shard` = 3 .* nearest .* 2"),
        (3, {}, r"parallel.data` = 3 does not divide `train.global_batch_size` = 256 rows.* 2"),
        (4, {"parallel__offload": True}, r"needs sharded weights; set parallel.zero"),
        (4, {"parallel__shard": 2}, r"parallel.shard` = 2 needs FSDP"),
        (2, {"parallel__sequence": True}, r"needs tensor parallelism"),
        (2, {"parallel__tensor": 2, "train__hidden_dropout": 0.1}, r"dropout would differ"),
        (
            2,
            {"parallel__tensor": 2, "parallel__sequence": True, "data__sequence_length": 33},
            r"data.sequence_length` = 33; the nearest",
        ),
        (
            2,
            {
                "parallel__tensor": 2,
                "parallel__sequence": True,
                "family": "uniform",
                "model__noise_conditioning": True,
            },
            r"`parallel.sequence` = true .* `model.noise_conditioning`",
        ),
        (4, {"parallel__pipeline": 3}, r"pipeline` = 3 does not divide the 4 .*pipeline=2"),
        (6, {"parallel__pipeline": 6}, r"6 stages are more than the model's 4 layers.*pipeline=3"),
        (6, {"parallel__pipeline": 2, "parallel__tensor": 6}, r"= 6 × 2 .*parallel.pipeline=1"),
        (4, {"parallel__pipeline": 2, "parallel__data": 4}, r"= 4 × 1 × 2 is not the 4 .*data=2"),
        (
            2,
            {"parallel__pipeline": 2, "train__hidden_dropout": 0.1},
            r"one process with `parallel.pipeline`",
        ),
        (
            2,
            {"parallel__pipeline": 2, "train__global_batch_size": 1},
            r"set train.global_batch_size=2",
        ),
        (
            2,
            {"parallel__pipeline": 2, "train__global_batch_size": 12, "train__micro_batch_size": 5},
            r"`train.micro_batch_size` = 5 does not divide 12 rows so.*micro_batch_size=4",
        ),
        (
            2,
            {"parallel__tensor": 2, "model__padded_vocab_size": 301},
            r"embedding table of 301 rows",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(world, changes, message):
    with pytest.raises(RecipeError, match=message):
        plan(world, **changes)


def test_stages_multiply_with_data():
    assert plan(8, parallel__pipeline=2) == MeshPlan(data=4, pipeline=2)
    assert plan(2, parallel__pipeline=2, parallel__zero=3) == MeshPlan(pipeline=2)
    assert plan(8, parallel__pipeline=2).world == 8
    sharded = plan(8, parallel__pipeline=2, parallel__zero=3)
    assert sharded == MeshPlan(data=4, shard=4, pipeline=2, zero=3)
    both = plan(8, parallel__pipeline=2, parallel__tensor=2)
    assert both == MeshPlan(data=2, shard=2, tensor=2, pipeline=2, zero=1)


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"),
    [(4, 2, [2, 2]), (3, 2, [2, 1]), (7, 3, [2, 3, 2]), (8, 3, [3, 3, 2]), (7, 4, [2, 2, 2, 1])],
)
def test_layers_are_dealt_out_evenly(layers, stages, sizes):
    cut = stage_layers(layers, stages)
    assert [len(part) for part in cut] == sizes
    assert [number for part in cut for number in part] == list(range(layers))


def test_micro_batches_of_a_pipeline_have_one_size_and_are_four_a_stage():
    recipe = load_recipe(None, SHAPE | {"train.global_batch_size": 96})
    for stages in (2, 3, 4):
        rows = micro_rows(recipe, 2, stages)
        assert 48 % rows == 0
        assert 48 // rows >= 4 * stages
    assert micro_rows(recipe, 2) == min(48, 16384 // recipe.data.sequence_length)

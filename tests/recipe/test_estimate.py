"""Memory and time before a run: parts by hand, sharding, and what does not go."""

from __future__ import annotations

import dataclasses

import pytest

from epochal.errors import OptionError, RecipeError
from epochal.recipe import load_recipe, run_numbers
from epochal.recipe.estimate import (
    Sharding,
    estimate_memory,
    estimate_time,
    stage_memories,
)
from epochal.results import to_json
from epochal.sizes import LADDER

V = 50257


def recipe(size="425M", **changes):
    values = {"model.size": size, "train.steps": 100, "data.sequence_length": 2048}
    return load_recipe(None, values | {k.replace("__", "."): v for k, v in changes.items()})


def test_state_is_sixteen_bytes_a_weight():
    exact = LADDER["425M"].params_exact(V)
    found = estimate_memory(recipe(), V)
    assert (found.weights, found.gradients, found.optimizer) == (4 * exact, 4 * exact, 8 * exact)
    assert found.casts == 2 * (exact - (2 * 18 + 1) * 1280)
    assert estimate_memory(recipe(), V, bf16=False).casts == 0
    shape = recipe().model.architecture()
    muons = shape.layers * shape.d_model * (4 * shape.heads * shape.head_dim + 3 * shape.d_ff)
    muon = estimate_memory(recipe(train__optimizer="muon"), V)
    assert muon.optimizer == 8 * exact - 4 * muons
    assert estimate_memory(recipe(train__average_epochs=2), V).optimizer == 12 * exact


def test_activations_of_one_block_by_hand():
    """d 128, 4 heads of 32, inner 320, fp32: 4d + 4A + 4F numbers a token on a GPU."""
    one = recipe("7M", train__micro_batch_size=2, model__layers=1)
    two = recipe("7M", train__micro_batch_size=2, model__layers=2)
    per_layer = [estimate_memory(r, V, bf16=False).activations for r in (one, two)]
    assert per_layer[1] - per_layer[0] == 2 * 2048 * 4 * (4 * 128 + 4 * 128 + 4 * 320)
    half = [estimate_memory(r, V, bf16=True).activations for r in (one, two)]
    assert half[1] - half[0] == 2 * 2048 * (8 * 128 + 2 * (2 * 128 + 4 * 128 + 4 * 320))


def test_a_step_of_one_forward_pass_has_no_gradients_beside_activations():
    whole = estimate_memory(recipe(train__global_batch_size=8, train__micro_batch_size=8), V)
    parts = estimate_memory(recipe(train__global_batch_size=16, train__micro_batch_size=8), V)
    assert parts.total - whole.total == parts.gradients
    assert to_json(parts)["total"] == parts.total
    small = estimate_memory(recipe(train__global_batch_size=1, data__sequence_length=16), 300)
    assert small.total == small.weights + small.optimizer + small.gradients


@pytest.mark.parametrize("parts", [8, 64])
def test_zero_cuts_what_it_says(parts):
    """The 16B row: weights, gradients and moments of 16 bytes a weight over all devices."""
    plain = recipe("16183M", train__micro_batch_size=1, train__global_batch_size=parts)
    alone = estimate_memory(plain, V, Sharding(data=parts))
    optimizer = estimate_memory(plain, V, Sharding(data=parts, optimizer=parts))
    everything = Sharding(data=parts, weights=parts, gradients=parts, optimizer=parts)
    full = estimate_memory(plain, V, everything)
    assert alone.total > optimizer.total > full.total
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(full, name) == pytest.approx(getattr(alone, name) / parts, rel=1e-6)
    # Of the bf16 weights one block at a time is gathered.
    assert full.casts < alone.casts / 10


def test_what_is_gathered_by_hand():
    """d 128, 4 heads of 32, inner 320: a block of 4d² + 3d·320 weights, in bf16 or fp32; tables and
    norms in fp32."""
    block, table = 4 * 128 * 128 + 3 * 128 * 320, 50304 * 128
    rest = table + (2 * 9 + 1) * 128

    def gathered(bf16=True, **cut):
        cut = Sharding(data=8, **cut)
        return estimate_memory(recipe("7M", model__layers=9), V, cut, bf16=bf16).gathered

    state = {"gradients": 8, "optimizer": 8}
    assert gathered() == 0
    assert gathered(weights=8, **state) == 2 * 2 * block + 4 * (rest + block)
    assert gathered(False, weights=8, **state) == 4 * (2 * block + rest + block)
    assert gathered(weights=8, **state, offload=True) == gathered(weights=8, **state)
    whole = 2 * 9 * block + 4 * rest
    assert gathered(optimizer=8) == gathered(optimizer=8, offload=True) == whole
    found = estimate_memory(recipe("7M"), V, Sharding(data=8, weights=8, **state))
    assert found.total >= found.weights + found.optimizer + found.gathered + found.activations
    untied = recipe("7M", model__layers=9, model__tie_embeddings=False)
    more = estimate_memory(untied, V, Sharding(data=8, weights=8, **state)).gathered
    assert more - gathered(weights=8, **state) == 4 * table


def test_checkpointing_trades_memory():
    sizes = {
        kind: estimate_memory(recipe(), V, Sharding(checkpointing=kind)).activations
        for kind in ("none", "selective", "full")
    }
    assert sizes["none"] > sizes["selective"] > sizes["full"]
    tokens = 8 * 2048
    blocks = (
        sizes["full"]
        - estimate_memory(recipe(model__layers=1), V, Sharding(checkpointing="full")).activations
    )
    assert blocks == 17 * tokens * 1280 * 4


def test_tensor_pipeline_and_offload():
    plain = estimate_memory(recipe(train__micro_batch_size=2), V)
    halved = estimate_memory(recipe(train__micro_batch_size=2), V, Sharding(tensor=2))
    assert halved.weights == pytest.approx(plain.weights / 2, rel=1e-3)
    staged = estimate_memory(recipe(train__micro_batch_size=2), V, Sharding(pipeline=2))
    assert plain.weights / 2 < staged.weights < plain.weights
    offloaded = estimate_memory(recipe(train__micro_batch_size=2), V, Sharding(offload=True))
    assert (offloaded.weights, offloaded.optimizer) == (0, 0)
    assert Sharding(data=2, tensor=4, pipeline=3).devices == 24
    with pytest.raises(RecipeError, match="18 layers cannot be divided into 19 parts"):
        estimate_memory(recipe(), V, Sharding(pipeline=19))


@pytest.mark.parametrize("untied", [False, True])
def test_tables_are_on_the_first_and_the_last_stage(untied):
    """25 layers of width 1152 on 4 stages are 6, 7, 6 and 6; each end has one table."""
    wanted = recipe(
        model__layers=25,
        model__d_model=1152,
        train__micro_batch_size=1,
        model__tie_embeddings=not untied,
    )
    wanted = dataclasses.replace(
        wanted, train=dataclasses.replace(wanted.train, global_batch_size=8)
    )
    found = stage_memories(wanted, V, Sharding(pipeline=4))
    shape, table = wanted.model.architecture(), 50304 * 1152
    block = 4 * 1152 * shape.heads * shape.head_dim + 3 * 1152 * shape.d_ff + 2 * 1152
    expected = [6 * block + table, 7 * block, 6 * block, 6 * block + table + 1152]
    assert [memory.weights for memory in found] == [4 * count for count in expected]
    assert [memory.logits > 0 for memory in found] == [False, False, False, True]
    last_norm = 2 * 4 * 2048 * 1152
    per_layer = (found[3].activations - last_norm) // 6
    assert [memory.activations for memory in found[:3]] == [
        4 * 6 * per_layer,
        3 * 7 * per_layer,
        2 * 6 * per_layer,
    ]
    # The embedding is only looked up; the head multiplies by a bf16 copy of its table.
    assert found[0].casts == 2 * 6 * (block - 2 * 1152)
    assert found[3].casts == found[0].casts + 2 * table
    assert estimate_memory(wanted, V, Sharding(pipeline=4)) == max(found, key=lambda m: m.total)
    both = stage_memories(wanted, V)
    assert both[0].weights == 4 * (sum(expected) - (0 if untied else table))


def test_the_last_stage_is_fullest_where_little_is_kept():
    """With short rows the logits and the head's gradients decide, with long ones the first."""
    short = recipe(train__micro_batch_size=1, train__global_batch_size=8, data__sequence_length=16)
    assert estimate_memory(short, V, Sharding(pipeline=2)).stage == 1
    assert estimate_memory(recipe(train__micro_batch_size=8), V, Sharding(pipeline=2)).stage == 0


@pytest.mark.parametrize(("fused", "block"), [(True, 2**27), (False, 2**24)])
def test_the_block_of_logits_is_the_devices(fused, block):
    """Beside rows and their gradients, and the table's gradient in both types."""
    large = recipe(train__micro_batch_size=8)
    rows, table = 2 * 2 * 8 * 2048 * 1280, 6 * 50304 * 1280
    assert estimate_memory(large, V, fused=fused).logits == rows + table + 6 * block


def test_time_by_hand():
    wanted = recipe(train__steps=1000)
    numbers = run_numbers(wanted, 10**9, V)
    found = estimate_time(wanted, numbers, "a100", gpus=8, mfu=0.5)
    shape = LADDER["425M"]
    per_token = 6 * (352_558_080 - 6 * 18 * 1280 + 50304 * 1280) + 12 * 18 * 1280 * 2048
    assert shape.layers == 18
    assert found.matmul_flops == per_token * 1000 * 256 * 2048
    assert found.seconds == pytest.approx(found.matmul_flops / (312e12 * 0.5 * 8))
    assert found.gpu_hours == pytest.approx(found.seconds * 8 / 3600)
    mdm = dataclasses.replace(wanted, family="mdm")
    less = estimate_time(mdm, numbers, "a100", gpus=8, mfu=0.5)
    assert found.matmul_flops - less.matmul_flops == 3 * 50304 * 1280 * 1000 * 256 * 2048


@pytest.mark.parametrize("changes", [{"gpu": "H101"}, {"mfu": 40}, {"gpus": 0}])
def test_a_machine_that_cannot_be_is_refused_by_its_option(changes):
    wanted = recipe()
    with pytest.raises(OptionError) as refused:
        estimate_time(wanted, run_numbers(wanted, 10**9, V), **changes)
    assert (refused.value.name, refused.value.value) == next(iter(changes.items()))

"""AdamW's groups and update, and the learning rate, against independent reckonings."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import original
from epochal.errors import RecipeError
from epochal.models import Transformer, initialise
from epochal.recipe import load_recipe
from epochal.recipe.numbers import cycle_ends
from epochal.recipe.schema import Train
from epochal.sizes import Architecture
from epochal.training.optim import grad_clip_microbatches, learning_rate, make_optimizer

SHAPE = Architecture(d_model=16, d_ff=64, head_dim=8, heads=2, layers=2)


def settings(**changes):
    return Train(**({"steps": 100, "lr": 1e-3, "min_lr": 1e-4, "warmup": 0.1} | changes))


def model():
    made = Transformer(SHAPE, 100)
    initialise(made, 1)
    return made


def test_matrices_decay_and_norms_do_not():
    made = model()
    decayed, free = make_optimizer(made, settings()).param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    names = {id(weight): name for name, weight in made.named_parameters()}
    assert all("norm" in names[id(weight)] for weight in free["params"])
    assert not any("norm" in names[id(weight)] for weight in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_updates_are_those_of_the_published_algorithm():
    """Loshchilov & Hutter, arXiv 1711.05101, algorithm 2, in float64."""
    made = model()
    chosen = settings(lr=3e-3, beta1=0.8, beta2=0.9, adam_eps=1e-6, weight_decay=0.3)
    optimizer = make_optimizer(made, chosen)
    weights = dict(made.named_parameters())
    expected = {name: w.detach().double().clone() for name, w in weights.items()}
    first = {name: torch.zeros_like(w) for name, w in expected.items()}
    second = {name: torch.zeros_like(w) for name, w in expected.items()}
    generator = torch.Generator().manual_seed(3)
    for step in range(1, 5):
        for name, weight in weights.items():
            weight.grad = torch.randn(weight.shape, generator=generator)
            grad = weight.grad.double()
            first[name] = 0.8 * first[name] + 0.2 * grad
            second[name] = 0.9 * second[name] + 0.1 * grad**2
            decay = 0.3 if weight.dim() > 1 else 0.0
            move = (first[name] / (1 - 0.8**step)) / (
                (second[name] / (1 - 0.9**step)).sqrt() + 1e-6
            )
            expected[name] -= 3e-3 * (move + decay * expected[name])
        optimizer.step()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-5, atol=1e-6)


def numbers(steps=100, rows=400, global_batch_size=4):
    return SimpleNamespace(steps=steps, rows=rows, global_batch_size=global_batch_size)


def rates(**changes):
    chosen = settings(**changes)
    return [learning_rate(chosen, step, numbers()) for step in range(100)]


def test_cosine_is_torchs_after_the_warm_up():
    found = rates()
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=1e-4)
    expected = []
    for _ in range(91):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert found[9:] == pytest.approx(expected, rel=1e-9)


def test_the_warm_up_is_linear_and_wastes_no_step():
    assert rates()[:10] == pytest.approx([1e-4 * (step + 1) for step in range(10)])
    assert rates(warmup=0.0)[0] < 1e-3
    assert rates(warmup=0.0)[0] == pytest.approx(1e-3, rel=1e-3)


def test_linear_and_constant():
    assert rates(schedule="linear")[9:] == pytest.approx(
        [1e-3 - (1e-3 - 1e-4) * k / 90 for k in range(91)]
    )
    assert rates(schedule="constant")[9:] == [1e-3] * 91


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_last_step_has_the_least_rate(schedule):
    assert rates(schedule=schedule)[-1] == pytest.approx(1e-4)
    assert math.isclose(learning_rate(settings(warmup=0.0, steps=1), 0, numbers(1)), 1e-4)


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt"])
def test_wsd_warms_up_stays_and_decays(shape):
    found = rates(schedule="wsd", decay=0.4, decay_shape=shape)
    assert found[:10] == pytest.approx(rates()[:10])
    assert found[9:60] == [1e-3] * 51
    share = np.arange(1, 41) / 40
    left = {
        "linear": 1 - share,
        "cosine": (1 + np.cos(np.pi * share)) / 2,
        "sqrt": 1 - share**0.5,
    }[shape]
    assert found[60:] == pytest.approx(1e-4 + 9e-4 * left)


@pytest.mark.parametrize("progress", ["steps", "samples"])
def test_cycles_are_torchs_warm_restarts(progress):
    """Of 100 steps in four cycles, 10 of warm-up in the first; the rest is torch's."""
    found = rates(cycles=4, lr_progress=progress)
    late = progress == "samples"  # the rate of a step is that of the rows before it
    assert found[:11] == pytest.approx(rates(cycles=1, lr_progress=progress)[:11], rel=0.02)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 25, eta_min=1e-4)
    expected = []
    for _ in range(75):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    if late:
        assert found[25:] == pytest.approx(expected, rel=1e-9)
    else:  # a step earlier, so that the last step of a cycle has the least rate
        expected = [1e-4 if n % 25 == 0 else rate for n, rate in enumerate(expected)]
        assert found[25:] == pytest.approx([*expected[1:], 1e-4], rel=1e-9)


def test_cycles_of_other_schedules_and_uneven_lengths():
    assert cycle_ends(settings(cycles=3), 100) == [33, 67, 100]
    for schedule in ("linear", "wsd"):
        found = rates(schedule=schedule, cycles=3)
        assert [found[end - 1] for end in (33, 67, 100)] == pytest.approx([1e-4] * 3)
        assert found[33] == pytest.approx(1e-3, rel=0.05)
    wsd = rates(schedule="wsd", cycles=2, decay=0.4)
    assert wsd[50:80] == [1e-3] * 30
    assert wsd[80:] == pytest.approx(rates(schedule="wsd", decay=0.2)[80:])


def test_a_branch_has_been_warmed_up_by_its_trunk():
    changes = {"schedule": "wsd", "decay": 0.4}
    branch = rates(start_from="runs/trunk", **changes)
    assert branch[0] == 1e-3
    assert branch[10:] == rates(**changes)[10:]


def test_rates_by_samples_are_the_originals():
    """Its sample checkpoint: 640 samples in batches of 8, 80 of them warm-up, saved after step
    60 with the rate of the next step in its optimizer groups (stored arguments and groups)."""
    chosen = settings(lr=2e-3, min_lr=2e-4, warmup=80 / 640, lr_progress="samples")
    of = numbers(steps=80, rows=640, global_batch_size=8)
    assert learning_rate(chosen, 60, of) == pytest.approx(0.0005388591783271399, rel=1e-12)
    assert learning_rate(chosen, 0, of) == 0  # its first step changes nothing
    assert learning_rate(chosen, 10, of) == 2e-3
    assert learning_rate(chosen, 79, of) > 2e-4  # the end is reached after the last step
    longer = numbers(steps=80, rows=647, global_batch_size=8)  # rows that fill no step count
    assert learning_rate(chosen, 60, longer) > learning_rate(chosen, 60, of)


def test_groups_are_the_originals():
    """Its group without decay holds the five norms, the other all else (9 tensors there, whose
    fused ones are 15 of ours)."""
    model = original.our_model(
        {k.removeprefix("weight/"): v for k, v in original.arrays("ar").items() if "weight/" in k}
    )
    decayed, free = make_optimizer(model, settings()).param_groups
    assert (len(decayed["params"]), len(free["params"])) == (15, 5)
    theirs = [v for k, v in original.arrays("ar").items() if k.startswith("weight/")]
    assert sum(v.ndim > 1 for v in theirs) == 9
    assert sum(w.numel() for w in decayed["params"]) == sum(v.size for v in theirs if v.ndim > 1)


def test_strong_weight_decay_does_what_it_says():
    """Without a gradient a matrix shrinks by 1 − lr·decay a step, at 3.2 as at 0.1."""
    made = model()
    optimizer = make_optimizer(made, settings(weight_decay=3.2, lr=1e-2))
    before = made.embedding.weight.detach().clone()
    for weight in made.parameters():
        weight.grad = torch.zeros_like(weight)
    for _ in range(3):
        optimizer.step()
    torch.testing.assert_close(made.embedding.weight, before * (1 - 3.2e-2) ** 3)
    assert (made.final_norm.weight == 1).all()


def recipe_of(**changes):
    values = {"model.size": "7M", "train.steps": 10, "train.global_batch_size": 16}
    return load_recipe(None, values | {k.replace("__", "."): v for k, v in changes.items()})


def test_parts_of_the_clipped_sum():
    assert grad_clip_microbatches(recipe_of(train__micro_batch_size=4)) == 1
    for micro, parts in ((4, 4), (5, 4), (16, 1)):
        assert (
            grad_clip_microbatches(
                recipe_of(train__grad_clip_reduction="sum", train__micro_batch_size=micro)
            )
            == parts
        )
    told = recipe_of(
        train__grad_clip_reduction="sum", train__micro_batch_size=4, train__grad_clip_microbatches=2
    )
    assert grad_clip_microbatches(told) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__schedule": "wsd", "train__warmup": 0.5, "train__decay": 0.6}, "more than all"),
        ({"train__start_from": "runs/x"}, 'schedule="wsd"'),
        ({"train__start_step": 5}, "needs `train.start_from`"),
        ({"train__cycles": 2, "train__schedule": "constant"}, "each cycle decays"),
        (
            {"train__cycles": 2, "train__schedule": "wsd", "train__start_from": "runs/x"},
            "with a trunk",
        ),
        ({"train__cycles": 5, "train__warmup": 0.3}, "more than the first"),
        ({"eval__ema": True}, "set `train.ema`"),
        ({"train__ema": 0.9, "train__average_epochs": 1}, "one average"),
        (
            {
                "train__average_epochs": 1,
                "train__schedule": "wsd",
                "train__start_from": "runs/x",
            },
            "with `train.start_from`",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(RecipeError, match=message):
        recipe_of(**changes)

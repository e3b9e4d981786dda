"""The estimate of memory against what a step really allocates, on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from epochal.data.rows import RowOrder
from epochal.device import find_machine
from epochal.objectives import objective
from epochal.recipe import load_recipe
from epochal.recipe.estimate import estimate_memory
from epochal.training.optim import make_optimizer
from epochal.training.step import Stepper
from epochal.training.train import build_model


def peak_of_a_step(recipe, vocabulary):
    """Weights and moments, and the most that a step's tensors came to on top of them."""
    model = build_model(recipe, vocabulary)
    tokens = np.random.default_rng(0).integers(0, vocabulary, 20_000)
    stepper = Stepper(
        recipe,
        model,
        make_optimizer(model, recipe.train),
        objective(recipe, vocabulary),
        RowOrder(tokens, recipe.data.sequence_length, 1),
        find_machine(recipe.train),
    )
    stepper(0, 1e-3)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        stepper(1, 1e-3)
    kinds = trace.profiler.kineto_results.events()
    events = sorted((e.start_ns(), e.nbytes()) for e in kinds if e.name() == "[memory]")
    most = int(np.cumsum([size for _, size in events]).max())
    return most + 3 * 4 * sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.layers": 6},
        {"vocabulary": 4000},
        {"train.micro_batch_size": 4, "ar.masked_copy": 0.4},
        {"train.hidden_dropout": 0.1, "train.attention_dropout": 0.1},
        {"train.precision": "bf16"},
        {"data.sequence_length": 256, "train.global_batch_size": 4},
        {"model.d_model": 256, "train.micro_batch_size": 2, "family": "mdm"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_within_five_per_cent(changes):
    values = {
        "family": "ar",
        "data.sequence_length": 64,
        "model.d_model": 128,
        "model.layers": 3,
        "model.heads": 4,
        "train.steps": 10,
        "train.global_batch_size": 16,
        "train.device": "cpu",
        "train.precision": "fp32",
        **changes,
    }
    vocabulary = values.pop("vocabulary", 300)
    recipe = load_recipe(None, values)
    bf16 = recipe.train.precision == "bf16"
    found = estimate_memory(recipe, vocabulary, bf16=bf16, fused=False).total
    assert found == pytest.approx(peak_of_a_step(recipe, vocabulary), rel=0.05)
    assert torch.get_num_threads() == 1

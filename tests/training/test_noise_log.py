"""Training loss by noise level."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epochal import rng
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.objectives import Autoregressive, MaskedDiffusion, Rows
from epochal.training.step import NoiseSums

MASK = 50


def problem_of(rows, **options):
    keys = rng.row_keys(7, np.arange(rows))
    ids = torch.randint(50, (rows, 13), generator=torch.Generator().manual_seed(1))
    where = Rows(keys, np.arange(rows), rows, 5)
    return MaskedDiffusion(Options(**options), MASK).training_problem(ids, where)


@pytest.mark.parametrize("sampler", ["iid", "stratified"])
def test_means_are_those_of_the_masked_tokens_in_each_tenth(sampler):
    problem = problem_of(200, noise=sampler)
    index = problem.scored()
    nll = torch.rand(len(index), generator=torch.Generator().manual_seed(2))
    sums = NoiseSums(torch.device("cpu"))
    assert sums.nll_buffer(problem, index).shape == nll.shape
    sums.add(problem, index, nll)
    table = np.full(problem.targets.shape, np.nan)
    table[(problem.weights > 0).numpy()] = nll.numpy()
    found = NoiseSums.means(sums.sums.tolist())
    assert list(found) == [f"nll_noise_{middle}" for middle in range(5, 100, 10)]
    for number in range(10):
        here = (problem.noise >= number / 10) & (problem.noise < (number + 1) / 10)
        assert found[f"nll_noise_{10 * number + 5}"] == pytest.approx(
            np.nanmean(table[here]), rel=1e-5
        )


def test_micro_batches_add_up_and_empty_tenths_are_left_out():
    problem = problem_of(60, low_noise_start=True, low_noise_ratio=0.25)
    index = problem.scored()
    sums = NoiseSums(torch.device("cpu"))
    for _ in range(2):
        sums.add(problem, index, torch.full((len(index),), 3.0))
    assert sums.sums[10:].sum() == 2 * len(index)
    assert NoiseSums.means(sums.sums.tolist()) == pytest.approx(
        {"nll_noise_5": 3, "nll_noise_15": 3, "nll_noise_25": 3}
    )
    assert NoiseSums.means([0.0] * 20) == {}


def test_a_family_without_noise_costs_and_says_nothing():
    ids = torch.arange(14).view(2, 7)
    rows = Rows(rng.row_keys(7, np.arange(2)), np.arange(2), 2, 5)
    problem = Autoregressive().training_problem(ids, rows)
    sums = NoiseSums(torch.device("cpu"))
    assert sums.nll_buffer(problem, None) is None
    sums.add(problem, None, None)
    assert not sums.sums.any()

"""Options of masked diffusion: the mean over draws equals the loss by enumeration."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb

import numpy as np
import pytest
import torch
from scipy import stats

from epochal import rng
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.objectives import MaskedDiffusion, Rows, noise

MASK, LENGTH, BATCH = 9, 4, 200_000


def rows_of(count, step=0, seed=0):
    keys = rng.row_keys(rng.stream_key(seed, "rows", step), np.arange(count))
    return Rows(keys, np.arange(count), count, rng.stream_key(seed, "step", step), step)


def problem_of(batch=BATCH, length=LENGTH, step=0, **options):
    ids = torch.zeros(batch, length + 1, dtype=torch.long)
    return MaskedDiffusion(Options(**options), MASK).training_problem(ids, rows_of(batch, step))


random = np.random.default_rng(5)
COSTS = {  # what some model's NLL might be: a cost for each (set of masked places, place)
    subset: {place: float(random.exponential(2.0)) for place in subset}
    for size in range(LENGTH + 1)
    for subset in combinations(range(LENGTH), size)
}
SUM = {subset: sum(each.values()) for subset, each in COSTS.items()}
ENDS = {n: SUM[tuple(range(LENGTH - n, LENGTH))] for n in range(LENGTH + 1)}
MEAN = {
    n: float(np.mean([total for subset, total in SUM.items() if len(subset) == n]))
    for n in range(LENGTH + 1)
}
"""Mean cost over all subsets of n masked tokens."""


def costs_of(problem):
    """[B, L] cost of each masked place."""
    masked = (problem.inputs == MASK).numpy()
    table = np.zeros((2**LENGTH, LENGTH))
    for subset, each in COSTS.items():
        for place, cost in each.items():
            table[sum(1 << i for i in subset), place] = cost
    return table[(masked << np.arange(LENGTH)).sum(axis=1)]


def row_losses(problem):
    return (problem.weights.double().numpy() * costs_of(problem)).sum(axis=1) / LENGTH


def assert_mean(losses, expected):
    error = losses.std() / np.sqrt(len(losses))
    assert error < 0.03 * expected
    assert abs(losses.mean() - expected) < 4 * error


def over_p(cost_of_count, eps, top=1.0):
    """E over t ~ U(0, top) of Σ_n Binomial(n; L, p) · cost(n) / p / L, p = (1−ε)t + ε."""
    nodes, parts = np.polynomial.legendre.leggauss(LENGTH + 3)  # exact: a polynomial in p
    p = eps + (1 - eps) * top * (nodes + 1) / 2
    terms = [
        comb(LENGTH, n) * p ** (n - 1) * (1 - p) ** (LENGTH - n) * cost_of_count[n]
        for n in range(1, LENGTH + 1)
    ]
    return float((parts / 2 * sum(terms)).sum()) / LENGTH


def over_counts(cost_of_count):
    """E over K ~ U{1 … L} of L/K · cost(K) / L."""
    return float(np.mean([cost_of_count[n] / n for n in range(1, LENGTH + 1)]))


# --- left to right ----


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_mean_loss_with_masks_moved_to_the_end(ratio):
    expected = ratio * over_p(ENDS, 0.05) + (1 - ratio) * over_p(MEAN, 0.05)
    assert_mean(row_losses(problem_of(eps=0.05, ar_ratio=ratio)), expected)
    expected = ratio * over_counts(ENDS) + (1 - ratio) * over_counts(MEAN)
    assert_mean(row_losses(problem_of(noise="stratified", ar_ratio=ratio)), expected)


@pytest.mark.parametrize("sampler", ["iid", "stratified"])
def test_as_many_tokens_are_masked_as_were_drawn(sampler):
    plain = problem_of(3000, 20, noise=sampler).inputs == MASK
    moved = problem_of(3000, 20, noise=sampler, ar_ratio=0.4)
    masked = moved.inputs == MASK
    assert torch.equal(plain.sum(dim=1), masked.sum(dim=1))
    assert torch.equal(masked, moved.weights > 0)
    changed = (masked != plain).any(dim=1)
    assert (masked[changed, :-1] <= masked[changed, 1:]).all()  # once masked, masked to the end
    assert 0.3 < changed.double().mean() < 0.45


def test_no_masked_token_stays_no_masked_token():
    """The original's slice of the last 0 tokens takes the whole row (paper.md §10.1)."""
    masks = np.zeros((2, 6), dtype=bool)
    masks[1, :2] = True
    moved = noise.ends(masks, np.array([True, True]))
    assert moved.tolist() == [[False] * 6, [False] * 4 + [True] * 2]
    assert not noise.ends(masks, np.array([False, False]))[1, 2:].any()
    problem = problem_of(4000, 3, ar_ratio=1.0)
    none = (problem.inputs != MASK).all(dim=1)
    assert none.any()
    assert (problem.weights[none] == 0).all()


# --- the weight of a masked token ----


def test_mean_loss_with_the_masked_fraction():
    """With ε = 0 the count is uniform on 0 … L; where it is 0, one token is masked."""
    problem = problem_of(loss_weight="mask_fraction", eps=0)
    singles = MEAN[1]
    expected = (sum(MEAN[n] / n for n in range(1, LENGTH + 1)) + singles) / (LENGTH + 1)
    assert_mean(row_losses(problem), expected)
    masked = problem.inputs == MASK
    count = masked.sum(dim=1)
    assert stats.chisquare(np.bincount(count)[2:]).pvalue > 1e-3
    assert count.min() == 1
    torch.testing.assert_close(problem.weights, torch.where(masked, LENGTH / count[:, None], 0))
    assert problem.denominator == BATCH * LENGTH


def test_the_token_masked_for_want_of_any_is_anywhere():
    keys = rng.row_keys(1, np.arange(6000))
    masks = noise.at_least_one(np.zeros((6000, 5), dtype=bool), keys)
    assert (masks.sum(axis=1) == 1).all()
    assert stats.chisquare(masks.sum(axis=0)).pvalue > 1e-3


def test_mean_loss_with_exact_counts_of_independent_levels():
    problem = problem_of(loss_weight="mask_count")
    assert_mean(row_losses(problem), over_counts(MEAN))
    masked = problem.inputs == MASK
    count = masked.sum(dim=1)
    assert stats.chisquare(np.bincount(count)[1:]).pvalue > 1e-3
    torch.testing.assert_close(problem.weights, torch.where(masked, LENGTH / count[:, None], 0))


def test_with_stratified_noise_the_three_weights_are_one():
    """Exactly K of L are masked there, so p, the fraction and the count are the same."""
    ways = [
        problem_of(64, noise="stratified", loss_weight=weight)
        for weight in ("inverse_prob", "mask_fraction", "mask_count")
    ]
    for other in ways[1:]:
        assert torch.equal(other.inputs, ways[0].inputs)
        assert torch.equal(other.weights, ways[0].weights)


@pytest.mark.parametrize("sampler", ["iid", "stratified"])
def test_unweighted_is_the_mean_over_masked_tokens(sampler):
    problem = problem_of(loss_weight="unweighted", noise=sampler, eps=0)
    masked = problem.inputs == MASK
    assert torch.equal(problem.weights, masked.float())
    assert problem.denominator == masked.sum()
    first = 0 if sampler == "iid" else 1  # the count is uniform on 0 … L, or on 1 … L
    expected = sum(MEAN.values()) / sum(range(first, LENGTH + 1))
    costs = costs_of(problem).sum(axis=1)
    assert costs.sum() / problem.denominator == pytest.approx(expected, rel=0.01)


# --- less noise at first ----


def test_mean_loss_with_little_noise():
    low = {"low_noise_start": True, "low_noise_iters": 3, "low_noise_ratio": 0.4, "eps": 0.05}
    assert_mean(row_losses(problem_of(step=2, **low)), over_p(MEAN, 0.05, top=0.4))
    assert_mean(row_losses(problem_of(step=3, **low)), over_p(MEAN, 0.05))


def test_little_noise_is_off_unless_asked_for_and_ends():
    low = {"low_noise_start": True, "low_noise_iters": 5, "low_noise_ratio": 0.5}
    for sampler in ("iid", "stratified"):
        plain = problem_of(400, 10, step=4, noise=sampler)
        less = problem_of(400, 10, step=4, noise=sampler, **low)
        np.testing.assert_array_equal(less.noise, plain.noise * 0.5)
        assert (less.inputs == MASK).sum() < 0.75 * (plain.inputs == MASK).sum()
        later = problem_of(400, 10, step=5, noise=sampler, **low)
        assert torch.equal(later.inputs, problem_of(400, 10, step=5, noise=sampler).inputs)
    exact = problem_of(400, 10, step=0, noise="stratified", **low)
    count = (exact.inputs == MASK).sum(dim=1)
    assert set(count.tolist()) == {1, 2, 3, 4, 5}


# --- rows of random length ----


def test_a_share_of_the_steps_has_rows_of_random_length():
    lengths = [problem_of(2, 10, step, random_length=0.5).inputs.shape[1] for step in range(6000)]
    found = np.bincount(lengths, minlength=11)[1:]
    # Half of the steps are cut to 1 … 10, each equally likely; a tenth of them to all 10.
    assert stats.chisquare(found, np.array([300] * 9 + [3300])).pvalue > 1e-3
    assert problem_of(2, 10, 1, random_length=0.0).inputs.shape == (2, 10)


def test_all_micro_batches_of_a_step_have_one_length():
    ids = torch.arange(11).repeat(6, 1) % 9
    it = MaskedDiffusion(Options(random_length=1.0), MASK)
    for step in range(20):
        rows = rows_of(6, step)
        whole = it.training_problem(ids, rows)
        assert whole.denominator == whole.inputs.numel()
        assert torch.equal(whole.targets, ids[:, : whole.inputs.shape[1]])
        for start in (0, 3):
            part = slice(start, start + 3)
            cut = Rows(rows.keys[part], rows.place[part], 6, rows.step_key, step)
            assert torch.equal(it.training_problem(ids[part], cut).inputs, whole.inputs[part])


def test_purposes_have_numbers_of_their_own():
    keys = rng.row_keys(1, np.arange(20_000))
    many = [noise.row_uniforms(keys, purpose) for purpose in ("left to right", "one place")]
    many.append(noise.iid_levels(rows_of(20_000)))
    for one in many:
        assert stats.kstest(one, "uniform").pvalue > 1e-3
    for a, b in pairwise(many):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(20_000)

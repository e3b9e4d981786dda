"""The problems that the objectives pose, and what they must have in common."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epochal import rng
from epochal.families import family_names, get_family
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.objectives import (
    Autoregressive,
    Draw,
    MaskedDiffusion,
    Problem,
    Rows,
    objective,
)
from epochal.recipe import load_recipe
from tiny_world import weighted_nll

MASK, VOCABULARY, LENGTH = 9, 9, 6
WAYS = [
    ("ar", {}),
    ("mdm", {}),
    ("mdm", {"mdm.noise": "stratified"}),
    ("mdm", {"mdm.eps": 0}),
    ("ar", {"ar.orders": 5, "data.sequence_length": LENGTH}),
    ("mdm", {"mdm.ar_ratio": 0.5, "mdm.low_noise_start": True}),
    ("mdm", {"mdm.ar_ratio": 0.5, "mdm.noise": "stratified"}),
    ("mdm", {"mdm.loss_weight": "mask_fraction"}),
    ("mdm", {"mdm.loss_weight": "mask_count"}),
]


def make(family, changes=()):
    return objective(load_recipe(None, {"train.steps": 1, "family": family, **dict(changes)}), MASK)


def tokens(rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)


def rows_of(count, seed=0, batch=None):
    keys = rng.row_keys(rng.stream_key(seed, "rows"), np.arange(count))
    return Rows(keys, np.arange(count), batch or count, rng.stream_key(seed, "step"))


def draw_of(count, seed=0):
    keys = rng.row_keys(rng.stream_key(seed, "draw"), np.arange(count))
    return Draw(rng.uniforms(rng.row_keys(seed, np.arange(count)), 1)[:, 0], keys)


def scored_but_first(ids):
    scored = torch.ones(ids.shape, dtype=torch.bool)
    scored[:, 0] = False
    return scored


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("inputs", "targets", "weights")
    ) and (a.denominator, a.attention) == (b.denominator, b.attention)


def three_problems(family, changes, seed):
    it, ids = make(family, changes), tokens(8, LENGTH + 1, seed)
    yield it.training_problem(ids, rows_of(8, seed))
    yield it.paper_problem(ids, draw_of(8, seed))
    row = ids[:, :-1]
    yield it.likelihood_problem(row, scored_but_first(row), draw_of(8, seed))


# --- what holds for every objective ---------------------------------------------------------


def test_an_objective_is_exact_where_its_family_says_so():
    for family in family_names():
        assert make(family).exact is get_family(family).exact


@pytest.mark.parametrize(("family", "changes"), WAYS)
def test_problems_are_pure_functions(family, changes):
    for first, second in zip(
        three_problems(family, changes, 1), three_problems(family, changes, 1), strict=True
    ):
        assert same(first, second)


@pytest.mark.parametrize(("family", "changes"), WAYS)
def test_shapes_types_and_a_finite_loss(family, changes):
    for seed in range(20):
        for problem in three_problems(family, changes, seed):
            shape = (8, LENGTH)
            assert problem.inputs.shape == problem.targets.shape == problem.weights.shape == shape
            assert problem.inputs.dtype == problem.targets.dtype == torch.int64
            assert problem.weights.dtype == torch.float32
            assert problem.weights.isfinite().all()
            assert (problem.weights >= 0).all()
            assert problem.targets.max() < VOCABULARY
            assert weighted_nll(torch.zeros(8, LENGTH, VOCABULARY + 1), problem).isfinite()


@pytest.mark.parametrize(("family", "changes"), WAYS)
def test_a_target_cannot_be_read_from_its_input(family, changes):
    """What is asked for is either masked, or lies ahead of all that its position sees."""
    for problem in three_problems(family, changes, 3):
        asked = problem.weights > 0
        if problem.attention == "bidirectional":
            assert (problem.inputs[asked] == MASK).all()
            assert torch.equal(problem.inputs[~asked], problem.targets[~asked])
        else:
            assert problem.attention == "causal"
            assert torch.equal(problem.targets[:, :-1], problem.inputs[:, 1:])


@pytest.mark.parametrize(("family", "changes"), WAYS)
def test_training_does_not_depend_on_the_micro_batch(family, changes):
    it, ids, rows = make(family, changes), tokens(8, LENGTH + 1), rows_of(8)
    whole = it.training_problem(ids, rows)
    for start in range(0, 8, 3):
        part = slice(start, start + 3)
        cut = Rows(rows.keys[part], rows.place[part], 8, rows.step_key)
        problem = it.training_problem(ids[part], cut)
        assert torch.equal(problem.inputs, whole.inputs[part])
        assert torch.equal(problem.weights, whole.weights[part])
        assert problem.denominator == problem.targets.numel()


@pytest.mark.parametrize(("family", "changes"), WAYS[:2])
def test_only_scored_positions_have_a_weight(family, changes):
    ids = tokens(200, LENGTH)
    generator = torch.Generator().manual_seed(1)
    scored = torch.rand(200, LENGTH, generator=generator) < 0.5
    scored[:, 0] = False
    it = make(family, changes)
    problem = it.likelihood_problem(ids, scored, draw_of(200))
    asked = torch.zeros_like(scored)
    asked[:, it.shift :] = (problem.weights > 0)[:, : LENGTH - it.shift]
    assert not (asked & ~scored).any()
    assert problem.denominator == scored.sum()
    assert torch.equal(problem.targets.roll(it.shift, 1), ids)
    if it.exact:
        assert torch.equal(asked, scored)
        assert (problem.weights[problem.weights > 0] == 1).all()


@pytest.mark.parametrize(("family", "changes"), WAYS[:2])
def test_each_scored_tokens_weight_has_mean_one(family, changes):
    """Enumerated: all counts K and all subsets, as the levels and keys may give them."""
    rows = 60_000
    ids = tokens(1, LENGTH).repeat(rows, 1)
    it = make(family, changes)
    levels = (np.arange(rows) + 0.5) / rows
    keys = rng.row_keys(rng.stream_key(0, "mean"), np.arange(rows))
    problem = it.likelihood_problem(ids, scored_but_first(ids), Draw(levels, keys))
    mean = problem.weights.double().mean(dim=0).roll(it.shift)
    error = problem.weights.double().std(dim=0).roll(it.shift) / np.sqrt(rows) + 1e-12
    assert mean[0] == 0
    assert ((mean[1:] - 1).abs() <= 4 * error[1:]).all()


# --- autoregressive --------------------------------------------------------------------------


def test_ar_asks_for_the_next_token():
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    for problem in (
        Autoregressive().training_problem(ids, rows_of(1)),
        Autoregressive().paper_problem(ids, draw_of(1)),
    ):
        assert problem.inputs.tolist() == [[1, 2, 3, 4]]
        assert problem.targets.tolist() == [[2, 3, 4, 5]]
        assert problem.weights.tolist() == [[1, 1, 1, 1]]
        assert (problem.denominator, problem.attention, problem.scored()) == (4, "causal", None)
    scored = torch.tensor([[False, True, False, True, True]])
    problem = Autoregressive().likelihood_problem(ids, scored, draw_of(1))
    assert problem.inputs.tolist() == ids.tolist()
    assert problem.targets[0, :4].tolist() == [2, 3, 4, 5]
    assert problem.weights.tolist() == [[1, 0, 1, 1, 0]]
    assert problem.scored().tolist() == [0, 2, 3]
    assert problem.denominator == 3


# --- masked diffusion -------------------------------------------------------------------------


@given(st.floats(0, 0.99), st.integers(0, 1000))
def test_mdm_masks_at_p_and_weighs_with_one_over_p(eps, seed):
    ids = tokens(16, LENGTH + 1, seed)
    draw = draw_of(16, seed)
    problem = MaskedDiffusion(Options(eps=eps), MASK).paper_problem(ids, draw)
    p = (1 - eps) * draw.levels + eps
    masked = problem.inputs == MASK
    assert torch.equal(problem.targets, ids[:, :-1])  # not shifted, the last token dropped
    assert torch.equal(problem.inputs, torch.where(masked, MASK, ids[:, :-1]))
    expected = np.where(masked.numpy(), 1 / p[:, None], 0)
    np.testing.assert_allclose(problem.weights.numpy(), expected, rtol=1e-6)
    assert problem.denominator == 16 * LENGTH


def test_weights_have_no_cap():
    """At t = 0 a token is masked with p = ε and then weighs 1/ε (paper.md §1)."""
    rows = 20_000
    draw = Draw(np.zeros(rows), rng.row_keys(2, np.arange(rows)))
    problem = MaskedDiffusion(Options(eps=1e-3), MASK).paper_problem(
        tokens(1, LENGTH + 1).repeat(rows, 1), draw
    )
    assert 60 < (problem.weights > 0).sum() < 190  # 120 expected
    assert problem.weights.max() == 1000


def test_mdm_masks_with_probability_p():
    rows = 40_000
    levels = np.repeat([0.0, 0.25, 0.75, 0.999], rows // 4)
    keys = rng.row_keys(1, np.arange(rows))
    problem = MaskedDiffusion(Options(eps=0.1), MASK).paper_problem(
        tokens(rows, LENGTH + 1), Draw(levels, keys)
    )
    share = (problem.inputs == MASK).double().view(4, -1, LENGTH).mean(dim=(1, 2)).numpy()
    p = 0.9 * np.array([0.0, 0.25, 0.75, 0.999]) + 0.1
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / (rows / 4 * LENGTH)) + 1e-12).all()


def test_mdm_likelihood_weighs_with_m_over_k():
    ids = tokens(500, LENGTH)
    problem = MaskedDiffusion(Options(), MASK).likelihood_problem(
        ids, scored_but_first(ids), draw_of(500)
    )
    masked = problem.weights > 0
    count = masked.sum(dim=1)
    assert set(count.tolist()) == {1, 2, 3, 4, 5}
    assert torch.equal(problem.inputs == MASK, masked)
    expected = torch.where(masked, (LENGTH - 1) / count[:, None], 0)
    torch.testing.assert_close(problem.weights, expected.float())


def test_nothing_to_score_is_no_problem():
    ids = tokens(2, LENGTH)
    scored = torch.zeros(2, LENGTH, dtype=torch.bool)
    problem = MaskedDiffusion(Options(), MASK).likelihood_problem(ids, scored, draw_of(2))
    assert (problem.weights == 0).all()
    assert torch.equal(problem.inputs, ids)


# --- the mean over draws equals the enumerated loss -------------------------------------------


def any_costs(length, seed=5):
    """A cost for each (set of masked places, place): what some model's NLL might be."""
    random = np.random.default_rng(seed)
    return {
        subset: dict.fromkeys(subset, 0) | {i: float(random.exponential(2.0)) for i in subset}
        for size in range(1, length + 1)
        for subset in combinations(range(length), size)
    }


def expected_iid(costs, length, eps):
    """E over p of Σ_M p^|M| (1−p)^(L−|M|) · Σ_{i∈M} cost/p / L, by Gauss-Legendre (exact)."""
    nodes, parts = np.polynomial.legendre.leggauss(length + 2)
    p = eps + (1 - eps) * (nodes + 1) / 2
    return (
        sum(
            float((parts / 2 * p ** (len(m) - 1) * (1 - p) ** (length - len(m))).sum())
            * sum(c.values())
            for m, c in costs.items()
        )
        / length
    )


def expected_exact(costs, length):
    """E over K of the mean over subsets of L/K · Σ cost, / L."""
    total = 0.0
    for size in range(1, length + 1):
        of_size = [sum(c.values()) for m, c in costs.items() if len(m) == size]
        total += np.mean(of_size) / size
    return total / length


def row_losses(problem, costs):
    """[B] weighted cost of each row, / L."""
    weights = problem.weights.double().numpy()
    table = np.zeros((2 ** weights.shape[1], weights.shape[1]))
    for subset, each in costs.items():
        for place, cost in each.items():
            table[sum(1 << i for i in subset), place] = cost
    code = ((problem.inputs == MASK).numpy() << np.arange(weights.shape[1])).sum(axis=1)
    return (weights * table[code]).sum(axis=1) / weights.shape[1]


@pytest.mark.parametrize("eps", [0.05, 1e-3])
def test_mean_training_loss_is_the_enumerated_one(eps):
    length, batch = 4, 400_000
    costs = any_costs(length)
    it = MaskedDiffusion(Options(eps=eps), MASK)
    problem = it.training_problem(tokens(1, length + 1).repeat(batch, 1), rows_of(batch))
    losses = row_losses(problem, costs)
    error = losses.std() / np.sqrt(batch)
    expected = expected_iid(costs, length, eps)
    assert abs(losses.mean() - expected) < 4 * error
    assert error < 0.02 * expected


def test_mean_stratified_training_loss_is_the_enumerated_one():
    """Over independent steps; it estimates what iid noise does at eps → 0, far more quietly."""
    length, batch, steps = 4, 32, 3000
    costs = any_costs(length)
    it = MaskedDiffusion(Options(noise="stratified"), MASK)
    ids = tokens(1, length + 1).repeat(batch, 1)
    means = np.array(
        [
            row_losses(it.training_problem(ids, rows_of(batch, s)), costs).mean()
            for s in range(steps)
        ]
    )
    error = means.std() / np.sqrt(steps)
    expected = expected_exact(costs, length)
    assert expected == pytest.approx(expected_iid(costs, length, 0.0))
    assert abs(means.mean() - expected) < 4 * error
    iid = MaskedDiffusion(Options(eps=1e-3), MASK)
    loose = np.array(
        [
            row_losses(iid.training_problem(ids, rows_of(batch, s)), costs).mean()
            for s in range(steps)
        ]
    )
    difference = means.mean() - loose.mean()
    bias = expected_iid(costs, length, 1e-3) - expected
    assert abs(difference + bias) < 4 * np.hypot(error, loose.std() / np.sqrt(steps))
    assert means.std() < loose.std()


# --- the reference form of the loss -----------------------------------------------------------


def test_weighted_nll_by_hand():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]]))
    problem = Problem(
        inputs=torch.zeros(1, 2, dtype=torch.long),
        targets=torch.tensor([[1, 2]]),
        weights=torch.tensor([[2.0, 0.0]]),
        denominator=2,
        attention="causal",
    )
    assert weighted_nll(logits, problem).item() == pytest.approx(-np.log(0.25))
    assert problem.scored().tolist() == [0]
    logits[0, 1] = float("nan")  # a position without a weight does not count
    assert weighted_nll(logits, problem).item() == pytest.approx(-np.log(0.25))

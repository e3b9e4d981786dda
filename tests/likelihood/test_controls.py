"""Control variates: unbiased by enumeration, slopes against least squares, history by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from epochal.data.rows import ScoredWindows
from epochal.likelihood.controls import (
    PRIOR_SLOPES,
    History,
    normal_equations,
    scored_unigram_nll,
    slopes,
)


def masks(length):
    """Every mask of K of `length` tokens with its probability under uniform K, and K."""
    from itertools import combinations
    from math import comb

    for count in range(1, length + 1):
        for chosen in combinations(range(length), count):
            mask = np.zeros(length)
            mask[list(chosen)] = 1
            yield mask, 1 / length / comb(length, count), count


def test_cross_fitted_corrections_are_unbiased_by_enumeration(random):
    """All masks of two rows of three tokens, one per half: the mean is exactly the truth.

    A slope that knew anything of its own row's masks would show here.
    """
    length = 3
    features = random.normal(2, 1, (2, 2, length))
    # NLL depends on the token and on the number of masked tokens; a row's bound is its mean.
    table = random.gamma(2, 1, (2, length + 1, length))
    truth = sum(table[row, k].mean() for row in (0, 1) for k in range(1, length + 1))
    total = moved = 0.0
    for outcome in product(masks(length), masks(length)):
        chance, rows = 1.0, []
        for row, (mask, probability, count) in enumerate(outcome):
            chance *= probability
            weights = mask * length / count
            nll = table[row, count] * mask
            products = normal_equations(weights[None], features[:, row, None], nll[None])[0]
            control = ((weights - 1) * features[:, row]).sum(axis=1)
            rows.append(((weights * nll).sum(), control, products))
        fitted = [slopes(rows[1][2], 1.0), slopes(rows[0][2], 1.0)]
        values = [rows[row][0] - fitted[row] @ rows[row][1] for row in (0, 1)]
        total += chance * sum(values)
        moved = max(moved, abs(sum(values) - rows[0][0] - rows[1][0]))
    assert moved > 0.1  # the controls do something at all
    assert total == pytest.approx(truth, rel=1e-12)


def test_slopes_are_those_of_weighted_least_squares(random):
    tokens = 4000
    features = random.normal(0, 1, (2, tokens, 1)) + 3
    weights = random.uniform(1, 4, (tokens, 1))
    nll = 0.7 * features[0] + 0.3 * features[1] + 2 + random.normal(0, 0.5, (tokens, 1))
    found = slopes(normal_equations(weights, features, nll).sum(axis=0), tokens)
    columns = np.stack((features[0, :, 0], features[1, :, 0], np.ones(tokens)), axis=1)
    expected = np.linalg.lstsq(columns * weights, nll[:, 0] * weights[:, 0], rcond=None)[0][:2]
    # The prior weighs ten rows in four thousand.
    np.testing.assert_allclose(found, expected, atol=0.01)
    np.testing.assert_allclose(found, [0.7, 0.3], atol=0.05)


def test_with_nothing_seen_the_slopes_are_the_prior(random):
    np.testing.assert_allclose(slopes(np.zeros((4, 4)), 0.0), PRIOR_SLOPES)
    few = normal_equations(np.ones((1, 1)), np.full((2, 1, 1), 2.0), np.ones((1, 1)))[0]
    assert np.isfinite(slopes(few, 1.0)).all()


def test_history_is_a_shrunk_mean_of_earlier_draws():
    history = History(3, 4)
    rows = slice(1, 3)
    assert (history.feature(rows, 4) == 0).all()
    masked = np.array([[True, False, True, False], [False, False, True, True]])
    history.add(rows, masked, np.full((2, 4), 2.0))
    history.add(rows, masked & [True, False, False, True], np.full((2, 4), 1.0))
    expected = [[3 / 2.5, 0, 2 / 1.5, 0], [0, 0, 2 / 1.5, 3 / 2.5]]
    np.testing.assert_allclose(history.feature(rows, 4), expected, rtol=1e-6)
    assert history.feature(slice(0, 1), 3).tolist() == [[0, 0, 0]]


def test_unigram_counts_are_of_scored_tokens():
    tokens = np.array([0, 1, 1, 2, 1, 0, 2, 2])
    found = scored_unigram_nll(ScoredWindows(tokens, 4), 3)  # windows of 4, 4 and 2 tokens
    np.testing.assert_allclose(found, -np.log(np.array([2, 4, 4]) / 10))


def test_the_history_takes_off_what_unigrams_leave():
    """Four tokens a row have little to remember, so the gain is small here: 4 % was measured.

    `benchmarks/run.py estimator` measures it on a trained model.
    """
    from test_oracle import evaluator, stream

    from tiny_world import Oracle, random_joint

    oracle, ids = Oracle(random_joint(1)), stream(80 * 4 + 1, seed=3)
    with_history, without = [], []
    for seed in range(70):
        it = evaluator("mdm", ids, seed=seed, batch=500)
        for _ in range(8):
            it.add_draw(oracle)
        with_history.append(it.result().nll)
        for draw in it._draws:
            draw.controls[1] = 0
            draw.products[:, :, 1] = draw.products[..., 1] = 0
        without.append(it.result().nll)
    assert np.std(with_history) < np.std(without)

"""Estimates and their errors against brute force: enumeration, bootstrap, plain formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.estimates import Estimate, Layout, estimate, gap, gap_of_seeds


def layout(tokens, document=None, group=None):
    """One segment per row."""
    row = np.arange(len(tokens))
    return Layout(
        row=row,
        document=row if document is None else np.asarray(document),
        tokens=np.asarray(tokens),
        group=row if group is None else np.asarray(group),
    )


def exactly(at, values):
    """The estimate from one exact scoring."""
    return estimate(at, values, exact=True)


def test_the_mean_by_hand():
    """Two documents over three segments of two rows, two draws."""
    at = Layout(
        row=np.array([0, 0, 1]),
        document=np.array([0, 1, 1]),
        tokens=np.array([2, 1, 3]),
        group=np.array([0, 1]),
    )
    values = np.array([[4.0, 2.0, 6.0], [2.0, 3.0, 4.0]])
    found = estimate(at, values, exact=False)
    assert found.nll == (3.0 + 2.5 + 5.0) / 6
    # Rows are the groups: totals 6 and 5, and 6 and 4, over two draws.
    variance = (0.5 + 2.0) / 2
    assert found.error_draws == pytest.approx(np.sqrt(variance) / 6)
    assert found.unit_tokens.tolist() == [2, 4]
    assert found.unit_totals.tolist() == [3.0, 7.5]
    assert found.unit_variances.tolist() == [1.0, 0.25]


def test_exact_values_have_no_error_from_draws():
    values = np.array([[3.0, 5.0, 4.0]])
    found = exactly(layout([2, 2, 2]), values)
    assert found.error_draws == 0
    assert found.error_documents == found.error
    # Ratio estimator with equal sizes: the standard error of a mean.
    assert found.error == pytest.approx(np.std([1.5, 2.5, 2.0], ddof=1) / np.sqrt(3))


def test_a_single_draw_cannot_tell():
    values = np.array([[3.0, 5.0]])
    found = estimate(layout([2, 2]), values, exact=False)
    assert np.isnan(found.error_draws)
    assert np.isnan(found.unit_variances).all()
    assert found.error == found.error_documents


def test_one_document_is_judged_by_its_rows_and_one_row_by_nothing():
    values = np.array([[3.0, 5.0, 4.0]])
    at = layout([2, 2, 3], document=[0, 0, 0])
    assert exactly(at, values).unit_tokens.tolist() == [2, 2, 3]
    alone = exactly(layout([2]), values[:, :1])
    assert np.isnan(alone.error_documents)
    assert alone.error == 0


def test_empty_documents_do_not_count():
    values = np.array([[3.0, 0.0, 5.0]])
    at = replace(layout([2, 0, 2], group=[0, 1]), row=np.array([0, 1, 1]))
    found = exactly(at, values)
    assert found.unit_tokens.tolist() == [2, 2]


# --- errors from documents ---------------------------------------------------------------------


def test_the_document_error_is_the_bootstraps(random):
    documents = 400
    tokens = random.integers(1, 60, documents)
    totals = tokens * random.normal(3.0, 0.5, documents) + random.normal(0, 2, documents)
    found = exactly(layout(tokens), totals[None])
    drawn = random.integers(0, documents, (3000, documents))
    bootstrap = (totals[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)).std()
    assert found.error_documents == pytest.approx(bootstrap, rel=0.08)


def test_the_document_error_leaves_out_what_the_draws_explain(random):
    """Documents all alike, but noisy draws: nearly nothing remains for the documents."""
    documents, draws = 400, 4
    tokens = np.full(documents, 10)
    noisy = 30 + random.normal(0, 5, (draws, documents))
    at = layout(tokens)
    found = estimate(at, noisy, exact=False)
    assert found.error_draws == pytest.approx(5 / np.sqrt(draws * documents) / 10, rel=0.15)
    assert found.error_documents < 0.6 * found.error_draws
    # And if they do differ, both parts together are the whole spread.
    spread = random.normal(0, 3, documents)
    found = estimate(at, noisy + spread, exact=False)
    assert found.error_documents == pytest.approx(3 / np.sqrt(documents) / 10, rel=0.2)
    whole = (noisy + spread).mean(axis=0).std(ddof=1) / np.sqrt(documents) / 10
    assert found.error == pytest.approx(whole, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 50)), min_size=2, max_size=20))
def test_the_document_error_is_cochrans_formula(documents):
    tokens, totals = (np.array(column) for column in zip(*documents, strict=True))
    found = exactly(layout(tokens), totals[None])
    d, mean = len(tokens), totals.sum() / tokens.sum()
    squares = sum((total - mean * n) ** 2 for n, total in zip(tokens, totals, strict=True))
    expected = np.sqrt(d / (d - 1) * squares) / tokens.sum()
    assert found.error_documents == pytest.approx(expected, rel=1e-9, abs=1e-12)


# --- differences -------------------------------------------------------------------------------


def made(totals, tokens, variances=None, error_draws=0.0):
    variances = np.zeros(len(totals)) if variances is None else variances
    return Estimate(
        nll=float(np.sum(totals) / np.sum(tokens)),
        error_draws=error_draws,
        error_documents=float("nan"),
        unit_totals=np.asarray(totals, dtype=float),
        unit_tokens=np.asarray(tokens),
        unit_variances=np.asarray(variances, dtype=float),
    )


def test_a_paired_difference_is_that_of_the_documents_differences(random):
    documents = 300
    tokens = random.integers(1, 40, documents)
    hard = tokens * random.normal(3, 1, documents)
    a, b = hard + random.normal(0.1, 1, documents), hard + random.normal(0, 1, documents)
    found = gap(made(a, tokens), made(b, tokens))
    assert found.difference == pytest.approx((a.sum() - b.sum()) / tokens.sum())
    drawn = random.integers(0, documents, (3000, documents))
    bootstrap = ((a - b)[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)).std()
    assert found.error == pytest.approx(bootstrap, rel=0.08)
    alone = [exactly(layout(tokens), x[None]).error for x in (a, b)]
    assert found.error < 0.3 * np.hypot(*alone)  # pairing is worth it


def test_errors_of_draws_add_up():
    tokens = np.full(4, 10)
    a, b = made([30, 31, 32, 33], tokens), made([29, 30, 31, 32], tokens)
    assert gap(a, b).difference == pytest.approx(0.1)
    assert gap(a, b).error == 0
    noisy = replace(a, error_draws=0.03, unit_variances=np.full(4, 0.36))
    other = replace(b, error_draws=0.04)
    assert gap(noisy, other).error == pytest.approx(0.05)
    unknown = replace(a, error_draws=float("nan"), unit_variances=np.full(4, np.nan))
    assert gap(unknown, other).error == pytest.approx(0.04)


def test_other_documents_are_refused():
    with pytest.raises(ValueError, match="different validation sets"):
        gap(made([1, 2], [3, 4]), made([1, 2], [4, 3]))
    with pytest.raises(ValueError, match="different validation sets"):
        gap(made([1, 2], [3, 4]), made([1], [7]))


def test_seeds_add_their_own_error(random):
    """Against draws of everything: documents, what a seed adds to all of them, and noise."""
    tokens, hard = np.full(60, 50), random.normal(0, 40, 60)

    def seeds(nll, count):
        shifts = random.normal(0, 0.02, count)
        totals = [50 * (nll + shift) + hard + random.normal(0, 1, 60) for shift in shifts]
        zeros = np.zeros(60)
        return [Estimate(t.sum() / 3000, 0.0, np.nan, t, tokens, zeros) for t in totals]

    found = [gap_of_seeds(seeds(3.1, 3), seeds(3.0, 3)) for _ in range(1000)]
    spread = np.std([one.difference for one in found])
    assert np.sqrt(np.mean([one.error**2 for one in found])) == pytest.approx(spread, rel=0.1)
    inside = [one.interval()[0] < 0.1 < one.interval()[1] for one in found]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_one_seed_each_is_the_plain_difference(random):
    one, other = (
        Estimate(n, 0.01, 0.1, random.normal(n, 1, 20), np.full(20, 7), np.full(20, 0.1))
        for n in (3.0, 4.0)
    )
    assert gap_of_seeds([one], [other]) == gap(one, other)

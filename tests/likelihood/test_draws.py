"""Which noise level each row gets: one per slice of a group, each row's own level uniform."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from epochal.likelihood.draws import GROUP_ROWS, DrawPlan


@given(st.integers(1, 200), st.integers(0, 50), st.integers(0, 9))
def test_each_group_shares_out_its_slices(rows, seed, draw):
    plan = DrawPlan(rows, seed, stratified=True)
    levels, groups = plan.levels(draw), plan.groups()
    assert (np.diff(groups) >= 0).all()
    for group in np.unique(groups):
        mine = levels[groups == group]
        assert sorted(np.floor(mine * len(mine)).astype(int)) == list(range(len(mine)))
        assert len(mine) >= min(rows, GROUP_ROWS)
        assert len(mine) < 2 * GROUP_ROWS


def test_each_rows_level_is_uniform_over_draws():
    plan = DrawPlan(20, 3, stratified=True)
    levels = np.array([plan.levels(draw) for draw in range(2000)])
    for row in range(20):
        assert stats.kstest(levels[:, row], "uniform").pvalue > 1e-4
    # Draws do not depend on each other, rows of a group only a little (they avoid each other).
    assert abs(np.corrcoef(levels[1:, 0], levels[:-1, 0])[0, 1]) < 4 / np.sqrt(2000)
    assert -0.15 < np.corrcoef(levels[:, 0], levels[:, 1])[0, 1] < 0.05


@given(st.integers(1, 100), st.booleans())
def test_a_plan_is_a_pure_function(rows, stratified):
    a, b = (DrawPlan(rows, 7, stratified) for _ in range(2))
    assert np.array_equal(a.levels(2), b.levels(2))
    assert np.array_equal(a.keys(2), b.keys(2))
    assert not np.array_equal(a.levels(2), a.levels(3))
    assert not np.array_equal(a.keys(2), DrawPlan(rows, 8, stratified).keys(2))


def test_without_strata_rows_are_independent():
    plan = DrawPlan(5000, 1, stratified=False)
    assert np.array_equal(plan.groups(), np.arange(5000))
    assert stats.kstest(plan.levels(0), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(plan.levels(0), plan.levels(1))[0, 1]) < 4 / np.sqrt(5000)

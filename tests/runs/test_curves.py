"""Shapes of validation curves."""

from __future__ import annotations

import numpy as np
import pytest

from epochal.runs.curves import Curve, CurveShape, pareto_frontier, validation_curve
from made_runs import make_run


def curve(flops, nll):
    flops = np.asarray(flops, dtype=float)
    return Curve(flops / flops[0], flops / flops[-1], flops, np.asarray(nll, dtype=float))


def test_a_curve_that_turned_up():
    it = curve([1, 2, 3, 4, 5], [5.0, 4.0, 3.9, 3.95, 4.2])
    assert it.best == 2
    assert it.rise == pytest.approx(0.3)
    assert it.shape is CurveShape.OVERFITTED
    assert it.best_so_far().tolist() == [5.0, 4.0, 3.9, 3.9, 3.9]


def test_a_curve_that_still_falls():
    it = curve(range(1, 11), np.linspace(5, 4, 10))
    assert (it.best, it.rise, it.shape) == (9, 0, CurveShape.FALLING)


def test_a_curve_that_has_levelled_off():
    it = curve(range(1, 11), [5, 4.5, 4.2, 4.1, 4.05, 4.03, 4.02, 4.012, 4.011, 4.01])
    assert it.shape is CurveShape.FLAT


def test_the_first_of_equal_bests():
    assert curve([1, 2, 3], [4.0, 3.0, 3.0]).best == 1
    assert curve([1.0], [4.0]).shape is CurveShape.FLAT


def test_a_run_without_evaluations(tmp_path):
    run = make_run(tmp_path / "r", "ar", [5.0])
    assert validation_curve(run).nll.tolist() == [5.0]
    run.folder.metrics_file.unlink()
    assert validation_curve(run) is None


def test_evaluations_that_are_not_finite_are_left_out(tmp_path):
    run = make_run(tmp_path / "r", "ar", [5.0, float("nan"), 4.0, float("inf")])
    assert validation_curve(run).nll.tolist() == [5.0, 4.0]
    assert validation_curve(make_run(tmp_path / "s", "ar", [float("nan")], nll=4.0)) is None


def test_the_frontier_is_the_lowest_so_far_of_all_runs():
    flops, nll = pareto_frontier([curve([1, 2, 4], [5.0, 4.0, 3.0]), curve([1, 3], [4.5, 4.2])])
    assert flops.tolist() == [1, 2, 4]
    assert nll.tolist() == [4.5, 4.0, 3.0]

"""How far a law is trusted beyond its runs, and which runs it is fitted to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import law, make_points, runs, write_csv

import epochal
from epochal.cli.main import main
from epochal.errors import UserError
from epochal.results import note, to_json
from epochal.scaling.checks import optimistic_loss
from epochal.scaling.fit import fit_points
from epochal.scaling.law import read_laws, write_laws
from epochal.scaling.options import FitOptions
from epochal.scaling.planner import make_plan
from epochal.scaling.points import ENOUGH, LEARNING, DropReason, drop_unigram_level_runs

QUICK = FitOptions(bootstraps=0)


def fitted(points):
    return fit_points(points, QUICK).families["ar"]


def test_a_law_of_the_right_form_is_hardly_doubted():
    assert fitted(runs(law())).extrapolation_error < 0.02
    assert fitted(runs(law(), noise=0.002)).extrapolation_error < 0.3


def test_runs_that_bend_away_from_the_form_are_doubted_by_as_much_as_it_errs():
    """A loss that falls ever faster with compute: the interval reaches what comes next."""
    points = runs(law())
    bend = np.exp(-0.08 * np.log(points.flops / points.flops.min()).clip(0) ** 1.5 / 10)
    points = replace(points, loss=points.loss * bend)
    largest = points.flops > 0.05 * points.flops.max()
    fit = fitted(points.take(~largest))
    last = points.take(largest)
    where = (last.params, last.tokens, last.unique_tokens)
    error = np.abs(fit.predict(*where) - last.loss)
    assert (error > 0.02).any()
    assert (
        error <= fit.extrapolation_margin(*where) + 2 * fit.residuals.std() * last.loss
    ).mean() > 0.9


def test_within_the_runs_nothing_is_doubted_and_beyond_by_the_fall():
    known = replace(
        law(),
        extrapolation_error=0.5,
        fitted_range={"params": (1e7, 1e9), "tokens": (1e8, 1e10), "flops": (1e16, 6e18)},
    )
    assert known.extrapolation_margin(1e8, 1e10, 1e12) == 0
    fall = known.predict(1e8, 1e10, 1e12) - known.predict(1e8, 4e10, 1e12)
    assert known.extrapolation_margin(1e8, 4e10, 1e12) == pytest.approx(0.5 * fall)
    # A size and a length that were both seen, but not together: from the compute seen.
    seen = 6e18 / (6 * 1e9)
    fall = known.predict(1e9, seen, 1e12) - known.predict(1e9, 1e10, 1e12)
    assert known.extrapolation_margin(1e9, 1e10, 1e12) == pytest.approx(0.5 * fall)
    assert replace(known, extrapolation_error=0.0).extrapolation_margin(1e8, 4e10, 1e12) == 0


def test_doubt_widens_a_plan_and_is_kept_in_the_file(tmp_path):
    fit = fit_points(runs(law(), noise=0.002), FitOptions(bootstraps=50)).families["ar"]
    flops = 10 * fit.fitted_range["flops"][1]
    plain, doubted = (
        make_plan({"ar": one}, 1e10, flops, vocabulary=50257).families[0].interval
        for one in (fit, replace(fit, extrapolation_error=1.0))
    )
    assert doubted[0] < plain[0] - 0.001
    assert doubted[1] > plain[1] + 0.001
    file = tmp_path / "law.toml"
    write_laws(file, [replace(fit, extrapolation_error=0.7)])
    assert read_laws(file)["ar"].extrapolation_error == 0.7
    file.write_text(
        file.read_text().replace("extrapolation_error = 0.7", "extrapolation_error = -1")
    )
    with pytest.raises(UserError, match="extrapolation_error of ar is -1"):
        read_laws(file)


def made(losses, family="ar"):
    n = len(losses)
    return make_points(np.full(n, 1e6), np.arange(1, n + 1) * 1e5, None, losses, family=family)


def test_runs_above_the_level_of_token_frequencies_are_left_out():
    losses = [5.6, 5.3, *np.linspace(5.1, 4.0, 10)]
    kept, early = drop_unigram_level_runs(made(losses), 5.2)
    assert kept.loss.max() < 5.2
    assert early == {}
    assert [d.loss for d in kept.dropped] == [5.6, 5.3]
    assert kept.dropped[0].reason == note(DropReason.UNIGRAM_LEVEL, unigram_nll=5.2)


def test_a_family_that_has_not_begun_to_learn_is_early_and_keeps_its_runs():
    few = [5.2 - LEARNING - 0.01] * (ENOUGH - 1)
    kept, early = drop_unigram_level_runs(made([5.6, 5.25, *[5.15] * 9, *few]), 5.2)
    assert len(kept) == 11 + len(few)
    assert early == {"ar": few[0]}
    # One that has begun, with too few runs for a law, keeps them all and is not early.
    kept, early = drop_unigram_level_runs(made([5.6, 5.3, 5.25, 4.9, 4.8, 4.7]), 5.2)
    assert len(kept) == 6
    assert early == {}


def test_the_steepest_fall_is_twice_that_of_the_last_factor_of_compute():
    points = make_points(np.full(4, 1e6), [1e6, 2e6, 4e6, 8e6], None, [5.0, 4.8, 4.5, 4.0])
    most = points.flops.max()
    assert optimistic_loss(points, 2 * most) == pytest.approx(4.0 - 2 * 0.5)
    assert optimistic_loss(points, 4 * most) == pytest.approx(4.0 - 2 * 0.8)
    assert optimistic_loss(points, 64 * most) == pytest.approx(
        4.0 - 2 * 2 * 1.0
    )  # six steps, three seen
    assert optimistic_loss(points, most / 2) == 4.0


def test_a_fit_says_how_far_it_may_be_trusted_beyond_its_runs(tmp_path, capsys):
    """Through the command, its file and the plan: the same error, and wider intervals."""
    points = runs(law(), noise=0.004, seed=3)
    found = epochal.fit(points, FitOptions(bootstraps=20)).families["ar"]
    assert found.extrapolation_error > 0
    assert to_json(found)["extrapolation_error"] == found.extrapolation_error
    epochal.fit(points, FitOptions(bootstraps=20)).save(tmp_path / "law.json")
    assert read_laws(tmp_path / "law.json")["ar"].extrapolation_error == found.extrapolation_error
    write_csv(tmp_path / "p.csv", points)
    with pytest.raises(SystemExit):
        main(["fit", str(tmp_path / "p.csv"), "--bootstraps", "20"])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"the predicted drop in loss was wrong by up to {100 * found.extrapolation_error:.3g} %"
        in said
    )

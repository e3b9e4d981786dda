"""Fits: planted constants come back, published numbers are met, what is unknown is said."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import CONSTANTS, constants, law, make_points, runs, write_csv

import epochal
from epochal.errors import DataError, OptionError
from epochal.results import note, to_json
from epochal.scaling.checks import isoflop
from epochal.scaling.estimate import ConstantStatus
from epochal.scaling.fit import fit_points
from epochal.scaling.forms import FORMS
from epochal.scaling.optimum import optima
from epochal.scaling.options import FitOptions
from epochal.scaling.points import DropReason
from epochal.scaling.read import read_csv

QUICK = FitOptions(bootstraps=0)
GRID = Path(__file__).parents[1] / "data_files" / "paper_grid_100M.csv"


def fitted(points, **settings):
    return fit_points(points, FitOptions(**{"bootstraps": 0, **settings})).families["ar"]


@pytest.mark.parametrize("name", list(FORMS))
def test_without_noise_the_constants_come_back(name):
    epochs = (1,) if name == "chinchilla" else (1, 4, 10, 30, 90)
    found = fitted(runs(law(name), epochs=epochs), law=name, keep_overfitted=True)
    for constant, value in constants(name).items():
        assert found.constants[constant] == pytest.approx(value, rel=1e-6), constant


def covered(name, seeds, noise):
    """Share of seeds whose interval holds the planted value, per constant."""
    hits = dict.fromkeys(FORMS[name].constants, 0)
    for seed in seeds:
        points = runs(law(name), noise=noise, seed=seed, budgets=(4e7, 3e8))
        found = fitted(points, law=name, bootstraps=100, seed=seed)
        for constant in hits:
            low, high = found.intervals[constant]
            hits[constant] += (low or 0.0) <= CONSTANTS[constant] <= (high or np.inf)
    return {constant: hit / len(seeds) for constant, hit in hits.items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_planted_constants_lie_within_their_intervals_for_many_seeds():
    shares = covered("data-constrained", range(40), 0.007)
    assert min(shares.values()) >= 0.85, shares


TABLE = {  # samples/scaling/README.md: all runs, both exponents free
    "c4": (34, 122.55, 242.61, 1.6200, 0.2526, 0.2622, 5.2995e-4),
    "redpajama": (35, 106.09, 297.98, 1.7202, 0.2431, 0.2730, 4.2651e-4),
    "refinedweb": (35, 76.77, 384.16, 1.7013, 0.2226, 0.2898, 4.7573e-4),
}


@pytest.mark.parametrize("data", list(TABLE))
def test_public_points(shared, data):
    rows, *constants, objective = TABLE[data]
    found = epochal.fit(
        shared / "samples/scaling/gadre_overtraining.csv",
        FitOptions(
            law="chinchilla",
            columns={"val_loss": "loss_c4_val"},
            where={"train_data": data},
            bootstraps=0,
        ),
    ).families["ar"]
    assert len(found.points) == rows
    assert found.objective <= objective * (1 + 1e-5)
    assert list(found.constants.values()) == pytest.approx(constants, rel=1e-3)


def test_published_errors_of_extrapolation(shared):
    """Gadre et al.: five small runs, least squares in loss, one exponent → two large runs."""
    path = shared / "samples/scaling/gadre_overtraining.csv"
    points = read_csv(path, {"val_loss": "loss_c4_val"}, {"train_data": "redpajama"})
    multiple = points.tokens / (20 * points.params)
    small = np.isclose(multiple, 1, rtol=0.02) & (points.params < 5e8)
    small |= np.isclose(multiple, 16, rtol=0.02) & (points.params < 2e7)
    assert small.sum() == 5
    found = fitted(
        points.take(small), law="chinchilla", tie_exponents=True, huber=np.inf, residual="loss"
    )
    assert found.constants["A"] == pytest.approx(166.21, rel=1e-3)
    assert found.constants["alpha"] == found.constants["beta"] == pytest.approx(0.27285, abs=1e-4)
    for low, high, times, error in ((1.2e9, 2e9, 32, 0.7103), (5e9, 8e9, 1, 0.7320)):
        at = (points.params > low) & (points.params < high) & np.isclose(multiple, times, rtol=0.02)
        assert at.sum() == 1
        said = found.predict(points.params[at], points.tokens[at])
        assert 100 * abs(said / points.loss[at] - 1) == pytest.approx(error, abs=2e-4)


def test_one_epoch_says_nothing_of_half_lives():
    found = fitted(runs(law(), noise=0.005, epochs=(1,)))
    assert found.constants["R_D"] is None
    assert found.constants["R_N"] is None
    assert found.constant_status["R_D"].code is ConstantStatus.NO_REPETITION
    assert found.intervals["R_D"] == (None, None)
    with pytest.raises(DataError, match="penalty on repetition"):
        fitted(runs(law(), epochs=(1,)), law="overfitting")


def test_a_half_life_beyond_the_runs_is_open_above():
    found = fitted(runs(law(R_D=500.0), noise=0.01, epochs=(1, 2, 4)), bootstraps=60)
    low, high = found.intervals["R_D"]
    assert high is None
    assert 1 < low < 500
    assert found.constant_status["R_D"] == note(ConstantStatus.AT_LEAST, low=low)


def test_small_models_say_nothing_of_r_n():
    found = fitted(runs(law(), sizes=(5e4, 1e5, 2e5, 4e5), noise=0.002))
    assert found.constants["R_N"] is None
    assert found.constant_status["R_N"].code is ConstantStatus.NO_LARGE_MODELS
    assert found.constants["R_D"] == pytest.approx(31.2, rel=0.2)


def test_every_minimum_within_a_percent_is_told():
    found = fitted(ar_grid())
    assert len(found.minima) >= 2
    best = found.minima[0]["objective"]
    assert best == pytest.approx(found.objective)
    assert all(best <= m["objective"] <= 1.01 * best for m in found.minima)


def test_predictions_stand_changes_that_do_not_matter():
    points = runs(law(), noise=0.005)
    base = fitted(points)
    mixed = np.random.default_rng(3).permutation(len(points))
    at = (np.array([3e8, 1e9]), np.array([2e9, 9e10]), np.array([1e8, 3e8]))
    assert fitted(points.take(mixed)).predict(*at) == pytest.approx(base.predict(*at), rel=1e-5)
    thousand = make_points(
        points.params, points.tokens / 1e3, points.unique_tokens / 1e3, points.loss
    )
    in_thousands = fitted(thousand, law="data-constrained").predict(at[0], at[1] / 1e3, at[2] / 1e3)
    assert in_thousands == pytest.approx(base.predict(*at), rel=1e-4)


def test_two_stages_and_held_constants():
    staged = fitted(runs(law(R_N=1e9)), two_stage=True)
    assert staged.constants["R_D"] == pytest.approx(31.2, rel=0.15)
    assert staged.constant_status["A"].code is ConstantStatus.FIXED_FROM_STAGE_1
    points = runs(law())
    five = {name: CONSTANTS[name] for name in ("A", "B", "E", "alpha", "beta")}
    held = fit_points(points, replace(QUICK, fix={"ar": five})).families["ar"]
    assert held.constants["R_D"] == pytest.approx(31.2, rel=1e-6)
    assert held.constants["A"] == pytest.approx(336.0, rel=1e-12)
    with pytest.raises(DataError, match="no constant 'R_X'"):
        fit_points(points, replace(QUICK, fix={"R_X": 1.0}))


FIGURE_5 = {
    "ar": {"A": 471.0, "B": 783.0, "E": 1.888, "alpha": 0.339, "beta": 0.309},
    "mdm": {"A": 310.0, "B": 1074.0, "E": 2.006, "alpha": 0.315, "beta": 0.300},
}


@pytest.mark.parametrize(
    ("keep", "family", "r_d", "r_n", "r2"),
    [
        (True, "mdm", (400, 425), (700, 780), 0.946),
        (True, "ar", (38, 43), (10, 13), 0.61),
        (False, "ar", (67, 111), (23, 29), 0.89),
    ],
)
def test_the_papers_grid_with_its_own_constants_held(keep, family, r_d, r_n, r2):
    """Our earlier sanity fit with other code (paper.md §5, end)."""
    report = epochal.fit(GRID, FitOptions(fix=FIGURE_5, keep_overfitted=keep, bootstraps=0))
    found = report.families[family]
    assert r_d[0] < found.constants["R_D"] < r_d[1]
    assert r_n[0] < found.constants["R_N"] < r_n[1]
    assert found.r2 == pytest.approx(r2, abs=0.01)


def ar_grid():
    """The paper's 68 AR runs on 100M tokens."""
    return read_csv(GRID).of_family("ar")


def test_overfitted_runs_are_listed_and_left_out_of_monotone_laws():
    found = fitted(ar_grid())
    assert len(found.dropped) + len(found.points) == 68
    assert len(found.dropped) > 10
    assert all(d.reason.code is DropReason.OVERFITTED for d in found.dropped)
    assert all(
        d.reason.values["above"] > d.reason.values["threshold"] == 0.03 for d in found.dropped
    )
    assert len(fitted(ar_grid(), law="penalty").points) == 68


def test_a_curve_that_turns_is_described_better_by_a_law_that_can():
    can = fitted(ar_grid(), law="penalty")
    cannot = fitted(ar_grid(), keep_overfitted=True)
    assert can.objective < 0.5 * cannot.objective


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (1e8,)}, "all runs have 100M parameters"),
        ({"budgets": (1e8,), "epochs": (1,)}, "all runs saw 100M tokens"),
        ({"sizes": (1e7, 1e8), "budgets": (1e8,), "epochs": (1, 2)}, "4 points cannot determine"),
    ],
)
def test_points_that_cannot_determine_the_law_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        fitted(runs(law(), **changes), law="data-constrained")


def test_a_refusal_counts_what_was_left_out():
    lonely = make_points([1e6], [6e6], [1e5], [3.5])
    with pytest.raises(
        DataError,
        match=r"ar: 0 points cannot .*; 1 were left out of the fit;",
    ):
        fit_points(lonely, QUICK)
    with pytest.raises(DataError) as nothing_left_out:
        fit_points(make_points([1e6], [1e6], [1e6], [3.5]), QUICK)
    assert "1 points cannot" in str(nothing_left_out.value)
    assert "left out" not in str(nothing_left_out.value)


def test_one_compute_budget_is_refused():
    sizes = np.geomspace(1e7, 1e9, 9)
    points = make_points(
        sizes, 1e19 / 6 / sizes, None, law("chinchilla").predict(sizes, 1e19 / 6 / sizes)
    )
    with pytest.raises(DataError, match="one compute budget"):
        fitted(points, law="chinchilla")


def test_same_seed_same_intervals():
    points = runs(law(), noise=0.01, budgets=(5e7, 1e8))
    first, second = (fitted(points, bootstraps=40, seed=7) for _ in range(2))
    assert first.intervals == second.intervals
    assert fitted(points, bootstraps=40, seed=8).intervals != first.intervals


def test_a_family_that_cannot_be_fitted_does_not_stop_the_other():
    points = runs(law(), noise=0.003)
    few = ["mdm" if index < 3 else "ar" for index in range(len(points))]
    mixed = make_points(points.params, points.tokens, points.unique_tokens, points.loss, family=few)
    report = fit_points(mixed, QUICK)
    assert set(report.families) == {"ar"}
    assert "3 points cannot determine" in report.refused["mdm"]
    assert to_json(report)["refused"] == report.refused
    with pytest.raises(DataError, match="mdm: 3 points"):
        fit_points(mixed.of_family("mdm"), QUICK)


def test_intervals_of_predictions_hold_the_truth():
    planted = law()
    found = fitted(runs(planted, noise=0.005), bootstraps=100)
    at = (np.array([5e7, 3e8, 2e9]), np.array([1e9, 6e9, 9e10]), np.array([5e7, 1e8, 1e9]))
    low, high = found.predict_interval(*at)
    truth = planted.predict(*at)
    assert (low < truth).all()
    assert (truth < high).all()
    assert (high - low < 0.2).all()


def test_isoflop_parabolas():
    """Centred budgets of a symmetric law: the exponent is β/(α+β) = ½, the minimum the law's."""
    planted = law("chinchilla", alpha=0.33, beta=0.33)
    rows = []
    for flops in (1e18, 1e19, 1e20):
        best = float(optima(planted, flops, 1e13).params[0])
        rows += [(n, flops / 6 / n) for n in best * np.geomspace(0.25, 4, 7)]
    n, d = np.array(rows).T
    found = isoflop(make_points(n, d, None, planted.predict(n, d)))
    assert [len(p.params) for p in found.parabolas] == [7, 7, 7]
    assert found.params_exponent == pytest.approx(0.5, abs=1e-3)
    assert found.params_exponent + found.tokens_exponent == pytest.approx(1.0)
    for parabola in found.parabolas:
        best = float(optima(planted, parabola.flops, 1e13).params[0])
        assert parabola.optimal_params == pytest.approx(best, rel=0.02)
        assert parabola.flags == ()
    assert isoflop(make_points([1e7, 1e8], [1e9, 1e8], None, [4.0, 4.1])) is None


def test_families_are_resampled_apart():
    """Equal grids with equal noise: had they equal draws, the resamples would be the same."""
    points = runs(law(), noise=0.01)
    both = make_points(
        np.tile(points.params, 2),
        np.tile(points.tokens, 2),
        np.tile(points.unique_tokens, 2),
        np.tile(points.loss, 2),
        family=["ar"] * len(points) + ["mdm"] * len(points),
    )
    found = fit_points(both, FitOptions(bootstraps=100)).families
    ar, mdm = (f.samples[0][:, f.form.index("beta")] for f in (found["ar"], found["mdm"]))
    assert ar.mean() == pytest.approx(mdm.mean(), abs=3 * ar.std())
    assert abs(np.corrcoef(ar, mdm)[0, 1]) < 0.4


def test_no_limit_is_valid_json_and_toml(tmp_path, capsys):
    from epochal.cli.main import main

    csv = write_csv(tmp_path / "points.csv", runs(law()))
    out = tmp_path / "law.toml"
    words = ["--max-epochs", "inf", "--bootstraps", "5", "--out", str(out), "--json"]
    with pytest.raises(SystemExit) as end:
        main(["fit", str(csv), *words])
    assert end.value.code == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["options"]["max_epochs"] is None
    tomllib.loads(out.read_text())
    with pytest.raises(SystemExit) as end:
        main(["fit", str(csv), "--overfit-threshold", "nan"])
    assert end.value.code == 2
    assert "--overfit-threshold nan: give a positive number" in capsys.readouterr().err
    for huber in (-1.0, float("nan")):
        with pytest.raises(OptionError, match=r"huber = .*: give a positive number"):
            epochal.fit(csv, FitOptions(huber=huber))


def test_both_families_refused_for_one_reason_say_it_once():
    with pytest.raises(DataError) as error:
        epochal.fit(GRID, FitOptions(fix={"R_X": 1.0}, bootstraps=0))
    assert str(error.value).count("R_X") == 1

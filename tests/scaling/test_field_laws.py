"""Laws of the field: closed optima, published constants, what repeating costs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import constants, join, law, runs, write_csv

import epochal
from epochal.cli.main import main
from epochal.errors import DataError
from epochal.report.text import describe
from epochal.report.text.fit import shared_floor
from epochal.scaling.choose import choose_law
from epochal.scaling.crossing import critical_compute
from epochal.scaling.estimate import ConstantStatus, point_fit
from epochal.scaling.fit import fit_points
from epochal.scaling.forms import FORMS
from epochal.scaling.identified import unidentified
from epochal.scaling.law import law_from_constants, read_laws
from epochal.scaling.optimum import best_length, optima
from epochal.scaling.options import FitOptions, PlanOptions
from epochal.scaling.plan import read_preset
from epochal.scaling.read import read_csv
from epochal.scaling.repetition import PenaltyNote

GRID = Path(__file__).parents[1] / "data_files" / "paper_grid_100M.csv"
QUICK = FitOptions(bootstraps=0)
OPTIMA = (
    (10e6, (145e6, 171), (43e6, 235)),
    (17e6, (145e6, 151), (52e6, 268)),
    (29e6, (217e6, 131), (62e6, 301)),
    (49e6, (217e6, 157), (79e6, 318)),
    (82e6, (166e6, 404), (96e6, 352)),
    (139e6, (417e6, 465), (119e6, 385)),
)
"""Quokka, Fig. 16: U, (N, epochs) measured, and by their equation 15."""
SIZES = (7e6, 5e7, 3e8, 2e9)
TRADED = ("B", "beta", "p_e", "c_p", "m_p")
"""With one U, beta is only seen in beta·p_e and beta/c_p^gamma, and U^m_p in c_p."""
ADDITIVE = {
    "A": 145962.2,
    "B": 61.1,
    "E": 1e-4,
    "alpha": 0.73,
    "beta": 0.13,
    "P": 0.0058,
    "delta": 4.49,
    "kappa": 0.43,
}


@pytest.mark.parametrize(("params", "unique"), [(3e8, 1e8), (1e9, 1e8), (5e7, 3e7)])
def test_the_linear_penaltys_best_epoch_in_closed_form(params, unique):
    """dL/dR = 0: (1 + R)^(β + 1) = β·B·U^(1 − β)/(P·N)."""
    planted = law("linear-penalty")
    c = constants("linear-penalty")
    closed = (c["beta"] * c["B"] * unique ** (1 - c["beta"]) / (c["P"] * params)) ** (
        1 / (c["beta"] + 1)
    )
    assert closed > 2
    assert best_length(planted, params, unique) / unique == pytest.approx(closed, rel=1e-4)


def test_the_penaltys_best_epoch_far_from_the_first():
    """R ≫ 1: e^(β + δ) = β·B·U^(κ − β)/(δ·P·N^κ)."""
    planted = law("penalty", P=1e-4, delta=1.3)
    c = planted.constants
    params, unique = 3e7, 1e9
    closed = (
        c["beta"] * c["B"] * unique ** (c["kappa"] - c["beta"]) / (1.3e-4 * params ** c["kappa"])
    ) ** (1 / (c["beta"] + 1.3))
    assert best_length(planted, params, unique) / unique == pytest.approx(closed, rel=0.01)


@pytest.mark.parametrize("name", ["penalty", "linear-penalty", "quokka-additive", "quokka"])
def test_nothing_is_added_at_one_epoch_or_less(name):
    c = constants(name)
    for tokens, unique in ((1e9, 1e9), (1e9, 3e9)):
        plain = c["E"] + c["A"] / 3e8 ** c["alpha"] + c["B"] / tokens ** c["beta"]
        assert law(name).predict(3e8, tokens, unique) == pytest.approx(plain, rel=1e-12)


def test_the_penalty_by_hand():
    """E 2, A/N 0.25, B/D 0.125, and 0.01 · 3² · 4^0.5 = 0.18."""
    given = {"A": 1e6, "B": 1e6, "E": 2.0, "alpha": 1.0, "beta": 1.0}
    whole = law_from_constants("penalty", given | {"P": 0.01, "delta": 2.0, "kappa": 0.5})
    assert whole.predict(8e6, 8e6, 2e6) == pytest.approx(2.0 + 0.125 + 0.125 + 0.01 * 9 * 2)
    linear = law_from_constants("linear-penalty", given | {"P": 0.01})
    assert linear.predict(8e6, 8e6, 2e6) == pytest.approx(2.25 + 0.01 * 3 * 4)


def test_constants_of_earlier_names_are_read(tmp_path):
    file = tmp_path / "law.toml"
    file.write_text(
        '[ar]\nlaw = "penalty"\nA = 300.0\nB = 700.0\nE = 1.9\nalpha = 0.3\nbeta = 0.3\n'
        "K = 0.01\ngamma = 0.8\nkappa = 0.5\n"
    )
    found = read_laws(file)["ar"].constants
    assert (found["P"], found["delta"]) == pytest.approx((0.01, 0.8))
    fix = {"K": 0.01, "gamma": 0.8}
    fit = fit_points(runs(law("penalty")), FitOptions(law="penalty", fix=fix, bootstraps=0))
    assert fit.families["ar"].constants["delta"] == pytest.approx(0.8)


def test_a_penalty_that_punishes_the_first_repetition_is_told():
    """Not the saturating law, whose delta is another exponent."""
    below = runs(law("saturating", delta=0.6))
    fit = fit_points(below, FitOptions(law="saturating", bootstraps=0)).families["ar"]
    assert PenaltyNote.FIRST_REPEAT_PUNISHED not in {one.code for one in fit.notes}

    def codes(delta):
        points = runs(law("penalty", delta=delta))
        found = fit_points(points, FitOptions(law="penalty", bootstraps=0)).families["ar"]
        return {one.code: one for one in found.notes}

    told = codes(0.6)[PenaltyNote.FIRST_REPEAT_PUNISHED]
    assert told.values["delta"] == pytest.approx(0.6)
    assert "delta = 0.6 is below 1" in describe(told)
    assert PenaltyNote.FIRST_REPEAT_PUNISHED not in codes(1.2)


def test_quokkas_epoch_law_predicts_its_optima_as_printed():
    """Their own predictions within 8 % of epochs (printed exponents are rounded) and 3 % of N."""
    planted = read_preset("quokka")["mdm"]
    for unique, _, (params, epochs) in OPTIMA:
        best = optima(planted, 1e22, unique)
        assert best.params[0] == pytest.approx(params, rel=0.06)
        assert best.tokens[0] / unique == pytest.approx(epochs, rel=0.09)


def test_quokkas_measured_optima_as_far_as_its_law_meets_them():
    """The law undershoots sizes by 1.7 to 3.5 and misses epochs by 0.8 to 2.1, as its authors
    warn; the loss at the measured optimum is within 0.21 nats of the predicted one."""
    planted = read_preset("quokka")["mdm"]
    for unique, (params, epochs), _ in OPTIMA:
        best = optima(planted, 1e22, unique)
        assert 1.6 < params / best.params[0] < 3.6
        assert 0.75 < best.tokens[0] / unique / epochs < 2.2
        there = planted.predict(params, epochs * unique, unique)
        assert 0 < there - best.loss[0] < 0.21


def test_quokkas_stationary_epoch_in_closed_form():
    """p_e·(e − 1)/e = g·((e − 1)/e_p)^g with g = gamma: e near e_p·(p_e/g)^(1/g) for many."""
    planted = read_preset("quokka")["mdm"]
    e_p = 254.35 * 1e9**0.39 / 1e9**0.55
    best = best_length(planted, 1e9, 1e9) / 1e9
    assert 1.49 * (best - 1) / best == pytest.approx(0.4 * ((best - 1) / e_p) ** 0.4, rel=1e-4)
    assert best == pytest.approx(e_p * (1.49 / 0.4) ** 2.5, rel=0.02)


def test_quokkas_second_law_takes_decimal_logarithms():
    """At the measured optima both laws agree within 0.2 nats; with natural logarithms the second
    would be at 19 nats and more."""
    second, first = law_from_constants("quokka-additive", ADDITIVE), read_preset("quokka")["mdm"]
    for unique, (params, epochs), _ in OPTIMA:
        at = (params, epochs * unique, unique)
        assert second.predict(*at) == pytest.approx(float(first.predict(*at)), abs=0.2)
        penalty = 0.0058 * (params / unique) ** 0.43 * math.log(epochs) ** 4.49
        assert penalty > 15
        best = optima(second, 1e22, unique)
        assert 1.9 < params / best.params[0] < 5.5
        assert 1.15 < best.tokens[0] / unique / epochs < 2.7


def test_quokkas_preset_plans():
    report = epochal.plan(1e8, 1e20, PlanOptions(laws="quokka"))
    assert [plan.family for plan in report.families] == ["mdm"]
    assert any("Quokka" in describe(one) for one in report.notes)


def test_the_grids_preset_crosses_where_the_papers_runs_do():
    """The first diffusion run below the best AR run of no more compute; the paper's own law, with
    the R_D and R_N that it prints, puts the crossing at four times that."""
    points, preset = read_csv(GRID), read_preset("paper-grid")
    ar, mdm = (points.of_family(name) for name in ("ar", "mdm"))
    wins = [
        flops
        for flops, loss in zip(mdm.flops, mdm.loss, strict=True)
        if loss < ar.loss[ar.flops <= flops].min()
    ]
    seen = min(wins)
    assert seen == pytest.approx(2.6e19, rel=0.01)
    unique = float(points.unique_tokens[0])
    found = critical_compute(preset["ar"], preset["mdm"], unique)
    assert found.leaders == ["ar", "mdm"]
    assert found.crossings[0] == pytest.approx(seen, rel=0.15)
    assert found.interval[0] < seen < found.interval[1] < 3.2e19
    printed = read_preset("paper")
    late = critical_compute(printed["ar"], printed["mdm"], unique)
    assert 3 < late.interval[0] / seen < late.crossings[0] / seen < 5
    for family, best in (("ar", ar), ("mdm", mdm)):  # runs scatter by 0.05 nats
        law = preset[family]
        assert optima(law, 2e20, unique).loss[0] == pytest.approx(best.loss.min(), abs=0.05)
        error = np.abs(law.predict(best.params, best.tokens, best.unique_tokens) / best.loss - 1)
        assert np.median(error) < 0.02


def test_the_grids_preset_is_what_a_fit_of_the_grid_gives():
    fix = {"delta": 1.0}
    fits = fit_points(read_csv(GRID), FitOptions(law="penalty", fix=fix, bootstraps=0)).families
    for family, preset in read_preset("paper-grid").items():
        for name, value in preset.constants.items():
            assert fits[family].constants[name] == pytest.approx(value, rel=1e-3)
        assert {len(one) for one in preset.samples} == {100}
    report = epochal.plan(1e8, 1e20, PlanOptions(laws="paper-grid"))
    assert report.winner == "mdm"
    assert any("all runs of the grid have 100M unique tokens" in describe(n) for n in report.notes)


def test_the_saturating_law_between_its_ends():
    planted = law("saturating")
    c = constants("saturating")
    assert planted.predict(1e-40, 1e-40, 1e-40) == pytest.approx(c["L0"])
    assert planted.predict(1e30, 1e60, 1e60) == pytest.approx(c["E"], rel=1e-6)
    plain = law("chinchilla").predict(1e13, 1e15)  # small terms: Chinchilla's law
    far = planted.predict(1e13, 1e15, 1e18)
    overfit = c["C"] * 1e13 ** c["gamma"] / 1e18 ** c["delta"]
    assert far == pytest.approx(float(plain) + overfit, abs=2e-3)


def test_the_uninformed_loss_is_given_not_fitted():
    points = runs(law("saturating"))
    found = fit_points(points, FitOptions(law="saturating", bootstraps=0)).families["ar"]
    assert found.constants["L0"] == pytest.approx(math.log(50257))
    assert found.constant_status["L0"].code is ConstantStatus.LOG_VOCABULARY
    unknown = replace(points, vocabulary=None)
    with pytest.raises(DataError, match="fix L0 at ln V or the unigram entropy"):
        fit_points(unknown, FitOptions(law="saturating", bootstraps=0))
    given = FitOptions(law="saturating", fix={"L0": 9.0}, bootstraps=0)
    assert fit_points(unknown, given).families["ar"].constants["L0"] == pytest.approx(9.0)


def test_constants_that_runs_of_one_budget_do_not_identify():
    points = runs(law("quokka"), noise=0.003, budgets=(1e8,), epochs=(1, 4, 30, 300), sizes=SIZES)
    fit = point_fit(points, "ar", FORMS["quokka"], QUICK)
    assert unidentified(fit.problem, fit.constants[0]) == TRADED
    choice = choose_law(points, "ar", QUICK)
    assert choice.law != "quokka"
    told = {one.law: one.unidentified for one in choice.candidates}
    assert told["quokka"] == TRADED
    several = runs(law("quokka"), noise=0.003)
    fit = point_fit(several, "ar", FORMS["quokka"], QUICK)
    assert unidentified(fit.problem, fit.constants[0]) == ()


def test_a_penalty_without_effect_is_not_identified(tmp_path, capsys):
    free = runs(law("chinchilla"), budgets=(4e7, 3e8), sizes=SIZES)
    fit = point_fit(free, "ar", FORMS["linear-penalty"], QUICK)
    assert unidentified(fit.problem, fit.constants[0]) == ("P",)
    choice = choose_law(free, "ar", QUICK)
    assert choice.law == "data-constrained"
    path = write_csv(tmp_path / "p.csv", free)
    with pytest.raises(SystemExit):
        main(["fit", str(path), "--law", "auto", "--bootstraps", "0"])
    assert "not identified: P" in capsys.readouterr().out


def test_one_floor_for_all_families():
    """The floor that both families were planted with is found and supported; of two it is not."""
    second = {"A": 250.0, "B": 1000.0, "R_D": 490.0, "R_N": 1200.0}
    alike = join(runs(law(), 0.005, 1), runs(law(family="mdm", **second), 0.005, 2))
    report = fit_points(alike, FitOptions(share_floor=True, bootstraps=0))
    floor = report.floor
    assert floor.supported
    low, high = floor.interval
    assert low < 1.85 < high
    assert low < floor.value < high
    alone = fit_points(alike, QUICK).families
    for family, fit in report.families.items():
        assert fit.constants["E"] == pytest.approx(floor.value)
        assert fit.constant_status["E"].code is ConstantStatus.FIXED
        assert floor.separate[family] == pytest.approx(alone[family].constants["E"], rel=1e-6)
        # What the sum of misfits is at its minimum: no family is better than alone.
        assert fit.objective >= alone[family].objective
    apart = join(runs(law(), 0.005, 1), runs(law(family="mdm", E=2.4, **second), 0.005, 2))
    other = fit_points(apart, FitOptions(share_floor=True, bootstraps=0)).floor
    assert not other.supported
    assert other.statistic > other.limit == pytest.approx(3.841, abs=1e-3)
    assert "contradict one floor" in shared_floor(other)


def test_without_noise_the_shared_floor_is_the_planted_one():
    pair = join(runs(law("chinchilla")), runs(law("chinchilla", "mdm", A=250.0, B=1000.0)))
    options = FitOptions(law="chinchilla", share_floor=True, max_epochs=100.0, bootstraps=0)
    assert fit_points(pair, options).floor.value == pytest.approx(1.85, rel=1e-3)


@pytest.mark.parametrize("name", FORMS)
def test_a_floor_can_be_shared_with_any_law(name):
    epochs, budgets = ((1,) if name == "chinchilla" else (1, 4, 30, 300)), (2.5e7, 1e8, 1e9, 5e9)
    grid = {"epochs": epochs, "budgets": budgets, "sizes": SIZES}
    parts = [
        runs(law(name, family, A=a), 0.002, seed, **grid)
        for seed, (family, a) in enumerate((("ar", 336.0), ("mdm", 250.0)), start=11)
    ]
    options = FitOptions(law=name, share_floor=True, bootstraps=0)
    report = fit_points(replace(join(*parts), vocabulary=50257), options)
    low, high = report.floor.interval
    assert (low or 0) < 1.85 < (high or 9)
    assert report.floor.supported
    assert {fit.constants["E"] for fit in report.families.values()} == {report.floor.value}


def test_a_floor_that_cannot_be_shared_is_refused():
    with pytest.raises(DataError, match="two or more families"):
        fit_points(runs(law()), FitOptions(share_floor=True, bootstraps=0))
    pair = join(runs(law()), runs(law(family="mdm")))
    with pytest.raises(DataError, match="E is fixed"):
        fit_points(pair, FitOptions(share_floor=True, fix={"E": 1.8}, bootstraps=0))
    with pytest.raises(DataError, match="E is fixed"):
        fit_points(pair, FitOptions(share_floor=True, two_stage=True, bootstraps=0))

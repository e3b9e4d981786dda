"""`--law auto`: planted forms are chosen again, the simpler one where nothing tells them apart."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from planted import law, make_points, runs, write_csv

import epochal
from epochal.cli.main import main
from epochal.errors import DataError, UserError
from epochal.scaling.choose import CANDIDATES, ChoiceReason, choose_law, paired
from epochal.scaling.estimate import ConstantStatus
from epochal.scaling.fit import fit_points
from epochal.scaling.law import read_laws
from epochal.scaling.options import FitOptions

SMALL = {"budgets": (4e7, 3e8), "sizes": (7e6, 5e7, 3e8, 2e9), "epochs": (1, 4, 16, 64)}


def chosen(name, seed, noise=0.007):
    return choose_law(runs(law(name), noise, seed, **SMALL), "ar", FitOptions()).law


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CANDIDATES)
def test_the_planted_form_is_chosen(name):
    """With the first seed, or with the next two."""
    assert chosen(name, 0) == name or chosen(name, 1) == chosen(name, 2) == name


def test_without_repetition_the_half_lives_are_refused():
    report = fit_points(runs(law(), noise=0.005, epochs=(1,)), FitOptions(law="auto", bootstraps=0))
    found = report.families["ar"]
    assert found.form.name == "data-constrained"
    assert found.choice.reason.code is ChoiceReason.NOTHING_REPEATS
    assert found.constants["R_D"] is None
    assert found.constant_status["R_D"].code is ConstantStatus.NO_REPETITION
    # Without repetition and without half-lives it is Chinchilla's law.
    plain = fit_points(
        runs(law(), noise=0.005, epochs=(1,)), FitOptions(law="chinchilla", bootstraps=0)
    ).families["ar"]
    at = (1e8, 3e9)
    assert found.predict(*at) == pytest.approx(plain.predict(*at), rel=1e-6)


def test_no_noise_and_nothing_to_tell_keep_the_law_with_the_fewest_constants():
    choice = choose_law(runs(law(), **SMALL), "ar", FitOptions())
    assert choice.law == "data-constrained"
    assert score(choice).held_out_error == pytest.approx(1e-6)


def score(choice, name="data-constrained"):
    """The scores of one candidate."""
    return next(one for one in choice.candidates if one.law == name)


def test_overfitted_runs_count_in_the_choice_and_are_left_out_of_a_monotone_fit():
    points = runs(law("overfitting"), noise=0.005, **SMALL)
    found = fit_points(points, FitOptions(law="auto", bootstraps=0)).families["ar"]
    assert found.form.name == "overfitting"
    assert len(found.points) == found.choice.runs == 32
    assert found.dropped == []


def test_held_out_errors_are_those_of_fits_without_the_group():
    points = runs(law(), noise=0.01, **SMALL)
    choice = choose_law(points, "ar", FitOptions())
    assert choice.groups == 8
    groups = list(zip(points.params, points.unique_tokens, strict=True))
    errors = []
    for group in set(groups):
        out = np.array([one == group for one in groups])
        settings = FitOptions(keep_overfitted=True, bootstraps=0)
        alone = fit_points(points.take(~out), settings).families["ar"]
        left = points.take(out)
        said = alone.predict(left.params, left.tokens, left.unique_tokens)
        errors.append(np.abs(np.log(said / left.loss)).mean())
    assert score(choice).held_out_error == pytest.approx(np.mean(errors), abs=1e-4)


def test_rows_of_few_curves_are_held_out_one_by_one():
    points = runs(law(), noise=0.01, budgets=(1e8,), sizes=(1e7, 1e8, 1e9))
    assert choose_law(points, "ar", FitOptions()).groups == len(points)


def test_aicc_of_squares_is_that_of_a_normal_distribution():
    """Burnham & Anderson 2002: n·log(RSS/n) + 2k + 2k(k+1)/(n − k − 1), k with the variance."""
    points = runs(law(), noise=0.01, **SMALL)
    settings = FitOptions(huber=np.inf, keep_overfitted=True, bootstraps=0)
    rss = 2 * fit_points(points, settings).families["ar"].objective
    n, k = 32, 8
    plain = n * np.log(rss / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    found = score(choose_law(points, "ar", settings))
    assert found.aicc == pytest.approx(plain - n * np.log(2))


def test_errors_of_paired_differences_are_over_groups():
    old, new = np.array([3.0, 3.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    lower, error = paired(old, new, np.array([0, 0, 1, 1]))
    assert lower == 1.0
    assert error == pytest.approx(1.0)  # two groups with 2 and 0: standard deviation √2, over √2


def test_candidates_that_cannot_be_fitted_are_told():
    points = runs(law(), noise=0.005, budgets=(1e8,), sizes=(1e7, 1e8, 1e9), epochs=(1, 8, 30))
    choice = choose_law(points, "ar", FitOptions())
    refused = score(choice, "overfitting").refused
    assert refused.startswith("ar: 9 points cannot determine the 10")
    assert choice.law in ("data-constrained", "coupled")
    held = choose_law(points, "ar", FitOptions(), {"R_D": 31.2})
    assert "no constant 'R_D'" in {c.law: c.refused for c in held.candidates}["penalty"]
    few = make_points([1e7, 2e7, 3e7], 1e9, 1e8, [3.0, 2.9, 2.8])
    with pytest.raises(DataError, match="3 points cannot determine"):
        fit_points(few, FitOptions(law="auto"))
    with pytest.raises(
        UserError, match=r"law = .best.: unknown law; choose one of auto, chinchilla"
    ):
        epochal.fit(points, FitOptions(law="best"))


def test_the_command_tells_the_choice_and_keeps_it(tmp_path, capsys):
    path = write_csv(tmp_path / "p.csv", runs(law("penalty"), noise=0.005, **SMALL))
    out = tmp_path / "law.toml"
    words = ["fit", str(path), "--law", "auto", "--bootstraps", "5"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--json", "--out", str(out)])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out)
    family = result["families"]["ar"]
    assert result["law"] == "auto"
    assert family["law"] == family["choice"]["law"] == "penalty"
    assert [c["law"] for c in family["choice"]["candidates"]] == list(CANDIDATES)
    kept = tomllib.loads(out.read_text())["families"]["ar"]["choice"]
    assert kept["law"] == "penalty"
    assert kept["candidates"]["penalty"]["aicc"] < kept["candidates"]["data-constrained"]["aicc"]
    assert read_laws(out)["ar"].form.name == "penalty"
    with pytest.raises(SystemExit):
        main(words)
    text = capsys.readouterr().out
    assert "penalty was chosen: its held-out error is lower than that of" in text
    assert "rule: of the laws whose constants are identified, the one with the fewest" in text

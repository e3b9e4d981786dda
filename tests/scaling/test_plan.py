"""Plans: known optima, closed forms, crossings that are there and those that are not."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import CONSTANTS, law, runs
from scipy.optimize import minimize_scalar

import epochal
from epochal.cli.main import main
from epochal.data.corpus import open_corpus
from epochal.data.duplicates import measure_duplicates
from epochal.errors import OptionError, UserError
from epochal.families import get_family, register, unregister
from epochal.recipe import load_recipe, recipe_tree
from epochal.recipe.schema import Data
from epochal.report.text import describe
from epochal.report.text.plan import (
    critical_data_text,
    extrapolation_text,
    recipe_head,
    verdict_text,
)
from epochal.results import to_json
from epochal.scaling.crossing import (
    RESAMPLES,
    critical_compute,
    critical_data,
    paper_critical_compute,
)
from epochal.scaling.optimum import floor_loss, optima
from epochal.scaling.options import FitOptions, PlanOptions
from epochal.scaling.plan import (
    critical_unique_tokens,
    find_laws,
    plan_recipe,
    planned_recipes,
    read_preset,
)
from epochal.scaling.planner import PlanNote
from epochal.sizes import LADDER
from epochal.units import Interval, format_count


def codes(report):
    return [note.code for note in report.notes]


def best_by_brute_force(planted, flops, unique):
    """Bounded minimisations from many brackets."""

    def loss(log_n):
        return float(planted.predict(np.exp(log_n), flops / 6 / np.exp(log_n), unique))

    ends = [
        minimize_scalar(loss, bounds=(a, a + 0.5), method="bounded", options={"xatol": 1e-11})
        for a in np.arange(np.log(1e4), np.log(1e13), 0.5)
    ]
    return min(end.fun for end in ends)


@pytest.mark.parametrize(("flops", "unique"), [(1e16, 1e7), (1e19, 1e8), (1e21, 1e8), (3e22, 1e12)])
@pytest.mark.parametrize("name", ["chinchilla", "data-constrained", "coupled"])
def test_the_optimum_of_a_planted_law(name, flops, unique):
    planted = law(name)
    found = optima(planted, flops, unique)
    assert found.loss[0] == pytest.approx(best_by_brute_force(planted, flops, unique), abs=1e-9)
    assert 6 * found.params[0] * found.tokens[0] == pytest.approx(flops)
    assert planted.predict(found.params[0], found.tokens[0], unique) == pytest.approx(found.loss[0])


def test_below_one_epoch_it_is_the_closed_form():
    """Hoffmann et al. 2022: N = G·(C/6)^(β/(α+β))."""
    c, flops = CONSTANTS, 1e19
    total = c["alpha"] + c["beta"]
    g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / total)
    found = optima(law(), flops, 1e13)
    assert found.params[0] == pytest.approx(g * (flops / 6) ** (c["beta"] / total), rel=1e-4)
    assert found.tokens[0] == pytest.approx((flops / 6) ** (c["alpha"] / total) / g, rel=1e-4)


def test_a_law_that_turns_up_spends_less_than_a_ruinous_budget():
    planted = law("overfitting", P=0.05)
    little, much = (optima(planted, flops, 1e7) for flops in (1e17, 1e25))
    assert 6 * much.params[0] * much.tokens[0] < 1e22
    assert much.loss[0] <= little.loss[0] + 1e-9
    grid_n, grid_d = np.meshgrid(np.geomspace(1e5, 1e12, 400), np.geomspace(1e7, 1e13, 400))
    assert much.loss[0] <= planted.predict(grid_n, grid_d, 1e7).min() + 1e-9
    assert much.loss[0] == pytest.approx(planted.predict(grid_n, grid_d, 1e7).min(), abs=1e-3)


def test_the_floor_and_the_compute_that_reaches_it():
    planted = law()
    floor, least = floor_loss(planted, 1e8)
    c = CONSTANTS
    data, params = 1e8 * (1 + c["R_D"]), planted.optimal_params(1e8) * (1 + c["R_N"])
    expected = c["E"] + c["A"] / params ** c["alpha"] + c["B"] / data ** c["beta"]
    assert floor == pytest.approx(expected, abs=1e-6)
    assert optima(planted, least, 1e8).loss[0] == pytest.approx(floor + 1e-3, abs=2e-6)


def test_the_least_compute_where_the_first_budget_is_flat_already():
    """A law with a large floor and hardly anything above it is flat from tiny budgets on."""
    flat = law(A=2.0, B=2.0, E=3.0, alpha=0.6, beta=0.6)
    floor, least = floor_loss(flat, 1e10)
    assert least < 6 * 1e10**2 * np.exp(-6.0) / 10
    assert optima(flat, least, 1e10).loss[0] == pytest.approx(floor + 1e-3, abs=1e-5)
    assert optima(flat, least * 0.99, 1e10).loss[0] > floor + 1e-3


def pair(**changes):
    """AR as planted, and diffusion with other constants."""
    return law(), law(
        family="mdm", **{"A": 266.0, "B": 1071.0, "E": 1.98, "R_D": 490.0, "R_N": 1200.0} | changes
    )


def test_one_crossing_is_a_root():
    ar, mdm = pair()
    found = critical_compute(ar, mdm, 1e8)
    assert found.kind == "one"
    assert found.leaders == ["ar", "mdm"]
    gap = [float(optima(m, found.crossings[0], 1e8).loss[0]) for m in (ar, mdm)]
    assert gap[0] == pytest.approx(gap[1], abs=1e-6)
    # The reverse question, at that budget, leads back.
    back = critical_data(ar, mdm, found.crossings[0])
    assert any(u == pytest.approx(1e8, rel=1e-3) for u in back.crossings)


def test_no_crossing_and_no_difference():
    ar, mdm = pair(R_D=31.2, R_N=55.0, E=2.5)
    found = critical_compute(ar, mdm, 1e8)
    assert (found.kind, found.leaders) == ("none", ["ar"])
    report = epochal.plan(1e8, 1e19, PlanOptions(laws={"ar": ar, "mdm": mdm}))
    assert "MDM does not win up to" in verdict_text(report)
    assert report.pairs[0].trusted_flops is None
    assert report.pairs[0].critical_flops is None
    same = critical_compute(law(), law(family="mdm"), 1e8)
    assert (same.kind, same.leaders) == ("none", [None])


def test_nothing_is_said_far_beyond_the_runs():
    """One crossing; whether it is told depends on the largest run of each law."""
    ar, mdm = pair()
    at = critical_compute(ar, mdm, 1e8).crossings[0]

    def told(largest, flops=1e19, **u):
        laws = {
            law.family: replace(law, fitted_range={"flops": (1e15, largest[law.family])} | u)
            for law in (ar, mdm)
        }
        return epochal.plan(1e8, flops, PlanOptions(laws=laws))

    near = told({"ar": at, "mdm": at / 5})
    assert "critical compute" in verdict_text(near)
    far = told({"ar": at, "mdm": at / 20})
    assert f"does not win up to {format_count(at / 2)} FLOPs, 10 times" in verdict_text(far)
    assert "not within reach; the laws put it at" in verdict_text(far)
    assert far.pairs[0].critical_flops == pytest.approx(at)  # the number itself is kept
    small = told({"ar": 1e10, "mdm": 1e10})
    assert "no critical compute can be given" in verdict_text(small)
    # The reverse question, in U.
    laws = {
        law.family: replace(law, fitted_range={"flops": (1e15, at), "unique_tokens": (1e10, 1e11)})
        for law in (ar, mdm)
    }
    back = critical_data_text(critical_unique_tokens(at, PlanOptions(laws=laws)))
    assert "AR leads at every U from 1B to 1T unique tokens" in back
    assert "beyond what was measured" in back
    guess = critical_unique_tokens(100 * at, PlanOptions(laws=laws))
    assert "this is a guess" in critical_data_text(guess)


def test_several_crossings():
    """Diffusion leads while AR is slow, and AR again after diffusion overfits."""
    ar = law(R_D=36.0, R_N=400.0, E=2.0)
    late = {"A": 450.0, "R_D": 1e6, "R_N": 1e6, "P": 6e-4, "delta": 1.2}
    mdm = law("overfitting", family="mdm", **late)
    found = critical_compute(ar, mdm, 1e8)
    assert found.kind == "several"
    assert found.leaders == ["ar", "mdm", "ar"]
    report = epochal.plan(1e8, 1e19, PlanOptions(laws={"ar": ar, "mdm": mdm}))
    assert report.pairs[0].critical_flops == pytest.approx(found.crossings[0])
    assert "the lead changes 2 times" in verdict_text(report)
    assert report.pairs[0].interval is None


def test_the_papers_critical_line_as_far_as_its_constants_tell():
    """Slope 2.32–2.36 and 0.9–1.1e20 at 100M (scaling-laws.md §6), not the closed form's."""
    laws = read_preset("paper")
    unique = np.array([1e7, 1e8, 1e9])
    found = [critical_compute(laws["ar"], laws["mdm"], u) for u in unique]
    at = [f.crossings[0] for f in found]
    assert [f.kind for f in found] == ["one"] * 3
    slope = np.polyfit(np.log(unique), np.log(at), 1)[0]
    assert 2.30 < slope < 2.37
    low, high = found[1].interval
    assert 0.85e20 < low <= at[1] <= high < 1.2e20
    assert paper_critical_compute(1e8) == pytest.approx(4.8e19, rel=0.03)
    drawn = 4.9e19  # the line in Fig. 6b
    assert 1.8 < at[1] / drawn < 3.2


def test_intervals_and_verdicts_of_a_fit():
    """A clear lead is called; a lead within the noise is not."""

    def laws_of(noise, **changes):
        ar, mdm = pair(**changes)
        return {
            name: epochal.fit(
                runs(planted, noise=noise, seed=n), FitOptions(bootstraps=60)
            ).families[name]
            for n, (name, planted) in enumerate({"ar": ar, "mdm": mdm}.items())
        }

    clear = epochal.plan(1e8, 1e18, PlanOptions(laws=laws_of(0.003)))
    assert clear.winner == "ar"
    truth = float(optima(law(), 1e18, 1e8).loss[0])
    low, high = clear.families[0].interval
    assert low < truth < high
    close = epochal.plan(
        1e8, 1e19, PlanOptions(laws=laws_of(0.02, A=336.0, B=771.0, E=1.85, R_D=31.2, R_N=55.0))
    )
    assert close.winner is None
    assert close.pairs[0].interval[0] < 0 < close.pairs[0].interval[1]
    assert 0 < close.pairs[0].p_second_better < 1


def test_the_papers_grid_planned_by_a_law_that_can_turn():
    """Its best runs: AR 3.71 at 144.8M × 50, diffusion 3.55; they cross at 2.6–2.8e19."""
    grid = Path(__file__).parents[1] / "data_files" / "paper_grid_100M.csv"
    report = epochal.plan(
        1e8, 1.25e20, PlanOptions(laws=epochal.fit(grid, FitOptions(law="penalty", bootstraps=60)))
    )
    ar, mdm = report.families
    assert ar.loss == pytest.approx(3.71, abs=0.05)
    assert mdm.loss == pytest.approx(3.55, abs=0.03)
    assert 0.5 < ar.params * ar.tokens / (144.8e6 * 5e9) < 2
    assert report.winner == "mdm"
    assert 1.4e19 < report.pairs[0].critical_flops < 4e19
    assert ar.saturated


@pytest.mark.parametrize("name", ["data-constrained", "chinchilla"])
def test_a_law_of_one_epoch_repeats_nothing(name):
    single = epochal.fit(runs(law(), noise=0.003, epochs=(1,)), FitOptions(law=name, bootstraps=20))
    report = epochal.plan(1e8, 1e20, PlanOptions(laws=single))
    assert report.families[0].epochs <= 1 + 1e-9
    assert PlanNote.NO_REPETITION in codes(report)
    fit = single.families["ar"]
    assert fit.predict(1e9, 1e10, 1e8) == fit.predict(1e9, 1e8, 1e8)


def test_one_rule_for_what_is_not_identified(tmp_path):
    """Planner, law.predict, its resamples and its file: N above N_opt(U) counts for nothing."""
    points = runs(law(), sizes=(5e4, 1e5, 2e5, 4e5), noise=0.002)
    report = epochal.fit(points, FitOptions(bootstraps=40))
    fit = report.families["ar"]
    assert fit.constants["R_N"] is None
    best = float(fit.optimal_params(1e8))
    assert fit.predict(5 * best, 1e10, 1e8) == pytest.approx(fit.predict(best, 1e10, 1e8))
    assert fit.predict(best / 5, 1e10, 1e8) > fit.predict(best, 1e10, 1e8)
    report.save(tmp_path / "law.toml")
    for laws in (report, tmp_path / "law.toml"):
        plan = epochal.plan(1e8, 1e19, PlanOptions(laws=laws, sizes=["1B"])).families[0]
        assert plan.params <= best * (1 + 1e-6)
        said = fit.predict(plan.params, plan.tokens, 1e8)
        assert plan.loss == pytest.approx(float(said), abs=1e-7)
        # A size above N_opt(U) is trained with the budget's own tokens, not another size's.
        choice = plan.size
        assert 6 * choice.params * choice.tokens == pytest.approx(1e19)
        assert choice.loss == pytest.approx(float(fit.predict(1e9, choice.tokens, 1e8)), abs=1e-7)
        low, high = plan.interval
        assert low <= plan.loss <= high
    # What the fit says of its own runs is what the law predicts for them.
    assert fit.predicted == pytest.approx(
        fit.predict(points.params, points.tokens, points.unique_tokens), rel=1e-9
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["-U", "1e40", "--flops", "1e20"],
            "1e+40 unique tokens are beyond any plan; give at most",
        ),
        (["-U", "1e8", "--flops", "1e50"], "1e+50 FLOPs are beyond any plan; give at most"),
        (["--reverse", "--flops", "1e50"], "1e+50 FLOPs are beyond any plan; give at most"),
        (
            ["-U", "1e8", "--flops", "1e18", "--recipe", "x.txt"],
            "the name of a recipe ends in .toml",
        ),
    ],
)
def test_slips_on_the_command_line(capsys, given, message):
    with pytest.raises(SystemExit) as end:
        main(["plan", *given])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_limits_of_the_search_are_told_and_budgets_below_a_token_refused():
    tiny, huge = epochal.plan(1e8, 1e6), epochal.plan(1e12, 1e35)
    assert PlanNote.SMALLEST_SIZE in codes(tiny)
    assert all(a.params >= 1e4 * (1 - 1e-9) for a in tiny.families[0].alternatives)
    assert PlanNote.LARGEST_SIZE in codes(huge)
    ends = {PlanNote.SMALLEST_SIZE, PlanNote.LARGEST_SIZE}
    assert not ends & set(codes(epochal.plan(1e8, 1e19)))
    with pytest.raises(UserError, match="less than one token"):
        epochal.plan(1e8, 3.0)
    with pytest.raises(UserError, match="less than one"):
        epochal.plan(0.5, 1e19)


def test_what_lies_outside_of_the_runs_is_said():
    report = epochal.plan(
        1e11, 1e24, PlanOptions(laws=epochal.fit(runs(law()), FitOptions(bootstraps=0)))
    )
    warnings = {w.quantity: w for w in report.families[0].extrapolation_warnings}
    assert (warnings["unique_tokens"].value, warnings["unique_tokens"].fitted) == (1e11, 1e9)
    assert extrapolation_text(warnings["unique_tokens"]) == "U 100B is above the fitted 1B"
    assert report.families[0].interval is None


def test_alternatives_cost_less_for_nearly_the_same():
    plan = epochal.plan(1e8, 1e19).families[0]
    smaller, fewer = plan.alternatives
    assert smaller.what == "smaller model"
    assert smaller.params < plan.params
    assert smaller.loss <= plan.loss + 0.01 + 1e-6
    assert fewer.flops < plan.flops
    assert fewer.loss <= plan.loss + 0.01 + 1e-6


def test_sizes_that_can_be_trained():
    free = epochal.plan(1e8, 1e19).families[0]
    assert free.size.name in LADDER
    assert free.loss <= free.size.loss <= free.loss + 0.005
    given = epochal.plan(1e8, 1e19, PlanOptions(sizes=["7M", "60M"])).families[0]
    assert given.size.name == "60M"
    with pytest.raises(UserError, match="neither a size"):
        epochal.plan(1e8, 1e19, PlanOptions(sizes=["huge"]))


def test_budgets():
    report = epochal.plan(1e8, options=PlanOptions(gpus="8xH100", hours=24))
    assert report.flops == pytest.approx(8 * 989e12 * 0.4 * 86400)
    for wrong, message in (
        ({}, "give the budget"),
        ({"flops": 1e20, "gpus": "8xH100"}, "once"),
        ({"flops": 1e20, "mfu": 0.5}, "mfu = 0.5: it needs gpus"),
        ({"gpus": "8xH100", "hours": 24, "mfu": 2.0}, "mfu = 2.0"),
        ({"gpus": "8xH100", "hours": -1}, "hours = -1"),
    ):
        with pytest.raises(UserError, match=message):
            epochal.plan(1e8, wrong.pop("flops", None), PlanOptions(**wrong))
    with pytest.raises(OptionError, match="no such GPU"):
        epochal.plan(1e8, options=PlanOptions(gpus="8xH9", hours=1))
    with pytest.raises(UserError, match="no such laws"):
        epochal.plan(1e8, 1e20, PlanOptions(laws="papers"))


def test_models_that_do_not_fit_the_gpus_are_told():
    def notes(gpus, sizes, hours=24):
        report = epochal.plan(1e10, options=PlanOptions(gpus=gpus, hours=hours, sizes=sizes))
        return [n.code for n in report.notes if n.code in memory]

    memory = (PlanNote.NEEDS_SHARDING, PlanNote.DOES_NOT_FIT)

    assert notes("8xH100", ["106M"]) == []
    assert notes("8xH100", ["16183M"], hours=1000) == [PlanNote.NEEDS_SHARDING] * 2
    assert notes("1xL4", ["16183M"], hours=1000) == [PlanNote.DOES_NOT_FIT] * 2
    free = epochal.plan(1e10, 1e24, PlanOptions(sizes=["16183M"]))
    assert not set(memory) & set(codes(free))


def test_the_unique_tokens_at_which_the_lead_changes():
    report = critical_unique_tokens(1e20)
    [pair] = report.pairs
    assert (pair.first, pair.second) == ("ar", "mdm")
    assert pair.crossings.leaders == ["mdm", "ar"]
    low, high = pair.crossings.interval
    assert low <= pair.crossings.crossings[0] <= high
    assert pair.crossings.level is None  # the range of readings of a figure
    assert "MDM is predicted to win below 95.6M unique tokens" in critical_data_text(report)
    with pytest.raises(UserError, match="at least two families"):
        critical_unique_tokens(1e20, PlanOptions(laws="muennighoff"))
    with pytest.raises(UserError, match="needs unique_tokens"):
        epochal.plan(flops=1e20)


@pytest.mark.parametrize("given", [{"corpus": "corpus"}, {"sizes": ["7M"]}, {"vocabulary": 300}])
def test_critical_unique_tokens_refuse_what_they_do_not_use(given, capsys):
    [(name, value)] = given.items()
    with pytest.raises(OptionError, match=f"{name} = "):
        critical_unique_tokens(1e20, PlanOptions(**given))
    word = value[0] if isinstance(value, list) else str(value)
    for words in (["--reverse"], []):
        if name == "corpus" and not words:
            continue  # a corpus gives the unique tokens of a plan
        with pytest.raises(SystemExit) as end:
            main(["plan", "--flops", "1e20", *words, f"--{name}", word])
        assert end.value.code == 2
        assert f"--{name}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["plan", "--flops", "1e20", "--reverse", "-U", "10M"])
    assert end.value.code == 2
    assert "-reverse" in capsys.readouterr().err


def test_the_interval_of_a_crossing_names_its_level_and_resamples():
    ar, mdm = pair()
    scatter = np.random.default_rng(0).standard_normal((300, 2))
    laws = []
    for planted, column in zip((ar, mdm), scatter.T, strict=True):
        samples = np.repeat(planted.theta[None], 300, axis=0)
        samples[:, planted.form.index("E")] += 0.002 * column
        laws.append(replace(planted, samples=[samples]))
    found = critical_compute(*laws, 1e8)
    assert (found.level, found.resamples) == (0.95, RESAMPLES)
    assert RESAMPLES * 0.025 >= 5
    low, high = found.interval
    assert low < found.crossings[0] < high


def test_plans_take_any_number_of_families():
    """A family that nobody knows today; the winner beats every other."""
    new = replace(get_family("ar"), name="new", short="NEW", exact=False)
    register(new)
    try:
        ar, mdm = pair()
        worst = law(family="new", E=2.6)
        laws = {"ar": ar, "mdm": mdm, "new": worst}
        report = epochal.plan(1e8, 1e18, PlanOptions(laws=laws))
        assert [plan.family for plan in report.families] == ["ar", "mdm", "new"]
        assert [(p.first, p.second) for p in report.pairs] == [
            ("ar", "mdm"),
            ("ar", "new"),
            ("mdm", "new"),
        ]
        assert report.pairs[1].difference > 0.5
        assert "NEW" in verdict_text(report)
        assert len(critical_unique_tokens(1e18, PlanOptions(laws=laws)).pairs) == 3
        certain = {
            name: replace(one, samples=[np.repeat(one.theta[None], 50, axis=0)])
            for name, one in laws.items()
        }
        assert epochal.plan(1e8, 1e18, PlanOptions(laws=certain)).winner == "ar"
    finally:
        unregister("new")


def test_the_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", "--unique-tokens", "100M", "--flops", "1e20", "--json"])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert {f["family"] for f in result["families"]} == {"ar", "mdm"}
    for family in result["families"]:
        low, high = family["interval"]
        assert low <= family["loss"] <= high
        assert family["params"] * family["tokens"] * 6 == pytest.approx(1e20, rel=1e-6)
    [compared] = result["pairs"]
    assert (compared["first"], compared["second"]) == ("ar", "mdm")
    assert compared["critical_flops"] == pytest.approx(1.1e20, rel=0.05)
    assert result["winner"] is None
    with pytest.raises(SystemExit):
        main(["plan", "-U", "100M", "--flops", "1e20"])
    text = capsys.readouterr().out
    assert "Too close to call" in text
    assert "cited only" in text
    with pytest.raises(SystemExit) as end:
        main(["plan", "-U", "100M"])
    assert end.value.code == 2
    assert "give the budget" in capsys.readouterr().err


@pytest.mark.parametrize("flops", ["1e12", "3e13"])
def test_recipes_that_can_be_trained(tmp_path, tiny_corpus, flops, capsys):
    out = tmp_path / "out.toml"
    with pytest.raises(SystemExit) as end:
        main(["plan", "--corpus", str(tiny_corpus), "--flops", flops, "--recipe", str(out)])
    assert end.value.code == 0
    files = sorted(tmp_path.glob("*.toml"))
    assert len(files) == 2
    assert {load_recipe(f).family for f in files} == {"ar", "mdm"}
    for file in files:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["train", str(file), "--dry-run", "--json"])
        assert end.value.code == 0
        numbers = json.loads(capsys.readouterr().out)
        # Whole steps of rows as long as the paper's, of a budget of few.
        assert numbers["numbers"]["flops"] == pytest.approx(float(flops), rel=0.05)


def test_recipes_have_rows_of_the_fitted_runs(tmp_path):
    """The losses are of their context; through the fit, its file, the plan and the recipe."""
    points = replace(runs(law()), sequence_length=384)
    report = epochal.fit(points, FitOptions(bootstraps=20))
    assert to_json(report)["families"]["ar"]["sequence_length"] == 384
    for name in ("law.toml", "law.json"):
        report.save(tmp_path / name)
        plan = epochal.plan(1e8, 1e18, PlanOptions(laws=tmp_path / name))
        assert plan_recipe(plan.families[0], 1e8, 50257).data.sequence_length == 384
        rows = {PlanNote.ROW_LENGTH_UNKNOWN, PlanNote.ROW_LENGTH_SHORTER}
        assert not rows & set(codes(plan))
    few = epochal.plan(3000, 1e14, PlanOptions(laws=tmp_path / name))
    assert plan_recipe(few.families[0], 3000, 50257).data.sequence_length == 3000 // 16
    [note] = [note for note in few.notes if note.code is PlanNote.ROW_LENGTH_SHORTER]
    assert (note.values["fitted"], note.values["rows"]) == (384, 187)
    assert "rows of 384 tokens, too long for 3k unique tokens" in describe(note)
    unknown = epochal.plan(
        1e8, 1e18, PlanOptions(laws=epochal.fit(runs(law()), FitOptions(bootstraps=20)))
    )
    assert plan_recipe(unknown.families[0], 1e8, 50257).data.sequence_length == 2048
    assert PlanNote.ROW_LENGTH_UNKNOWN in codes(unknown)
    paper = epochal.plan(1e6, 1e16)
    assert plan_recipe(paper.families[1], 1e6, 50257).data.sequence_length == 2048


@pytest.mark.parametrize("name", ["law.toml", "law.json"])
def test_recipes_are_as_the_best_run_of_the_law(tmp_path, name):
    """Its vocabulary counts the parameters, and all but size and length is as it was trained."""
    own = load_recipe(
        None,
        {
            **{"data.corpus": "mine", "data.sequence_length": 96, "train.global_batch_size": 24},
            **{"train.lr": 3e-3, "train.hidden_dropout": 0.2, "train.weight_decay": 0.3},
            **{"train.epochs": 4, "model.d_model": 32, "model.layers": 2, "model.heads": 2},
            **{"checkpoint.keep_at": [500], "eval.every": "3%"},
        },
    )
    points = runs(law())
    best = points.run[int(np.argmin(points.loss))]
    recipes = {best: recipe_tree(own)}
    points = replace(points, sequence_length=96, vocabulary=700, recipes=recipes)
    place = tmp_path / name
    epochal.fit(points, FitOptions(bootstraps=0)).save(place)
    plan = epochal.plan(1e8, 1e16, PlanOptions(laws=place, sizes=["5M", "20M"]))
    assert plan.vocabulary == 700
    assert PlanNote.OTHER_VOCABULARY not in codes(plan)
    [(_, recipe)] = planned_recipes(plan, find_laws(place)[0])
    params = recipe.model.architecture().params(700)
    assert params == pytest.approx(plan.families[0].size.params)
    planned = plan.families[0].flops
    assert 6 * params * recipe.train.epochs * 1e8 == pytest.approx(planned, rel=1e-4)
    assert (recipe.data.corpus, recipe.data.unique_tokens) == ("mine", 100_000_000)
    assert (recipe.data.sequence_length, recipe.train.global_batch_size) == (96, 24)
    assert (recipe.train.lr, recipe.train.hidden_dropout) == (3e-3, 0.2)
    assert (recipe.train.weight_decay, recipe.eval.every) == (0.3, Interval(3, "percent"))
    assert "in the law's best run" in recipe_head(plan.families[0], plan, like_run=True)
    assert planned_recipes(plan, find_laws(place)[0], "other")[0][1].data.corpus == "other"


def test_laws_of_other_tokens_are_told():
    plan = epochal.plan(1e8, 1e18, PlanOptions(vocabulary=300))
    values = [n.values for n in plan.notes if n.code is PlanNote.OTHER_VOCABULARY]
    assert [(v["family"], v["law"], v["plan"]) for v in values] == [
        ("ar", 50257, 300),
        ("mdm", 50257, 300),
    ]


def test_a_recipe_in_a_law_that_cannot_be_read(tmp_path):
    law_file = tmp_path / "law.toml"
    epochal.fit(runs(law()), FitOptions(bootstraps=0)).save(law_file)
    text = law_file.read_text()
    law_file.write_text(text + "\n[families.ar.recipe.train]\nno_such_key = 1\n")
    plan = epochal.plan(1e8, 1e18, PlanOptions(laws=law_file))
    with pytest.raises(
        UserError, match=r"law\.toml: the recipe of ar cannot be read .*no_such_key"
    ):
        planned_recipes(plan, find_laws(law_file)[0])


def test_heads_of_recipes_tell_parts_of_an_epoch():
    def head(flops):
        report = epochal.plan(1e9, flops, PlanOptions(laws={"ar": law()}))
        return recipe_head(report.families[0], report, like_run=False).splitlines()[1]

    assert re.search(r"and 0\.\d+ of an epoch\.$", head(1e16))
    assert re.search(r"and \d+\.\d+ epochs\.$", head(2e21))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"law": "kaplan"}, r"law.json, ar: unknown law 'kaplan'; choose one of"),
        ({"sequence_length": 1.5}, "sequence_length of ar is 1.5; give the tokens per row"),
        ({"vocabulary": -3}, "vocabulary of ar is -3; give the size of its runs' vocabulary"),
        ({"recipe": "x"}, "the recipe of ar is 'x', not a table of keys"),
        ({"constants": {"A": "x"}}, "A of ar is 'x', not a number"),
        ({"constants": [1.0]}, "the constants of ar are not a table"),
        ({"samples": [["a"]]}, "samples or the fitted range of ar are damaged"),
        ({"fitted": {"params": [1.0]}}, "samples or the fitted range of ar are damaged"),
    ],
)
def test_damaged_law_files(tmp_path, change, message):
    constants = {"A": 400.0, "B": 900.0, "E": 1.8, "alpha": 0.3, "beta": 0.3}
    path = tmp_path / "law.json"
    path.write_text(json.dumps({"families": {"ar": {"constants": constants} | change}}))
    with pytest.raises(UserError, match=message):
        epochal.plan(1e8, 1e18, PlanOptions(laws=path))


def test_the_effective_tokens_of_a_corpus(tmp_path, tiny_corpus):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    options = PlanOptions(corpus=corpus, effective=True, laws="muennighoff")
    report = epochal.plan(None, 1e12, options)
    stored = open_corpus(Data(corpus=str(corpus))).train.unique_tokens
    assert report.effective == measure_duplicates(corpus).effective
    assert report.unique_tokens == report.effective.estimate < report.stored_tokens == stored
    alone = epochal.plan(report.unique_tokens, 1e12, replace(options, effective=False))
    assert [one.loss for one in report.families] == [one.loss for one in alone.families]
    for one, recipe in planned_recipes(
        report, find_laws("muennighoff")[0]
    ):  # trains on all, as long
        assert recipe.data.unique_tokens == stored
        params = recipe.model.architecture().params(report.vocabulary)
        assert 6 * params * recipe.train.epochs * stored == pytest.approx(one.flops, rel=1e-4)
    with pytest.raises(OptionError, match="unique_tokens"):
        epochal.plan(1000, 1e12, options)
    with pytest.raises(OptionError, match="corpus"):
        PlanOptions(effective=True)

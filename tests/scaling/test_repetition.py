"""What repeating costs each recipe: planted penalties, the paper's grid, which runs share one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import constants, join, law, runs

from epochal.cli.main import main
from epochal.report.text.fit import cost_ratios, repetition_cost
from epochal.runs import RunRecord
from epochal.scaling.estimate import make_problem
from epochal.scaling.forms.penalties import PENALTY
from epochal.scaling.joint import JointProblem
from epochal.scaling.options import FitOptions
from epochal.scaling.read import read_all, read_csv
from epochal.scaling.recipes import recipe_labels
from epochal.scaling.repetition import PenaltyNote, repetition_costs
from made_runs import make_run

GRID = Path(__file__).parents[1] / "data_files" / "paper_grid_100M.csv"
QUICK = FitOptions(bootstraps=0)
SIZES = (7e6, 5e7, 3e8, 2e9)
PLANTED = {"": 3e-2, "weight_decay=1.6": 9e-3, "mdm": 2e-3}
"""P of three recipes: AR, AR with strong decay, and masked diffusion."""


def three(noise=0.0, seed=0, delta=1.2, kappa=0.6, floor=1.85):
    """Runs of three recipes with their own A, B and P, and the penalty's exponents in common."""
    parts = []
    for number, (recipe, p) in enumerate(PLANTED.items()):
        own = {"A": 336.0 + 30 * number, "B": 771.0 + 100 * number, "E": floor, "P": p}
        family = "mdm" if recipe == "mdm" else "ar"
        planted = law("penalty", family, delta=delta, kappa=kappa, **own)
        part = runs(planted, noise, seed + number, sizes=SIZES)
        parts.append(replace(part, recipe=[recipe if family == "ar" else ""] * len(part)))
    return join(*parts)


def test_each_recipe_has_its_own_penalty_and_all_have_the_same_exponents():
    costs = repetition_costs(three(), QUICK, {})
    fitted = costs.headline
    assert fitted is costs.fitted
    assert fitted.exponents == pytest.approx({"delta": 1.2, "kappa": 0.6}, rel=1e-3)
    assert [(c.family, c.recipe) for c in fitted.costs] == [
        ("ar", ""),
        ("ar", "weight_decay=1.6"),
        ("mdm", ""),
    ]
    assert [c.penalty for c in fitted.costs] == pytest.approx(list(PLANTED.values()), rel=1e-2)
    assert [c.ratio for c in fitted.costs] == pytest.approx([15.0, 4.5, 1.0], rel=1e-2)
    assert cost_ratios(fitted) == (
        "repeating costs AR 15 × and AR weight_decay=1.6 4.5 × what it costs MDM"
    )
    assert costs.left_out == {}
    assert fitted.floor is None


def test_noisy_runs_have_the_planted_ratios_within_their_intervals():
    fitted = repetition_costs(three(noise=0.005, seed=5), FitOptions(bootstraps=50), {}).fitted
    for name, planted in (("delta", 1.2), ("kappa", 0.6)):
        low, high = fitted.exponent_intervals[name]
        assert low < planted < high
    for cost, p in zip(fitted.costs, PLANTED.values(), strict=True):
        assert cost.interval[0] < p < cost.interval[1]
        if cost.ratio != 1:
            assert cost.ratio_interval[0] < p / PLANTED["mdm"] < cost.ratio_interval[1]
    assert fitted.costs[2].ratio_interval is None


def test_one_floor_for_all_recipes_where_asked():
    fitted = repetition_costs(three(), FitOptions(bootstraps=0, share_floor=True), {}).fitted
    assert fitted.floor == pytest.approx(1.85, rel=1e-3)


def test_exponents_that_are_fixed():
    costs = repetition_costs(three(), QUICK, {"": {"delta": 1.2, "kappa": 0.6}})
    assert costs.fitted.exponents == pytest.approx({"delta": 1.2, "kappa": 0.6})
    assert costs.fitted.exponent_intervals == {}
    assert [c.ratio for c in costs.fitted.costs] == pytest.approx([15.0, 4.5, 1.0], rel=1e-3)


def test_an_exponent_that_punishes_the_first_repetition_is_told_and_not_quoted():
    costs = repetition_costs(three(delta=0.6), QUICK, {})
    assert [one.code for one in costs.fitted.notes] == [PenaltyNote.FIRST_REPEAT_PUNISHED]
    assert costs.headline is costs.linear


def test_with_both_exponents_one_it_is_the_planted_penalty():
    points = join(runs(law("linear-penalty")), runs(law("linear-penalty", "mdm", P=2e-5)))
    found = repetition_costs(points, QUICK, {}).linear
    assert [cost.penalty for cost in found.costs] == pytest.approx([3e-4, 2e-5], rel=1e-4)
    assert [cost.ratio for cost in found.costs] == pytest.approx([15, 1], rel=1e-4)
    assert found.costs[0].ratio_interval is None


def test_a_cost_that_cannot_be_seen_is_no_number():
    points = runs(law("chinchilla"), noise=0.005)
    cost = repetition_costs(points, FitOptions(bootstraps=60), {}).linear.costs[0]
    assert cost.interval[0] is None
    if cost.penalty is None:
        assert "repeating costs nothing in runs of up to 90 epochs" in repetition_cost(cost)
    clear = runs(law("linear-penalty"), noise=0.005)
    cost = repetition_costs(clear, FitOptions(bootstraps=60), {}).linear.costs[0]
    assert cost.interval[0] < cost.penalty < cost.interval[1]
    assert cost.interval[0] < 3e-4 < cost.interval[1]


def test_a_recipe_with_too_few_runs_is_left_out_with_the_reason():
    single = runs(law(), epochs=(1,))
    costs = repetition_costs(single, QUICK, {})
    assert (costs.fitted, costs.linear, costs.headline) == (None, None, None)
    assert "fewer than two runs repeat" in costs.left_out["ar"]
    few = runs(law("penalty"), sizes=(7e6,), budgets=(1e8,))
    both = join(three(), replace(few, recipe=["weight_decay=3.2"] * len(few)))
    costs = repetition_costs(both, QUICK, {})
    assert set(costs.left_out) == {"ar weight_decay=3.2"}
    assert len(costs.linear.costs) == 3


def test_the_papers_grid():
    """Our reading with other code (field-2026.md §1): with exponents of 1 AR 0.0041, diffusion
    0.00027, and 0.00016 from 10 epochs on; alone, delta is 0.66 for AR and 0.86 for diffusion."""
    points = read_csv(GRID)
    costs = repetition_costs(points, FitOptions(bootstraps=40), {})
    ar, mdm = costs.linear.costs
    assert ar.penalty == pytest.approx(0.0041, rel=0.15)
    assert 0.00014 < mdm.penalty < 0.00030
    assert ar.interval[0] < ar.penalty < ar.interval[1]
    assert 12 < ar.ratio < 30
    assert ar.ratio_interval[0] > 4
    assert 0.6 < costs.fitted.exponents["delta"] < 0.86
    assert costs.fitted.costs[0].ratio_interval[0] > 4
    assert costs.headline is costs.linear
    assert cost_ratios(costs.headline).startswith("repeating costs AR 16 × (95 %: ")


def test_the_papers_grid_from_ten_epochs_on():
    points = read_csv(GRID)
    later = points.take((points.epochs >= 10) & (np.array(points.family) == "mdm"))
    (cost,) = repetition_costs(later, QUICK, {}).linear.costs
    assert cost.penalty == pytest.approx(16e-5, rel=0.15)
    assert cost.ratio == 1


def three_rows():
    """The three recipes as a file with a column for them."""
    points = three()
    header = "params,tokens,unique_tokens,val_loss,family,recipe\n"
    columns = (points.params, points.tokens, points.unique_tokens, points.loss)
    rows = zip(*columns, points.family, points.recipe, strict=True)
    return header + "\n".join(",".join(map(str, row)) for row in rows) + "\n"


def test_a_column_of_recipes(tmp_path, capsys):
    path = tmp_path / "p.csv"
    path.write_text(three_rows())
    with pytest.raises(SystemExit):
        main(["fit", str(path), "--bootstraps", "0", "--json"])
    told = json.loads(capsys.readouterr().out)
    costs = told["repetition"]["fitted"]["costs"]
    assert [c["recipe"] for c in costs] == ["", "weight_decay=1.6", ""]
    assert [c["runs"] for c in costs] == [80, 80, 80]
    # The law is that of a family at its best: of equal points one recipe's is left.
    with pytest.raises(SystemExit):
        main(["fit", str(path), "--bootstraps", "0"])
    said = capsys.readouterr().out
    assert said.startswith(
        "Repeating costs AR 15 × and AR weight_decay=1.6 4.5 × what it costs MDM."
    )
    assert "delta = 1.2 and kappa = 0.6:" in said
    reasons = [one["reason"]["code"] for one in told["families"]["ar"]["dropped"]]
    assert reasons.count("dominated_setting") == 80


def test_recipes_of_run_folders(tmp_path):
    """Regularisation and the objective split; rate, shape and batch do not."""

    def labels(*settings, families=None):
        runs = [(tmp_path / str(number), one) for number, one in enumerate(settings)]
        return recipe_labels(families or ["ar"] * len(runs), runs)

    assert labels({"train.lr": 1e-3, "model.d_model": 64}, {"train.lr": 3e-3}) == ["", ""]
    strong = {"train.weight_decay": 1.6, "ar.orders": 1}
    assert labels(
        {"train.weight_decay": 0.1, "ar.orders": 1},
        strong,
        strong | {"ar.token_masking": 0.5, "train.global_batch_size": 8},
        strong,
        families=["ar", "ar", "ar", "mdm"],
    ) == [
        "token_masking=0.0, weight_decay=0.1",
        "token_masking=0.0, weight_decay=1.6",
        "token_masking=0.5, weight_decay=1.6",
        "",
    ]


def test_the_best_runs_of_a_tuning_are_one_recipe(tmp_path):
    for name, decay, loss in (("a", 0.1, 3.5), ("b", 0.8, 3.2)):
        make_run(tmp_path / name, "ar", [4.0, loss], evaluated=False)
        folder = RunRecord(tmp_path / name).folder
        info = {"identity": {"seed": 0, "train.weight_decay": decay, "train.hidden_dropout": 0.0}}
        folder.write_info(folder.read_info() | info)
    table = read_all([tmp_path], FitOptions())
    assert sorted(table.points.recipe) == ["weight_decay=0.1", "weight_decay=0.8"]
    assert len(table.best()) == 1
    assert len(table.best(within_recipes=True)) == 2
    best = {"searches": [{"best": {"run": "moved/since/b"}}]}
    (tmp_path / "tune.json").write_text(json.dumps(best))
    points = read_all([tmp_path], FitOptions()).points
    assert {
        Path(run).name: label for run, label in zip(points.run, points.recipe, strict=True)
    } == {
        "a": "",
        "b": "tuned",
    }


def test_the_joint_gradient_is_that_of_finite_differences():
    points = three(noise=0.01)
    parts = [
        make_problem(points.take(np.array(points.family) == family), PENALTY, QUICK, fixed, [])
        for family, fixed in (("ar", {}), ("mdm", {"alpha": 0.3}))
    ]
    joint = JointProblem(parts, ("delta", "E"))
    base, matrix = joint.map()
    assert matrix.shape == (16, len(joint.free)) == (16, 13)
    values = PENALTY.unconstrain(np.array(list(constants("penalty").values())))
    q = joint.to_free(np.tile(values, 2))
    low, high = joint.bounds()
    assert (low <= q).all()
    assert (q <= high).all()

    def residuals(free):
        return joint.residuals_with_gradient((base + matrix @ free)[None])

    slope = matrix.T @ residuals(q)[1][0]
    for number in range(len(q)):
        step = np.eye(len(q))[number] * 1e-6
        finite = (residuals(q + step)[0] - residuals(q - step)[0])[0] / 2e-6
        assert slope[number] == pytest.approx(finite, rel=1e-4, abs=1e-7)

"""The formulas: published values, limits, gradients."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import CONSTANTS, constants, law

from doc_examples import example_module
from epochal.errors import UserError
from epochal.scaling.fit import fit
from epochal.scaling.forms import FORMS
from epochal.scaling.forms.form import Inputs
from epochal.scaling.law import law_from_constants
from epochal.scaling.options import FitOptions
from epochal.scaling.plan import read_preset

every_form = pytest.mark.parametrize("name", list(FORMS))


def test_muennighoffs_regression_values():
    published = read_preset("muennighoff")["ar"]
    assert published.predict(6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, rel=1e-12)
    assert published.predict(8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, rel=1e-12)


def written_out(c, n, d, u):
    """Equations of Muennighoff et al. in plain Python."""
    seen = min(u, d)
    g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
    best = g * (g * seen) ** (c["beta"] / c["alpha"])
    base = min(n, best)
    r_d, r_n = d / seen - 1, n / base - 1
    data = seen + seen * c["R_D"] * (1 - math.exp(-r_d / c["R_D"]))
    params = base + base * c["R_N"] * (1 - math.exp(-r_n / c["R_N"]))
    return params, data, r_d


@pytest.mark.parametrize("point", [(1e8, 4e9, 1e8), (3e9, 5e7, 5e7), (5e6, 1e9, 2e9)])
def test_each_law_against_its_formula_written_out(point):
    c = CONSTANTS
    n, d, u = point
    params, data, r_d = written_out(c, n, d, u)
    both = c["A"] / params ** c["alpha"], c["B"] / data ** c["beta"]
    penalty = c["P"] * r_d ** c["delta"] * (n / u) ** c["kappa"]
    e_p = c["c_p"] * u ** c["m_p"] / n ** c["k_p"]
    repeated = min(u, d) * (d / min(u, d)) ** c["p_e"] * math.exp(-((r_d / e_p) ** c["gamma"]))
    h = c["A"] / n ** c["alpha"] + c["B"] / d ** c["beta"]
    h = (h + c["C"] * n ** c["gamma"] / u ** c["delta"]) / (c["L0"] - c["E"])
    additive = 0.3 * (n / u) ** c["kappa"] * math.log10(d / min(u, d)) ** 3
    plain = c["E"] + c["A"] / n ** c["alpha"] + c["B"] / d ** c["beta"]
    expected = {
        "chinchilla": plain,
        "data-constrained": c["E"] + sum(both),
        "overfitting": c["E"] + sum(both) + penalty,
        "penalty": plain + penalty,
        "linear-penalty": plain + 3e-4 * r_d * n / u,
        "quokka": c["E"] + c["A"] / n ** c["alpha"] + c["B"] / repeated ** c["beta"],
        "quokka-additive": plain + additive,
        "saturating": c["E"] + (c["L0"] - c["E"]) * h / (1 + h),
        "coupled": c["E"] + sum(x ** (1 / c["beta"]) for x in both) ** c["beta"],
    }
    assert set(expected) == set(FORMS)
    for name, value in expected.items():
        assert law(name).predict(n, d, u) == pytest.approx(value, rel=1e-12), name


@every_form
def test_gradients_are_those_of_finite_differences(name, random):
    check_gradient(FORMS[name], list(constants(name).values()), random)


def check_gradient(form, values, random):
    where = Inputs.at(
        *(10 ** random.uniform(low, high, 40) for low, high in ((6, 10), (8, 12), (7, 10)))
    )
    point = form.unconstrain(np.array(values))
    _, gradient = form.predict_with_gradient(point[None], where)
    for index in range(len(point)):
        step = np.zeros_like(point)
        step[index] = 1e-6
        ends = [form.predict((point + sign * step)[None], where) for sign in (1, -1)]
        assert gradient[0, index] == pytest.approx((ends[0] - ends[1])[0] / 2e-6, abs=1e-7)


def test_the_law_of_the_docs_is_fitted(random, tmp_path, monkeypatch):
    title = "src/epochal/scaling/forms/unique_floor.py"
    (form,) = example_module(title, tmp_path).FORMS
    monkeypatch.setitem(FORMS, form.name, form)
    true = {"A": 336.0, "B": 771.0, "E": 1.85, "alpha": 0.319, "beta": 0.309}
    true |= {"C": 5000.0, "gamma": 0.5}
    check_gradient(form, list(true.values()), random)
    rows = ["params,tokens,unique_tokens,val_loss"]
    for n, u, epochs in product((1e7, 1e8, 1e9), (2e7, 2e8, 2e9), (1, 4, 16)):
        terms = (n, "A", "alpha"), (u * epochs, "B", "beta"), (u, "C", "gamma")
        loss = true["E"] + sum(true[scale] / x ** true[power] for x, scale, power in terms)
        rows.append(f"{n},{u * epochs},{u},{loss}")
    (tmp_path / "points.csv").write_text("\n".join(rows))
    fitted = fit(tmp_path / "points.csv", FitOptions(law=form.name, bootstraps=2)).families["ar"]
    assert fitted.constants == pytest.approx(true, rel=0.02)


@given(st.floats(6, 9.5), st.floats(7, 10))
def test_one_epoch_of_a_small_model_is_the_chinchilla_law(log_n, log_d):
    constrained = law()
    n, d = 10**log_n, 10**log_d
    if n < constrained.optimal_params(d):
        assert constrained.predict(n, d, d) == pytest.approx(
            law("chinchilla").predict(n, d), rel=1e-13
        )


def test_no_limit_to_the_half_lives_is_no_decay():
    free = law(R_D=1e12, R_N=1e12)
    assert free.predict(3e9, 1e11, 1e8) == pytest.approx(
        law("chinchilla").predict(3e9, 1e11), rel=1e-8
    )


def test_effective_tokens_never_pass_their_ceiling_and_keep_their_digits():
    constrained = law()
    seen = constrained.unique_equivalent(1e8 * np.array([1.0, 4.0, 1e3, 1e9]), 1e8)
    assert (np.diff(seen) > 0).all()
    assert seen[-1] <= (1 + CONSTANTS["R_D"]) * 1e8 * (1 + 1e-12)
    assert seen[0] == pytest.approx(1e8, rel=1e-14)
    # Four epochs at Muennighoff's constants: 3.73 U (paper.md §5).
    assert read_preset("muennighoff")["ar"].unique_equivalent(4e8, 1e8) == pytest.approx(
        3.73e8, rel=2e-3
    )
    # One token more than an epoch: naively all digits would be lost.
    one_more = constrained.unique_equivalent(1e8 + 1.0, 1e8) - 1e8
    assert one_more == pytest.approx(1.0, rel=1e-6)


def test_the_best_model_for_u_tokens_is_where_compute_is_spent_best():
    chinchilla = law("chinchilla")
    tokens = 3e9
    best = chinchilla.optimal_params(tokens)
    sizes = best * np.geomspace(0.5, 2, 2001)
    losses = chinchilla.predict(sizes, best * tokens / sizes)
    assert sizes[losses.argmin()] == pytest.approx(best, rel=1e-3)


def test_only_laws_of_overfitting_turn_up_again():
    epochs = np.geomspace(1, 3000, 60)
    for name, form in FORMS.items():
        losses = law(name).predict(3e8, 1e8 * epochs, 1e8)
        assert ((np.diff(losses) <= 1e-12).all()) == form.monotone, name


def test_the_papers_readings_reproduce_its_figure_5():
    """Markers of Fig. 5, digitised (paper.md §7.4)."""
    laws = read_preset("paper")
    assert laws["ar"].predict(217.5e6, 16 * 7.66e9, 7.66e9) == pytest.approx(2.900, abs=0.01)
    assert laws["ar"].predict(700.3e6, 23.8e9, 23.8e9) == pytest.approx(2.842, abs=0.01)
    assert laws["mdm"].predict(123.6e6, 100 * 13.48e9, 13.48e9) == pytest.approx(3.132, abs=0.01)
    assert laws["mdm"].predict(416.9e6, 39.98e9, 39.98e9) == pytest.approx(3.315, abs=0.01)


def test_wrong_constants_are_refused():
    with pytest.raises(UserError, match="lacks B"):
        law_from_constants("chinchilla", {"A": 1.0, "E": 1.0, "alpha": 0.3, "beta": 0.3})
    with pytest.raises(UserError, match="does not know R_D"):
        law_from_constants(
            "chinchilla", dict.fromkeys(("A", "B", "E", "alpha", "beta", "R_D"), 1.0)
        )
    with pytest.raises(UserError, match="not a positive number"):
        law_from_constants("chinchilla", {"A": 1.0, "B": -1.0, "E": 1.0, "alpha": 0.3, "beta": 0.3})
    with pytest.raises(UserError, match="unknown law"):
        law_from_constants("chinchila", {})

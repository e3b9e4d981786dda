"""The list of laws: the four here, and those of other files of this folder, found by themselves.

To add one: a file here with `FORMS`, a tuple of what `form.py` describes.
"""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms.form import (
    DELTA,
    FIVE,
    KAPPA,
    OLD_PENALTY,
    PENALTIES,
    R_D,
    R_N,
    Form,
    Grid,
    Inputs,
    P,
    Term,
    chinchilla_terms,
    effective,
    effective_params,
    penalty,
    power,
)


def _data_constrained(columns: Floats, where: Inputs) -> list[Term]:
    a, b, e, alpha, beta, star_d, _ = columns[:7]
    log_n, by_n = effective_params(columns, where)
    log_d, by_star, _ = effective(where.log_u, where.repetitions, star_d)
    return [
        power(log_n, by_n, a, alpha, 0, 3),
        power(log_d, {5: by_star}, b, beta, 1, 4),
        (e, {2: 1.0}),
    ]


def _overfitting(columns: Floats, where: Inputs) -> list[Term]:
    return [*_data_constrained(columns, where), penalty(columns, where, 7)]


def _coupled(columns: Floats, where: Inputs) -> list[Term]:
    """β·log(A^(1/β)·N'^(−α/β) + B^(1/β)/D') and E."""
    a, b, e, alpha, beta, star_d, _ = columns[:7]
    log_n, by_n = effective_params(columns, where)
    log_d, by_star, _ = effective(where.log_u, where.repetitions, star_d)
    first, by_first = power(log_n, by_n, a, alpha, 0, 3)
    second, by_second = power(log_d, {5: by_star}, b, beta, 1, 4)
    x, y = first / beta, second / beta
    both = np.logaddexp(x, y)
    share = np.exp(x - both)
    derivatives: dict[int, Floats | float] = {}
    for weight, parts in ((share, by_first), (1 - share, by_second)):
        for index, derivative in parts.items():
            derivatives[index] = derivatives.get(index, 0.0) + weight * derivative
    # β stands outside too: d(β·log Σ)/dβ = log Σ − Σ shares · (inner logarithms).
    derivatives[4] = derivatives.get(4, 0.0) + both - share * x - (1 - share) * y
    return [(beta * both, derivatives), (e, {2: 1.0})]


_SEVEN = (*FIVE, R_D, R_N)
_LIVES = (0.5, 2.0, 8.0, 30.0, 120.0, 500.0, 3000.0)
_HALF_LIVES = Grid(np.log(np.array([(d, n) for d in _LIVES for n in _LIVES])))
CHINCHILLA = Form(
    "chinchilla",
    FIVE,
    "L = E + A/N^alpha + B/D^beta",
    "Hoffmann et al. 2022 (arXiv 2203.15556), approach 3",
    chinchilla_terms,
    repetition=False,
)
DATA_CONSTRAINED = Form(
    "data-constrained",
    _SEVEN,
    "L = E + A/N'^alpha + B/D'^beta, D' = u·(1 + R_D·(1 − exp(−(D/u − 1)/R_D))), N' alike "
    "with R_N above N_opt(u)",
    "Muennighoff et al. 2023 (arXiv 2305.16264); arXiv 2507.15857 §2.3",
    _data_constrained,
    candidate=True,
    grids=(_HALF_LIVES,),
)
_OVERFITTING = Form(
    "overfitting",
    (*_SEVEN, P, DELTA, KAPPA),
    "the data-constrained law + P·(D/u − 1)^delta·(N/U)^kappa",
    "ours: the penalty of Lovelace et al. 2026 (arXiv 2605.01640) beside decaying values",
    _overfitting,
    monotone=False,
    candidate=True,
    grids=(_HALF_LIVES, PENALTIES),
    core=DATA_CONSTRAINED,
    renamed=OLD_PENALTY,
)
_COUPLED = Form(
    "coupled",
    _SEVEN,
    "L = E + ((A/N'^alpha)^(1/beta) + (B/D'^beta)^(1/beta))^beta",
    "the coupling of Kaplan et al. 2020 (arXiv 2001.08361, equation 1.5) with a floor E "
    "and effective N' and D'; the combination is ours",
    _coupled,
    candidate=True,
    grids=(_HALF_LIVES,),
)

FORMS: dict[str, Form] = {
    form.name: form for form in (CHINCHILLA, DATA_CONSTRAINED, _OVERFITTING, _COUPLED)
}
"""All laws by name, in the order of lists."""
for _module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "form"):
    _more = importlib.import_module(f"{__name__}.{_module}").FORMS
    FORMS.update((form.name, form) for form in _more)

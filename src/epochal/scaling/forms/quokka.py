"""The two laws of epochs that were fitted to 23,145 masked diffusion runs (arXiv 2510.03280).

In the first the effective tokens rise with a power of the epochs and then decay; the second adds a
penalty. Its logarithm of epochs is decimal: with the natural one, the printed constants put the
losses of the authors' own best runs at 20 nats and more, with the decimal one within 0.2 nats of
the first law.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms.form import (
    FIVE,
    KAPPA,
    LOG_ZERO,
    Constant,
    Form,
    Grid,
    Inputs,
    P,
    Term,
    chinchilla_terms,
    log_repetitions,
    power,
)

_MOST = 60.0  # exp of it is beyond any loss


def _epochs(columns: Floats, where: Inputs) -> list[Term]:
    """B/D'^beta with log D' = log u + p_e·log e − ((e − 1)/e_p)^gamma, log e_p = log c_p +
    m_p·log U − k_p·log N; constants from the sixth on."""
    a, b, floor, alpha, beta, p_e, gamma, c_p, m_p, k_p = columns[:10]
    log_e = np.log1p(where.repetitions)
    log_r = log_repetitions(where)
    over = log_r - c_p - m_p * where.log_unique + k_p * where.log_n
    lost = np.exp(np.minimum(gamma * over, _MOST))
    log_d = where.log_u + p_e * log_e - lost
    by: dict[int, Floats | float] = {
        5: log_e,
        6: -lost * np.maximum(over, LOG_ZERO),
        7: lost * gamma,
        8: lost * gamma * where.log_unique,
        9: -lost * gamma * where.log_n,
    }
    return [
        power(where.log_n, {}, a, alpha, 0, 3),
        power(log_d, by, b, beta, 1, 4),
        (floor, {2: 1.0}),
    ]


def _additive(columns: Floats, where: Inputs) -> list[Term]:
    """The Chinchilla law and P·(N/U)^kappa·(log10 e)^delta."""
    p, delta, kappa = columns[5:8]
    with np.errstate(divide="ignore"):
        logs = np.log(np.log1p(where.repetitions) / np.log(10.0))
    log_log = np.maximum(logs, LOG_ZERO)
    crowding = where.log_n - where.log_unique
    derivatives: dict[int, Floats | float] = {5: 1.0, 6: log_log, 7: crowding}
    return [
        *chinchilla_terms(columns, where),
        (p + delta * log_log + kappa * crowding, derivatives),
    ]


_EPOCHS = (
    Constant("p_e", (0.1, 5.0), positive=False),
    Constant("gamma", (0.05, 4.0), positive=False),
    Constant("c_p", (-60.0, 60.0), centre=("k_p", lambda at: at.log_n)),
    Constant("m_p", (0.0, 3.0), positive=False),
    Constant("k_p", (0.0, 3.0), positive=False),
)
_DECAYS = np.array(
    [
        (p, g, np.log(c), m, k)
        for p, g, c, (m, k) in product(
            (1.0, 1.5), (0.4, 1.0), (3.0, 30.0, 300.0), ((0.4, 0.4), (0.7, 0.9))
        )
    ]
)
_SHAPES = np.array(
    [(np.log(0.3) - d * np.log(np.log10(31.0)), d, k) for d, k in product((1.5, 4.0), (0.3, 1.0))]
)
"""Penalties of about 0.3 nats at 31 epochs and N = U."""
_SOURCE = "Ni et al. 2025 (Quokka, arXiv 2510.03280)"
QUOKKA = Form(
    "quokka",
    (*FIVE, *_EPOCHS),
    "L = E + A/N^alpha + B/D'^beta, D' = u·e^p_e·exp(−((e − 1)/e_p)^gamma), e = D/u, "
    "e_p = c_p·U^m_p/N^k_p",
    f"{_SOURCE}, equation 15",
    _epochs,
    monotone=False,
    candidate=True,
    grids=(Grid(_DECAYS),),
)
_ADDITIVE = Form(
    "quokka-additive",
    (*FIVE, P, Constant("delta", (0.3, 9.0), positive=False), KAPPA),
    "L = E + A/N^alpha + B/D^beta + P·(N/U)^kappa·(log10(D/u))^delta",
    f"{_SOURCE}, equation 21",
    _additive,
    monotone=False,
    candidate=True,
    grids=(Grid(_SHAPES, keep_all=True),),
)
FORMS = (QUOKKA, _ADDITIVE)

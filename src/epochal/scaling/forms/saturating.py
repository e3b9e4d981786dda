"""A law between two ends: the loss of a model that knows nothing, and the floor.

L = E + (L0 − E)·h/(1 + h) with h = a/N^alpha + b/D^beta + c·N^gamma/U^delta (arXiv 2605.09189).
Here A = a·(L0 − E), and so on: for a small h the law is Chinchilla's in nats, and its constants can
be compared. Its last term is what repeating for ever would lead to, without a factor of epochs, so
the law never turns up along a run.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms.form import (
    ALPHA,
    BETA,
    UNINFORMED,
    A,
    B,
    Constant,
    E,
    Form,
    Grid,
    Inputs,
    Term,
    power,
)

_LEAST = 1e-6  # of L0: a floor beyond it is not possible


def _saturating(columns: Floats, where: Inputs) -> list[Term]:
    a, b, floor, alpha, beta, c, gamma, delta, top = columns[:9]
    parts: list[Term] = [
        power(where.log_n, {}, a, alpha, 0, 3),
        power(where.log_d, {}, b, beta, 1, 4),
        (
            c + gamma * where.log_n - delta * where.log_unique,
            {5: 1.0, 6: where.log_n, 7: -where.log_unique},
        ),
    ]
    shape = np.broadcast_shapes(*(log.shape for log, _ in parts))
    logs = [np.broadcast_to(log, shape) for log, _ in parts]
    both = np.logaddexp.reduce(logs)
    # log x − log(1 + x/G) with G = L0 − E: its derivative by log x is 1/(1 + x/G).
    gap = np.maximum(np.exp(top) - np.exp(floor), _LEAST * np.exp(top))
    log_ratio = both - np.log(gap)
    share = np.exp(-np.logaddexp(0.0, log_ratio))
    derivatives: dict[int, Floats | float] = {}
    for log, (_, inner) in zip(logs, parts, strict=True):
        weight = share * np.exp(log - both)
        for index, derivative in inner.items():
            derivatives[index] = derivatives.get(index, 0.0) + weight * derivative
    derivatives[2] = -(1 - share) * np.exp(floor) / gap
    derivatives[8] = (1 - share) * np.exp(top) / gap
    return [(both - np.logaddexp(0.0, log_ratio), derivatives), (floor, {2: 1.0})]


_STARTS = np.array(
    [(np.log(0.1) - 18.0 * (g - d), g, d, np.log(10.0)) for g, d in product((0.3, 1.0), (0.3, 1.0))]
)
"""Terms of about 0.1 nats at N = U of e¹⁸."""
FORMS = (
    Form(
        "saturating",
        (
            A,
            B,
            E,
            ALPHA,
            BETA,
            Constant("C", (-400.0, 400.0), centre=("delta", lambda at: at.log_unique)),
            Constant("gamma", (0.0, 4.0), positive=False),
            Constant("delta", (0.0, 4.0), positive=False),
            UNINFORMED,
        ),
        "L = E + x/(1 + x/(L0 − E)), x = A/N^alpha + B/D^beta + C·N^gamma/U^delta",
        "Bryant & Liu 2026 (arXiv 2605.09189)",
        _saturating,
        candidate=True,
        grids=(Grid(_STARTS, keep_all=True),),
    ),
)

"""A penalty on repetition, added to the Chinchilla law.

Repeated tokens count in full and all damage is in one term, which is 0 at one epoch. With
delta = kappa = 1 its coefficient P alone says what repeating costs: nats per repetition of as many
unique tokens as there are parameters. The formula is as typeset by Weng 2026 ("Scaling Laws,
Carefully"); the authors' own constants are not published.
"""

from __future__ import annotations

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms.form import (
    DELTA,
    FIVE,
    KAPPA,
    OLD_PENALTY,
    PENALTIES,
    Constant,
    Form,
    Grid,
    Inputs,
    P,
    Term,
    chinchilla_terms,
    log_repetitions,
    penalty,
)


def _penalty(columns: Floats, where: Inputs) -> list[Term]:
    return [*chinchilla_terms(columns, where), penalty(columns, where, 5)]


def _linear(columns: Floats, where: Inputs) -> list[Term]:
    size = columns[5] + log_repetitions(where) + where.log_n - where.log_unique
    return [*chinchilla_terms(columns, where), (size, {5: 1.0})]


_P = Constant("P", (float(np.log(1e-9)), float(np.log(1e3))))
"""At the lower end a thousand repetitions with 100 parameters per token cost 0.0001 nats."""
LINEAR_PENALTY = Form(
    "linear-penalty",
    (*FIVE, _P),
    "L = E + A/N^alpha + B/D^beta + P·(D/u − 1)·(N/U)",
    "Lovelace et al. 2026 (arXiv 2605.01640), exponents of the penalty fixed at 1",
    _linear,
    monotone=False,
    candidate=True,
    grids=(Grid(np.log([[1e-4], [1e-2]]), keep_all=True),),
)
PENALTY = Form(
    "penalty",
    (*FIVE, P, DELTA, KAPPA),
    "L = E + A/N^alpha + B/D^beta + P·(D/u − 1)^delta·(N/U)^kappa",
    "Lovelace et al. 2026 (arXiv 2605.01640)",
    _penalty,
    monotone=False,
    candidate=True,
    grids=(PENALTIES,),
    renamed=OLD_PENALTY,
)
FORMS = (LINEAR_PENALTY, PENALTY)

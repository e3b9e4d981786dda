"""Synthetic runs from known constants, on a grid that people could have run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from epochal.scaling.forms import FORMS
from epochal.scaling.law import law_from_constants
from epochal.scaling.points import Points

CONSTANTS = {
    "A": 336.0,
    "B": 771.0,
    "E": 1.85,
    "alpha": 0.319,
    "beta": 0.309,
    "R_D": 31.2,
    "R_N": 55.0,
    "P": 0.01,
    "delta": 0.8,
    "kappa": 0.5,
    "p_e": 1.49,
    "gamma": 0.5,
    "c_p": 254.0,
    "m_p": 0.39,
    "k_p": 0.55,
    "C": 50.0,
    "L0": float(np.log(50257)),
}
_OWN = {
    "linear-penalty": {"P": 3e-4},
    "quokka-additive": {"P": 0.3, "delta": 3.0},
}
"""Constants that a law has otherwise, so that its term matters and does not dwarf all others."""
SIZES = (7e6, 2e7, 5e7, 1.2e8, 3e8, 8e8, 2e9)
BUDGETS = (25e6, 50e6, 1e8, 1e9)
EPOCHS = (1, 4, 10, 30, 90)


def constants(name):
    """The planted constants of a law."""
    values = CONSTANTS | _OWN.get(name, {})
    return {constant: values[constant] for constant in FORMS[name].constants}


def law(name="data-constrained", family="ar", **changes):
    """The planted law of that name."""
    return law_from_constants(name, constants(name) | changes, family)


def make_points(params, tokens, unique_tokens=None, loss=None, family="ar"):
    """Points from arrays; without `unique_tokens` every run is one epoch."""
    params, tokens = np.atleast_1d(np.asarray(params, float)), np.asarray(tokens, float)
    unique = tokens if unique_tokens is None else np.asarray(unique_tokens, float)
    n, d, u, seen = (np.array(v) for v in np.broadcast_arrays(params, tokens, unique, loss))
    families = [family] * len(n) if isinstance(family, str) else list(family)
    names = [f"row {i + 1}" for i in range(len(n))]
    return Points(n, d, u, seen.astype(float), families, names, [""] * len(n))


def runs(planted, noise=0.0, seed=0, epochs=EPOCHS, budgets=BUDGETS, sizes=SIZES):
    """Points of the planted law, with `noise` in log loss."""
    rows = np.array([(n, u * e, u) for u in budgets for n in sizes for e in epochs])
    n, d, u = rows.T
    scatter = np.random.default_rng(seed).standard_normal(len(rows))
    loss = planted.predict(n, d, u) * np.exp(noise * scatter)
    points = make_points(n, d, u, loss, family=planted.family)
    return replace(points, vocabulary=50257) if "L0" in planted.constants else points


def join(*parts):
    """Points of several families or recipes."""
    columns = ("params", "tokens", "unique_tokens", "loss")
    joined = (np.concatenate([getattr(p, c) for p in parts]) for c in columns)
    points = make_points(*joined, family=[name for part in parts for name in part.family])
    return replace(points, recipe=[name for part in parts for name in part.recipe])


def write_csv(path, points, extra=""):
    """The points as a file."""
    lines = ["params,tokens,unique_tokens,val_loss,family"]
    lines += [
        f"{n:.17g},{d:.17g},{u:.17g},{loss:.17g},{family}"
        for n, d, u, loss, family in zip(
            points.params,
            points.tokens,
            points.unique_tokens,
            points.loss,
            points.family,
            strict=True,
        )
    ]
    path.write_text("\n".join(lines) + "\n" + extra, encoding="utf-8")
    return path

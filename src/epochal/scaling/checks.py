"""Checks of a finished fit: R², condition, the largest budget held out, warnings."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms import Form, Where, outer
from epochal.scaling.known import SINGLE_EPOCH, KnownLaw
from epochal.scaling.points import Points
from epochal.scaling.problem import Problem
from epochal.scaling.solver import solve

_TRADE_OFF = 1e3


def r_squared(seen: Floats, predicted: Floats) -> float:
    """R² of the loss; NaN where all losses are the same."""
    spread = ((seen - seen.mean()) ** 2).sum()
    return float(1 - ((predicted - seen) ** 2).sum() / spread) if spread > 0 else float("nan")


def condition_of(problem: Problem, constants: Floats) -> float:
    """Largest over smallest singular value of the gradient, its columns scaled to length 1."""
    _, matrix = problem.map()
    gradient = (matrix.T @ problem.residuals_with_gradient(constants[None])[1][0]).T
    lengths = np.linalg.norm(gradient, axis=0)
    if (lengths == 0).any():
        return float("inf")
    values = np.linalg.svd(gradient / lengths, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")


def held_out_check(problem: Problem, start: Floats, rows: Points) -> dict[str, Any] | None:
    """Fit without the largest budget: FLOPs above half of the most, up to a fifth of the rows."""
    order = np.argsort(-rows.flops, kind="stable")
    many = int((rows.flops >= 0.5 * rows.flops.max()).sum())
    out = order[: max(1, min(many, len(rows) // 5))]
    keep = np.setdiff1d(np.arange(len(rows)), out)
    if len(keep) <= len(problem.free) + 1:
        return None
    rest = rows.take(keep)
    part = dataclasses.replace(
        problem,
        where=Where.at(rest.params, rest.tokens, rest.unique_tokens),
        log_loss=np.log(rest.loss),
    )
    end = solve(part, start[None])
    law = KnownLaw(family="", form=problem.form, inner=end.constants[0])
    said = law.predict(rows.params[out], rows.tokens[out], rows.unique_tokens[out])
    error = np.abs(said / rows.loss[out] - 1)
    return {
        "runs": [rows.run[i] for i in out],
        "flops_from": float(rows.flops[out].min()),
        "mean_relative_error": float(error.mean()),
        "largest_relative_error": float(error.max()),
        "bias": float((said / rows.loss[out] - 1).mean()),
    }


def fit_notes(
    problem: Problem,
    constants: Floats,
    rows: Points,
    residuals: Floats,
    form: Form,
) -> list[str]:
    """Warnings that belong to the numbers."""
    notes = []
    values = dict(zip(form.constants, outer(form, constants), strict=True))
    if "E" in problem.free and values["E"] < 0.01:
        notes.append("E came out as nothing: the runs do not reach far enough to show a floor")
    condition = condition_of(problem, constants)
    if condition > _TRADE_OFF:
        notes.append(
            f"the constants trade off (condition {condition:.2g}): compare predictions and "
            "exponents, not A and B"
        )
    single = rows.epochs <= SINGLE_EPOCH
    if "R_D" in form.constants and "A" not in problem.free and single.sum() >= 3:
        offset = float(np.median(residuals[single]))
        if abs(offset) > 0.005:
            notes.append(
                f"at one epoch the held constants are off by {100 * offset:+.1f} %: they come from "
                "other runs, and the half-lives absorb the difference"
            )
    if "R_D" in problem.free and rows.epochs.max() < values["R_D"]:
        notes.append(
            f"R_D = {values['R_D']:.3g} lies beyond the longest run "
            f"({rows.epochs.max():.3g} epochs)"
        )
    budgets = np.unique(np.round(np.log(rows.unique_tokens), 2))
    if "R_D" in problem.free and len(budgets) == 1:
        notes.append("all runs have one number of unique tokens: another U is extrapolation")
    return notes

"""How well a law foretells runs larger than those it was fitted to, and which runs tell of that.

Resamples of runs tell how far the constants can be trusted if the formula is right. Small models
bend away from any formula (they learn how often each token is before they learn anything else), so
beyond the runs the formula is what errs, by about as much as the loss is foretold to fall there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from epochal.scaling.first_fit import FitSettings, make_problem
from epochal.scaling.forms import FORMS
from epochal.scaling.known import KnownLaw
from epochal.scaling.points import Points
from epochal.scaling.result import FamilyFit, FitReport, range_of
from epochal.scaling.solver import solve

SHARES = (0.5, 0.25)
"""Runs with more than this share of the largest compute are foretold from the others. Chosen by
us: by a factor of two and of four, about what a plan asks for."""
TWICE = 2.0
"""Errors of a few runs, as root mean squares, times this cover nearly all of them."""
SPARE = 3
"""Runs beyond the constants of a law that it is fitted to. Chosen by us: with one to spare a law
went through all of its runs and foretold nothing."""
LEARNING, ENOUGH = 0.15, 3
"""A family has begun to learn from context where this many of its runs are so many nats below the
level of token frequencies. Chosen by us: what a document's own frequencies bring is about 0.1."""
UNTRIED = 1.0
"""Where too few runs are left to try: the fall foretold may be all wrong, or twice as deep."""


def doubt(fit: FamilyFit) -> float:
    """By what share of the fall foretold beyond the runs the law may be off.

    The law is fitted without the runs above a half, then a quarter, of the largest compute, and
    foretells them: twice the root mean square of its errors over that of the falls foretold, the
    larger of the two shares counts; 1 where too few runs are left for either.
    """
    rows = fit.points
    found = []
    held = {name: float(fit.inner[fit.form.index(name)]) for name in (*fit.held, *fit.unknown)}
    for share in SHARES:
        large = rows.flops > share * rows.flops.max() * 1.01
        rest, tested = rows.take(~large), rows.take(large)
        if not len(rest):
            continue
        problem = make_problem(rest, fit.form, FitSettings(tie=fit.tied), held, [])
        if len(rest) <= len(problem.free):
            continue
        end = solve(problem, fit.inner[None])
        law = KnownLaw(
            family=fit.family,
            form=fit.form,
            inner=end.constants[0],
            unknown=fit.unknown,
            fitted=range_of(rest),
            doubt=1.0,
        )
        where = (tested.params, tested.tokens, tested.unique_tokens)
        error = law.predict(*where) - tested.loss
        fall = law.beyond(*where)
        size = float(np.sqrt((fall**2).mean()))
        if size > 0:
            found.append(TWICE * float(np.sqrt((error**2).mean())) / size)
    return max(found, default=UNTRIED)


def with_doubt(report: FitReport) -> FitReport:
    """The report, each family's law with its `doubt`."""
    families = {name: replace(fit, doubt=doubt(fit)) for name, fit in report.families.items()}
    return replace(report, families=families)


def learning(points: Points, level: float) -> tuple[Points, dict[str, float]]:
    """The points that a law is fitted to, and the families that are early: lowest loss.

    `level` is the NLL of token frequencies alone. Of a family that learns from context, the runs
    below it, if they are enough for a law; of one that is early, all.
    """
    family = np.array(points.family)
    below, early = points.loss < level, {}
    for name in set(points.family):
        own = family == name
        enough = (own & (points.loss < level - LEARNING)).sum() >= ENOUGH
        if not enough or (own & below).sum() < len(FORMS["data-constrained"].constants) + SPARE:
            if not enough:
                early[name] = float(points.loss[own].min())
            below |= own
    reason = f"no better than token frequencies alone ({level:.3f} nats per token)"
    dropped = [points.drop(index, reason) for index in np.flatnonzero(~below).tolist()]
    kept = replace(points.take(below), dropped=[*points.dropped, *dropped], notes=points.notes)
    return kept, early


def steepest(points: Points, flops: float) -> float:
    """A loss that `flops` beyond the runs may reach, whatever the law: the lowest seen, less twice
    what it fell over the last such factor of compute.

    Twice, because small models fall faster once they learn from context (by up to 1.75 times
    over a factor of two to four, in our runs on the built-in text).
    """
    order = np.argsort(points.flops, kind="stable")
    spent, lowest = points.flops[order], np.minimum.accumulate(points.loss[order])
    factor = max(1.0, flops / float(spent[-1]))
    before = np.interp(np.log(spent[-1] / factor), np.log(spent), lowest)
    # Where the runs do not reach back so far, the fall goes on as over all of them.
    span = np.log(spent[-1] / spent[0])
    share = max(1.0, np.log(factor) / span) if span > 0 else 1.0
    return float(lowest[-1] - 2 * share * (before - lowest[-1]))

"""How well a law predicts runs larger than those it was fitted to, and which runs can show that.

Resamples of runs show how far the constants can be trusted if the formula is right. Small models
bend away from any formula (they learn how often each token is before they learn anything else), so
beyond the runs the formula errs, by about as much as the loss is predicted to fall there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from epochal.data.blend import Blend
from epochal.data.corpus import open_corpus
from epochal.data.store import TokenStore
from epochal.errors import EpochalError
from epochal.estimates import Floats, unigram_nll
from epochal.results import Note, note
from epochal.runs import RunRecord
from epochal.scaling.forms import FORMS, Form, Inputs
from epochal.scaling.law import ScalingLaw
from epochal.scaling.notes import DropReason, PointsNote
from epochal.scaling.options import FitOptions
from epochal.scaling.point_fit import make_problem
from epochal.scaling.points import Points
from epochal.scaling.solver import FitProblem, solve

SHARES = (0.5, 0.25)
"""Runs with more than this share of the largest compute are predicted from the others. Chosen
by us: a factor of two and of four, about what a plan asks for."""
TWICE = 2.0
"""Errors of a few runs, as root mean squares, times this cover nearly all of them."""
SPARE = 3
"""Runs that a fit needs beyond the constants of its law. Chosen by us: with one to spare a law
passed through all of its runs and predicted nothing."""
LEARNING, ENOUGH = 0.15, 3
"""A family has begun to learn from context if ENOUGH of its runs are LEARNING nats below the
unigram NLL. Chosen by us: a document's own token frequencies are worth about 0.1."""
UNKNOWN_EXTRAPOLATION_ERROR = 1.0
"""If too few runs are left to test: the predicted fall may be all wrong, or twice as deep."""
COUNTED = 10_000_000
"""Tokens of a text that are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutCheck:
    """The law fitted without the largest budget, and its relative errors there."""

    runs: list[str]
    flops_from: float
    """Smallest compute of the runs held out."""
    mean_relative_error: float
    largest_relative_error: float
    bias: float
    """Mean of predicted over seen, minus 1."""


def held_out_check(problem: FitProblem, start: Floats, rows: Points) -> HeldOutCheck | None:
    """Fit without the largest budget: FLOPs above half of the most, up to a fifth of the rows.

    None if too few rows are left.
    """
    order = np.argsort(-rows.flops, kind="stable")
    many = int((rows.flops >= 0.5 * rows.flops.max()).sum())
    out = order[: max(1, min(many, len(rows) // 5))]
    keep = np.setdiff1d(np.arange(len(rows)), out)
    if len(keep) <= len(problem.free) + 1:
        return None
    rest = rows.take(keep)
    part = dataclasses.replace(
        problem,
        where=Inputs.at(rest.params, rest.tokens, rest.unique_tokens),
        log_loss=np.log(rest.loss),
    )
    end = solve(part, start[None])
    law = ScalingLaw(family="", form=problem.form, theta=end.constants[0])
    predicted = law.predict(rows.params[out], rows.tokens[out], rows.unique_tokens[out])
    error = np.abs(predicted / rows.loss[out] - 1)
    return HeldOutCheck(
        runs=[rows.run[i] for i in out],
        flops_from=float(rows.flops[out].min()),
        mean_relative_error=float(error.mean()),
        largest_relative_error=float(error.max()),
        bias=float((predicted / rows.loss[out] - 1).mean()),
    )


def extrapolation_error(
    rows: Points,
    form: Form,
    theta: Floats,
    fixed: Mapping[str, float],
    unknown: frozenset[str],
    tie_exponents: bool,
) -> float:
    """Share of the predicted fall beyond the runs by which the law may be wrong.

    The law is fitted without the runs above a half, then a quarter, of the largest compute, and
    predicts them: twice the root mean square of its errors over that of the predicted falls, the
    larger of the two shares; 1 if too few runs are left for either. `fixed` are unconstrained
    values, those of `unknown` constants included.
    """
    errors = []
    options = FitOptions(tie_exponents=tie_exponents)
    for share in SHARES:
        large = rows.flops > share * rows.flops.max() * 1.01
        rest, tested = rows.take(~large), rows.take(large)
        if not len(rest):
            continue
        problem = make_problem(rest, form, options, fixed, [])
        if len(rest) <= len(problem.free):
            continue
        law = ScalingLaw(
            family="",
            form=form,
            theta=solve(problem, theta[None]).constants[0],
            unknown=unknown,
            fitted_range=rest.ranges,
            extrapolation_error=1.0,
        )
        where = (tested.params, tested.tokens, tested.unique_tokens)
        error = law.predict(*where) - tested.loss
        size = float(np.sqrt((law.extrapolation_margin(*where) ** 2).mean()))
        if size > 0:
            errors.append(TWICE * float(np.sqrt((error**2).mean())) / size)
    return max(errors, default=UNKNOWN_EXTRAPOLATION_ERROR)


def optimistic_loss(points: Points, flops: float) -> float:
    """A loss that `flops` beyond the runs may reach, whatever the law: the lowest seen, less twice
    what it fell over the last such factor of compute.

    Twice, because small models fall faster once they learn from context (by up to 1.75 times
    over a factor of two to four, in our runs on the built-in text).
    """
    order = np.argsort(points.flops, kind="stable")
    spent, lowest = points.flops[order], np.minimum.accumulate(points.loss[order])
    factor = max(1.0, flops / float(spent[-1]))
    before = np.interp(np.log(spent[-1] / factor), np.log(spent), lowest)
    # Where the runs do not reach back so far, the fall continues as over all of them.
    span = np.log(spent[-1] / spent[0])
    share = max(1.0, np.log(factor) / span) if span > 0 else 1.0
    return float(lowest[-1] - 2 * share * (before - lowest[-1]))


def corpus_unigram_nll(train: TokenStore, validation: TokenStore, vocabulary: int) -> float:
    """NLL of the validation tokens under the frequencies of the training tokens, nats per token."""
    nll = unigram_nll(np.bincount(train.tokens[:COUNTED], minlength=vocabulary).astype(float))
    seen = np.bincount(validation.tokens[:COUNTED], minlength=vocabulary)
    return float((seen * nll).sum() / seen.sum())


def drop_unigram_level_runs(points: Points, level: float) -> tuple[Points, dict[str, float]]:
    """(points to fit a law to, family → lowest loss of those that do not yet beat `level`).

    `level` is the unigram NLL. Of a family that learns from context the runs below it are kept, if
    they are enough for a law; of one that does not yet, all are.
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
    reason = note(DropReason.UNIGRAM_LEVEL, unigram_nll=level)
    dropped = [points.drop(index, reason) for index in np.flatnonzero(~below).tolist()]
    kept = replace(points.take(below), dropped=[*points.dropped, *dropped], notes=points.notes)
    return kept, early


def unigram_level_notes(points: Points) -> list[Note]:
    """Counts of runs that are no better than the unigram NLL of their corpus.

    Nothing for points without run folders, and where their corpus is not found.
    """
    if not points.recipes:
        return []
    level = _level(points.run[int(np.argmax(points.unique_tokens))])
    if level is None:
        return []
    notes = []
    for family in sorted(set(points.family)):
        own = points.of_family(family)
        if count := int((own.loss >= level).sum()):
            code = PointsNote.RUNS_AT_UNIGRAM_LEVEL
            notes.append(note(code, family=family, count=count, total=len(own), unigram_nll=level))
    return notes


def _level(run: str) -> float | None:
    """The unigram NLL of a run's corpus; None where it is not found, or mixes stores."""
    try:
        record = RunRecord(run)
        corpus = open_corpus(record.data)
    except EpochalError:
        return None
    if isinstance(corpus.train, Blend):
        return None
    return corpus_unigram_nll(corpus.train, corpus.validation, corpus.tokenizer.vocabulary)

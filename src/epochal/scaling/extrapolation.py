"""How well a law foretells runs larger than those it was fitted to, and which runs tell of that.

Resamples of runs tell how far the constants can be trusted if the formula is right. Small models
bend away from any formula (they learn how often each token is before they learn anything else), so
beyond the runs the formula is what errs, by about as much as the loss is foretold to fall there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from epochal.data.blend import Blend
from epochal.data.corpus import open_corpus
from epochal.data.store import TokenStore
from epochal.errors import EpochalError
from epochal.runs import RunRecord
from epochal.scaling.forms import FORMS
from epochal.scaling.law import ScalingLaw
from epochal.scaling.point_fit import FitSettings, make_problem
from epochal.scaling.points import Points
from epochal.scaling.result import FamilyFit, FitReport, range_of
from epochal.scaling.solver import solve
from epochal.scaling.verdict import TITLES

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
UNKNOWN_EXTRAPOLATION_ERROR = 1.0
"""Where too few runs are left to try: the fall foretold may be all wrong, or twice as deep."""


def extrapolation_error(fit: FamilyFit) -> float:
    """By what share of the fall foretold beyond the runs the law may be off.

    The law is fitted without the runs above a half, then a quarter, of the largest compute, and
    foretells them: twice the root mean square of its errors over that of the falls foretold, the
    larger of the two shares counts; 1 where too few runs are left for either.
    """
    rows = fit.points
    found = []
    held = {name: float(fit.theta[fit.form.index(name)]) for name in (*fit.held, *fit.unknown)}
    for share in SHARES:
        large = rows.flops > share * rows.flops.max() * 1.01
        rest, tested = rows.take(~large), rows.take(large)
        if not len(rest):
            continue
        problem = make_problem(rest, fit.form, FitSettings(tie=fit.tied), held, [])
        if len(rest) <= len(problem.free):
            continue
        end = solve(problem, fit.theta[None])
        law = ScalingLaw(
            family=fit.family,
            form=fit.form,
            theta=end.constants[0],
            unknown=fit.unknown,
            fitted_range=range_of(rest),
            extrapolation_error=1.0,
        )
        where = (tested.params, tested.tokens, tested.unique_tokens)
        error = law.predict(*where) - tested.loss
        fall = law.extrapolation_margin(*where)
        size = float(np.sqrt((fall**2).mean()))
        if size > 0:
            found.append(TWICE * float(np.sqrt((error**2).mean())) / size)
    return max(found, default=UNKNOWN_EXTRAPOLATION_ERROR)


def with_extrapolation_error(report: FitReport) -> FitReport:
    """The report, each family's law with its `doubt`."""
    families = {
        name: replace(fit, extrapolation_error=extrapolation_error(fit))
        for name, fit in report.families.items()
    }
    return replace(report, families=families)


def drop_unigram_level_runs(points: Points, level: float) -> tuple[Points, dict[str, float]]:
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
    # Where the runs do not reach back so far, the fall goes on as over all of them.
    span = np.log(spent[-1] / spent[0])
    share = max(1.0, np.log(factor) / span) if span > 0 else 1.0
    return float(lowest[-1] - 2 * share * (before - lowest[-1]))


COUNTED = 10_000_000
"""Tokens of the text that are counted."""


def corpus_unigram_nll(train: TokenStore, validation: TokenStore, vocabulary: int) -> float:
    """NLL of the validation tokens by the frequencies of the training tokens, nats per token.

    Each token is counted once more than it was seen.
    """
    counts = np.bincount(train.tokens[:COUNTED], minlength=vocabulary) + 1.0
    seen = np.bincount(validation.tokens[:COUNTED], minlength=vocabulary)
    return float(-(seen * np.log(counts / counts.sum())).sum() / seen.sum())


def plateau_notes(points: Points) -> list[str]:
    """What is to be said of runs that are no better than that.

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
        behind = int((own.loss >= level).sum())
        if behind:
            notes.append(
                f"{behind} of {len(own)} {TITLES[family]} runs are no better than token "
                f"frequencies alone ({level:.3f} nats per token): they say nothing of the fall "
                "that follows, so leave them out, or train longer"
            )
    return notes


def _level(run: str) -> float | None:
    """That of a run's corpus; None where it is not found, or mixes stores."""
    try:
        record = RunRecord(run)
        corpus = open_corpus(record.data)
    except EpochalError:
        return None
    if isinstance(corpus.train, Blend):
        return None
    return corpus_unigram_nll(corpus.train, corpus.validation, corpus.tokenizer.vocabulary)

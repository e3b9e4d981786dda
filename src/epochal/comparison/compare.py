"""Which family learned more from the same unique tokens.

Errors cover the validation documents, for bounds the mask draws, and seeds where a family has
several. The best recipe of each family counts, by the mean over its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from epochal.comparison.curve_crossing import CurveCrossing, curve_crossing
from epochal.comparison.table import (
    FamilyLine,
    family_lines,
    mean_nll,
    recipes,
    shared_pair_tasks,
)
from epochal.errors import RunError
from epochal.estimates import Estimate, Gap, gap_of_seeds
from epochal.families import family_names, get_family
from epochal.results import Note, NoteCode, note
from epochal.runs import NLLResult, RunRecord
from epochal.runs.comparable import SAME_TASK, check_comparable
from epochal.runs.curves import validation_curve
from epochal.runs.summary import RunSummary, summarise

CLOSE = 2.0
"""A difference of up to this many standard errors is too close to call."""
EQUAL_COMPUTE = 0.02
"""Two runs whose compute differs by more than this share did not have the same."""
CLEAR = 0.01
"""Nats, beyond two standard errors, from which a difference is clear: another seed alone would
change a loss by about as much."""


class ComparisonNote(NoteCode):
    """What a reader of a comparison should know besides."""

    BOUNDS = "comparison_has_bounds"
    """Values: bounds, exact (names of families)."""
    MASKED = "comparison_read_with_masks"
    """Values: nll (family of exact NLL → its bound when read with masks, and the error)."""
    ERROR_SCOPE = "comparison_error_scope"
    """What the standard errors cover. Values: seeds (family → how many)."""
    UNEQUAL_COMPUTE = "comparison_of_unequal_compute"
    """Values: flops (family → FLOPs of its best run)."""
    UNEQUAL_PRECISION = "comparison_of_unequal_precision"
    """Values: precisions (family → those of its best recipe's runs)."""
    UNFINISHED = "comparison_of_unfinished_runs"
    """Values: runs."""
    LEFT_OUT = "comparison_leaves_out"
    """Values: runs whose NLL is not finite."""
    NOT_VALIDATED = "comparison_leaves_out_not_validated"
    """Values: runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The best recipes of two families."""

    families: tuple[str, str]
    difference: float
    """NLL of the second minus NLL of the first, nats per token; of several seeds the mean."""
    standard_error: float
    leader: str | None
    """The family with the lower NLL; None where that is too close to call."""
    crossing: CurveCrossing | None
    """Where one run's curve comes below the other's, if the runs show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs of two or more families that learned from the same tokens."""

    runs: list[RunSummary]
    families: list[FamilyLine]
    """One each, in the order of the list of families."""
    reference: str
    """The first of them, whose best NLL the compute of the others is given for."""
    pair_tasks: list[str]
    """Minimal-pair tasks that all families with any were scored on."""
    best: Mapping[str, str]
    """Family → folder of its best run."""
    leaders: list[str]
    """The family whose best has the lowest NLL, and those too close to it to call; by NLL."""
    pairs: list[Pair]
    """Of any two families, in the order of the list of families."""
    notes: list[Note]
    left_out: list[str] = field(default_factory=list)
    """Folders of runs without a finite evaluation."""

    def best_run(self, family: str) -> RunSummary:
        """The best run of a family."""
        return next(run for run in self.runs if run.run == self.best[family])

    def line(self, family: str) -> FamilyLine:
        """The line of a family."""
        return next(line for line in self.families if line.family == family)


def compare_runs(
    records: Sequence[RunRecord], left_out: Sequence[str] = (), unvalidated: Sequence[str] = ()
) -> Comparison:
    """Compare the best recipe of each family.

    Runs whose evaluation is not finite are left out and listed, after those of `left_out`; so are
    the folders `unvalidated`, of runs not validated yet. Raises
    RunError for runs of fewer than two families, for a run without an evaluation, and for runs
    that did not learn from the same tokens or were not scored on the same ones.
    """
    check_comparable(records, "give runs of one corpus and one number of unique tokens", SAME_TASK)
    nll = {record.path: _result(record).nll_nats_per_token for record in records}
    finite = [record for record in records if math.isfinite(nll[record.path])]
    left_out = [*left_out, *(str(r.path) for r in records if r not in finite)]
    best = best_recipes(finite)
    if len(best) < 2:
        raise RunError(_too_few(list(best), left_out))
    pairs = [_pair(first, second) for first, second in combinations(best.values(), 2)]
    lowest, *others = sorted(best, key=lambda family: mean_nll(best[family]))
    clear = {family for p in pairs if p.leader and lowest in p.families for family in p.families}
    summaries = [summarise(record) for record in finite]
    lines = family_lines(best, finite)
    return Comparison(
        runs=summaries,
        families=lines,
        reference=lines[0].family,
        pair_tasks=shared_pair_tasks(best),
        best={line.family: line.runs[0] for line in lines},
        leaders=[lowest, *(family for family in others if family not in clear)],
        pairs=pairs,
        notes=[
            *_notes(summaries, lines, best, left_out),
            *([note(ComparisonNote.NOT_VALIDATED, runs=[*unvalidated])] if unvalidated else []),
        ],
        left_out=[*left_out, *unvalidated],
    )


def best_recipes(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Family → the runs of its recipe with the lowest mean NLL, one per seed, by rising NLL.

    In the order of the list of families; runs without a finite evaluation are left out.
    """
    scored = [record for record in records if math.isfinite(mean_nll([record]))]
    own = recipes(scored)
    return {
        family: min(groups, key=mean_nll)
        for family in family_names()
        if (groups := [group for group in own if group[0].family == family])
    }


def nll_difference(run: RunRecord, other: RunRecord) -> tuple[float, float]:
    """NLL of `run` minus that of `other` at their best, on the same documents, and its error.

    Raises RunError where one was not evaluated, or not on the same tokens in the same way.
    """
    found = nll_gap([run], [other])
    return found.difference, found.error


def nll_gap(runs: Sequence[RunRecord], others: Sequence[RunRecord]) -> Gap:
    """Mean NLL of `runs` minus that of `others` at their best, paired by document.

    Both are seeds of one recipe each. Raises RunError where one was not evaluated, or not on the
    same tokens in the same way.
    """
    run, other = runs[0], others[0]
    results = [_result(one) for one in (*runs, *others)]
    same = ("validation_sha256", "sequence_length")
    if all(getattr(one, name) == getattr(results[0], name) for one in results for name in same):
        try:
            return gap_of_seeds(list(map(_estimate, runs)), list(map(_estimate, others)))
        except ValueError:  # not the same documents
            pass
    raise RunError(
        f"the best checkpoints of {run.path} and {other.path} were not scored on the same tokens "
        "in the same way (another validation set, estimator or sequence length), so their NLL "
        "cannot be compared; run `epochal eval` on both again"
    )


def is_clear(difference: float, error: float) -> bool:
    """Whether a difference of two NLLs, in nats per token, is more than chance."""
    return abs(difference) > max(CLEAR, 2 * error)


def _too_few(families: Sequence[str], left_out: Sequence[str]) -> str:
    """The error for runs of fewer than two families."""
    finite = " with a finite NLL" if left_out else ""
    there = f"all are {get_family(families[0]).title}" if families else "there is none"
    listed = f" (left out: {', '.join(left_out)})" if left_out else ""
    return (
        f"a comparison needs runs{finite} of two families or more, but {there}; give at least one "
        f"run of another, from {', '.join(family_names())}{listed}"
    )


def _result(record: RunRecord) -> NLLResult:
    result = record.evaluation("best")
    if result is None:
        raise RunError(
            f"the best checkpoint of {record.path} has not been evaluated; run `epochal eval "
            f"{record.path}`"
        )
    return result


def _pair(firsts: Sequence[RunRecord], seconds: Sequence[RunRecord]) -> Pair:
    """Of the recipes' runs, the best first; the crossing is of these two."""
    first, second = firsts[0], seconds[0]
    families = first.family, second.family
    gap = nll_gap(seconds, firsts)
    difference, error = gap.difference, gap.error
    close = abs(difference) <= CLOSE * error
    leader = None if close else families[0] if difference > 0 else families[1]
    a, b = validation_curve(first), validation_curve(second)
    crossing = None if a is None or b is None else curve_crossing({families[0]: a, families[1]: b})
    # Curves in training are estimated from few mask draws. Where the evaluations do not confirm
    # that the later family has passed the other (or that it has not yet), they show nothing.
    if crossing is not None and (crossing.kind == "seen") != (leader == crossing.later):
        crossing = None
    return Pair(
        families=families,
        difference=difference,
        standard_error=error,
        leader=leader,
        crossing=crossing,
    )


def _estimate(record: RunRecord) -> Estimate:
    result = _result(record)
    totals, tokens, variances = record.document_sums(result)
    return Estimate(
        nll=result.nll_nats_per_token,
        error_draws=result.standard_error_draws,
        error_documents=np.nan,
        unit_totals=totals,
        unit_tokens=tokens,
        unit_variances=variances,
    )


def _notes(
    runs: Sequence[RunSummary],
    lines: Sequence[FamilyLine],
    best: Mapping[str, Sequence[RunRecord]],
    left_out: Sequence[str],
) -> list[Note]:
    exact = [family for family in best if get_family(family).exact]
    notes = []
    if bounds := [family for family in best if family not in exact]:
        notes.append(note(ComparisonNote.BOUNDS, bounds=bounds, exact=exact))
    masked = {family: own[0].evaluation("best", masked=True) for family, own in best.items()}
    if nll := {
        family: (found.nll_nats_per_token, found.standard_error)
        for family, found in masked.items()
        if found is not None
    }:
        notes.append(note(ComparisonNote.MASKED, nll=nll))
    notes.append(note(ComparisonNote.ERROR_SCOPE, seeds={k: len(own) for k, own in best.items()}))
    flops = {line.family: line.flops for line in lines}
    if math.log(max(flops.values()) / max(min(flops.values()), 1.0)) > EQUAL_COMPUTE:
        notes.append(note(ComparisonNote.UNEQUAL_COMPUTE, flops=flops))
    precisions = {
        family: sorted({r.info.get("machine", {}).get("precision", "unknown") for r in own})
        for family, own in best.items()
    }
    if len({found for own in precisions.values() for found in own} - {"unknown"}) > 1:
        notes.append(note(ComparisonNote.UNEQUAL_PRECISION, precisions=precisions))
    if unfinished := [run.run for run in runs if run.status != "finished"]:
        notes.append(note(ComparisonNote.UNFINISHED, runs=unfinished))
    if left_out:
        notes.append(note(ComparisonNote.LEFT_OUT, runs=list(left_out)))
    return notes

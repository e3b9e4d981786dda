"""Runs that may be compared, the verdict on each such group, and where frontiers cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from epochal.comparison import Comparison, compare_runs
from epochal.errors import RunError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.report.collect import Run
from epochal.results import Note, NoteCode, note
from epochal.runs.comparable import SAME_SCALE, SAME_TASK, mismatches
from epochal.runs.curves import pareto_frontier


class NoVerdict(NoteCode):
    """Why a group has no verdict."""

    ONE_FAMILY = "one_family"
    """Values: family, runs (how many), unique_tokens."""
    NOT_VALIDATED = "family_without_validation"
    """Values: family."""
    NOT_EVALUATED = "families_without_evaluation"
    """Values: runs (folders of those to evaluate)."""
    NOT_COMPARABLE = "not_comparable"
    """Values: error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that learned from the same tokens and were scored on the same ones."""

    runs: list[Run]
    verdict: Comparison | Note
    """The comparison, or why there is none."""
    left_out: list[Run]
    """Runs without an evaluation, which the comparison does not cover."""

    @property
    def comparison(self) -> Comparison | None:
        return None if isinstance(self.verdict, Note) else self.verdict


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs that share corpus, vocabulary and context length, in order, each with its verdict."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if not mismatches([group[0].record, run.record], SAME_TASK):
                group.append(run)
                break
        else:
            groups.append([run])
    return [_judge(group) for group in groups]


def _judge(runs: list[Run]) -> Group:
    evaluated = [run for run in runs if run.result is not None and run.curve is not None]
    verdict = _verdict(runs, evaluated)
    left_out = [] if isinstance(verdict, Note) else [run for run in runs if run not in evaluated]
    return Group(runs=runs, verdict=verdict, left_out=left_out)


def _verdict(runs: list[Run], evaluated: list[Run]) -> Comparison | Note:
    families = [name for name in family_names() if any(run.family == name for run in runs)]
    if len(families) < 2:
        unique = runs[0].unique_tokens
        return note(NoVerdict.ONE_FAMILY, family=families[0], runs=len(runs), unique_tokens=unique)
    if len({run.family for run in evaluated}) < 2:
        best = []
        for family in set(families) - {run.family for run in evaluated}:
            # A run that has not been validated even once has no best checkpoint to evaluate.
            ready = [run for run in runs if run.family == family and run.nll is not None]
            if not ready:
                return note(NoVerdict.NOT_VALIDATED, family=family)
            best.append(str(min(ready, key=lambda run: run.nll or 0.0).record.path))
        return note(NoVerdict.NOT_EVALUATED, runs=sorted(best))
    try:
        return compare_runs([run.record for run in evaluated])
    except RunError as error:
        return note(NoVerdict.NOT_COMPARABLE, error=str(error))


def on_one_scale(groups: Sequence[Group]) -> bool:
    """Whether the losses of all runs are comparable, so that a common frontier makes sense."""
    return not mismatches([run.record for group in groups for run in group.runs], SAME_SCALE)


def several(runs: Sequence[Run]) -> list[str]:
    """Families with more than one curve: of a single one the frontier is the curve."""
    curves = [run.family for run in runs if run.curve is not None]
    return [family for family in family_names() if curves.count(family) > 1]


def frontiers(runs: Sequence[Run]) -> dict[str, tuple[Floats, Floats]]:
    """Per family (flops, nll): the lowest NLL that any of its runs had by each compute."""
    curves = {
        family: [run.curve for run in runs if run.family == family and run.curve is not None]
        for family in family_names()
    }
    return {family: pareto_frontier(own) for family, own in curves.items() if own}


@dataclass(frozen=True, slots=True)
class FrontierLead:
    """Which of two families has the lower frontier at last."""

    leader: str
    behind: str
    since: float | None
    """FLOPs from which it stays the lower one; None: at every compute that both have."""


def frontier_leads(groups: Sequence[Group]) -> list[FrontierLead]:
    """For each pair of families with several runs each; only where all runs are one group.

    With one run of each, the comparison says where the two curves cross, with an interval.
    """
    if len(groups) != 1:
        return []
    found, leads = frontiers(groups[0].runs), []
    for pair in combinations(several(groups[0].runs), 2):
        grid = np.union1d(*(found[family][0] for family in pair))
        grid = grid[grid >= max(found[family][0][0] for family in pair)]
        # A frontier is a staircase: what was reached by a compute stays reached.
        nll = {
            family: found[family][1][np.searchsorted(found[family][0], grid, side="right") - 1]
            for family in pair
        }
        leader, behind = sorted(pair, key=lambda family: float(nll[family][-1]))
        if nll[leader][-1] < nll[behind][-1]:
            before = np.flatnonzero(nll[leader] >= nll[behind])
            since = float(grid[before[-1] + 1]) if len(before) else None
            leads.append(FrontierLead(leader, behind, since))
    return leads

"""Run folders → what the page needs of each run, and of the groups that can be compared.

A report is also made of runs in progress, that were stopped or that nobody has evaluated, and of
records whose recipe has keys that are unknown today. So little is required here: family, status,
the numbers and the two hashes of the corpus; all else may be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np

from epochal.comparison import Comparison, CurveCrossing, compare_runs
from epochal.errors import RunError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.recipe.load import read_toml
from epochal.recipe.renames import rename_tree
from epochal.results import Note, NoteCode, note
from epochal.runs import NLLResult, RunRecord, Status
from epochal.runs.comparable import SAME_SCALE, SAME_TASK, mismatches
from epochal.runs.curves import Curve, pareto_frontier, validation_curve
from epochal.runs.find import find_runs
from epochal.runs.summary import RunSummary, summarise


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


def curve_crossings(groups: Sequence[Group]) -> list[CurveCrossing]:
    """Where curves of two families cross, if all runs are one group and it is known."""
    comparison = groups[0].comparison if len(groups) == 1 else None
    return [pair.crossing for pair in comparison.pairs if pair.crossing] if comparison else []


def frontiers(groups: Sequence[Group]) -> dict[str, tuple[Floats, Floats]]:
    """Per family (flops, nll): the lowest NLL that any of its runs had by each compute.

    None of a family with a single curve, which is its frontier, nor where losses do not compare.
    """
    runs = [run for group in groups for run in group.runs]
    curves = {
        family: [run.curve for run in runs if run.family == family and run.curve is not None]
        for family in family_names()
    }
    if not on_one_scale(groups):
        return {}
    return {family: pareto_frontier(own) for family, own in curves.items() if len(own) > 1}


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
    found, leads = frontiers(groups), []
    for pair in combinations(found, 2):
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One run as the page shows it: its record, its summary, and what is drawn of it."""

    record: RunRecord
    summary: RunSummary
    label: str
    """The folder's name, with the folder above it, or its path, where another has the same."""
    curve: Curve | None
    """Validation during training; None before the first evaluation."""
    loss: tuple[Floats, Floats]
    """(epochs, training loss) from the log."""
    result: NLLResult | None
    """`epochal eval` of the best checkpoint; None if that has not been done."""
    recipe: dict[str, Any]
    """recipe.toml as nested values, under today's keys."""
    samples: list[tuple[str, str]]
    """(prompt, text) that the trained model wrote."""

    @property
    def family(self) -> str:
        return self.summary.family

    @property
    def params(self) -> int:
        return int(self.record.numbers["params"])

    @property
    def unique_tokens(self) -> int:
        return int(self.record.numbers["unique_tokens"])

    @property
    def nll(self) -> float | None:
        """Best NLL: evaluated, else the lowest in training; None if there is neither."""
        return self.summary.nll

    @property
    def best(self) -> tuple[float, float] | None:
        """(epochs, FLOPs) at which `nll` was reached; None if there is none."""
        numbers, summary = self.record.numbers, self.summary
        if self.result is not None:
            share = self.result.step / numbers["steps"]
            return float(numbers["epochs"]) * share, float(numbers["flops"]) * share
        if summary.best_epoch is None or summary.best_flops is None:
            return None
        return summary.best_epoch, summary.best_flops

    @property
    def outdated(self) -> bool:
        """Whether training has found a better checkpoint since the evaluation."""
        best_step = self.summary.best_step
        return self.result is not None and best_step not in (None, self.result.step)


def read_runs(places: Sequence[str | Path]) -> list[Run]:
    """All runs, in the order of the table: by unique tokens, family, parameters and compute.

    Raises RunError or RecipeError for a place without runs and for a damaged record.
    """
    runs = [_read(path) for path in find_runs(places)]
    times = Counter(run.label for run in runs)
    runs = [r if times[r.label] == 1 else replace(r, label=_longer(r, runs)) for r in runs]
    order = family_names().index
    return sorted(
        runs, key=lambda r: (r.unique_tokens, order(r.family), r.params, r.summary.flops_spent)
    )


def _longer(run: Run, runs: Sequence[Run]) -> str:
    """The last two parts of a run's path, or all of it where another has the same."""
    parts = [other.record.path.parts[-2:] for other in runs]
    own = run.record.path.parts[-2:]
    return "/".join(own) if parts.count(own) == 1 else str(run.record.path)


def _read(path: Path) -> Run:
    record = RunRecord(path)
    try:
        return _run(record)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise RunError(
            f"the record of the run {path} is damaged ({type(error).__name__}: {error}); fix its "
            "run.json and metrics.jsonl or leave the run out"
        ) from error


def _run(record: RunRecord) -> Run:
    if record.family not in family_names() or record.status not in get_args(Status):
        raise ValueError(f"family {record.family!r}, status {record.status!r}")
    log = record.metrics("train")
    run = Run(
        record=record,
        summary=summarise(record),
        label=record.name,
        curve=validation_curve(record),
        loss=(
            np.array([line["epochs"] for line in log], dtype=float),
            np.array([line["loss"] for line in log], dtype=float),
        ),
        result=record.evaluation("best"),
        recipe=rename_tree(read_toml(record.folder.recipe_file), notice=False),
        samples=[(str(s["prompt"]), str(s["text"])) for s in record.samples()],
    )
    # Read here, so that what is missing is reported as damage of this run.
    _ = [float(record.numbers[key]) for key in ("steps", "params", "flops", "epochs")]
    _ = (run.unique_tokens, run.best)
    _ = [record.info["corpus"][role]["content_sha256"] for role in ("train", "validation")]
    return run

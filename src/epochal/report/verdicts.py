"""Which runs may be compared, and the sentence about each such group."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from epochal.analysis import Comparison, compare_runs
from epochal.errors import RunError
from epochal.recipe import FAMILIES, FAMILY_TITLES
from epochal.report.collect import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that learned from the same tokens and were judged on the same ones."""

    runs: list[Run]
    unique_tokens: int
    comparison: Comparison | None
    """None where there is no verdict."""
    sentence: str
    """The verdict, or why there is none."""
    left_out: list[Run]
    """Runs without an evaluation, on which the verdict is silent."""


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs by corpus, in the order of the runs, each with its verdict."""
    by_corpus: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_corpus.setdefault(run.corpus, []).append(run)
    return [_judge(members) for members in by_corpus.values()]


def _judge(runs: list[Run]) -> Group:
    evaluated = [run for run in runs if run.result is not None and run.curve is not None]
    left_out = [run for run in runs if run not in evaluated]
    comparison = None
    families = {run.family for run in runs}
    if len(families) < len(FAMILIES):
        sentence = _one_family(runs)
    elif missing := families - {run.family for run in evaluated}:
        sentence = _not_evaluated(runs, missing)
    else:
        try:
            comparison = compare_runs([run.record for run in evaluated])
            sentence = comparison.verdict
        except RunError as error:
            sentence = f"No verdict: {error}."
    return Group(
        runs=runs,
        unique_tokens=runs[0].unique_tokens,
        comparison=comparison,
        sentence=sentence,
        left_out=left_out if comparison else [],
    )


def _one_family(runs: list[Run]) -> str:
    family, tokens = runs[0].family, f"{runs[0].unique_tokens:,} unique tokens"
    (other,) = (FAMILY_TITLES[name] for name in FAMILIES if name != family)
    what = "this run is" if len(runs) == 1 else f"all {len(runs)} runs are"
    return (
        f"No verdict on these {tokens}: {what} {FAMILY_TITLES[family]}, and a verdict needs "
        f"one that is {other} beside it, on the same tokens."
    )


def _not_evaluated(runs: list[Run], missing: set[str]) -> str:
    """What to type so that the `missing` families have an evaluated run."""
    commands = []
    for family in sorted(missing):
        # A run that has not been validated even once has no best checkpoint to evaluate.
        ready = [run for run in runs if run.family == family and run.nll is not None]
        if not ready:
            return (
                f"No verdict yet: no {FAMILY_TITLES[family]} run has come to a validation so far."
            )
        best = min(ready, key=lambda run: run.nll or 0.0)
        commands.append(f"`epochal eval {shlex.quote(str(best.record.path))}`")
    return (
        "No verdict yet: the best checkpoints have not been evaluated in both families; run "
        f"{' and '.join(commands)}."
    )

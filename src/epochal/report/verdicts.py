"""Which runs may be compared, and the sentence about each such group."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from epochal.comparison import Comparison, compare_runs
from epochal.errors import RunError
from epochal.families import family_names, get_family
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
    if len(families) < len(family_names()):
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
    (other,) = (get_family(name).title for name in family_names() if name != family)
    what = "this run is" if len(runs) == 1 else f"all {len(runs)} runs are"
    return (
        f"No verdict on these {tokens}: {what} {get_family(family).title}, and a verdict needs "
        f"one that is {other} beside it, on the same tokens."
    )


def _not_evaluated(runs: list[Run], missing: set[str]) -> str:
    """What to type so that the `missing` families have an evaluated run."""
    commands = []
    for family in sorted(missing):
        # A run that has not been validated even once has no best checkpoint to evaluate.
        ready = [run for run in runs if run.family == family and run.nll is not None]
        if not ready:
            title = get_family(family).title
            return f"No verdict yet: no {title} run has come to a validation so far."
        best = min(ready, key=lambda run: run.nll or 0.0)
        commands.append(f"`epochal eval {shlex.quote(str(best.record.path))}`")
    return (
        "No verdict yet: the best checkpoints have not been evaluated in both families; run "
        f"{' and '.join(commands)}."
    )

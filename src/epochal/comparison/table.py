"""A line of numbers per family: the mean over the seeds of its best recipe.

The best recipe is that with the lowest mean NLL; runs that differ in the seed alone are one recipe.
The compute to reach a loss comes from the validation curve in training, shifted so that its lowest
point is the evaluated NLL, since a curve is an estimate from fewer tokens and draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from epochal.errors import EpochalError
from epochal.results import Note, NoteCode, note
from epochal.runs import RunRecord
from epochal.runs.curves import Curve, validation_curve
from epochal.runs.summary import RunSummary, summarise
from epochal.scaling.checks import Interval
from epochal.scaling.options import FitOptions
from epochal.scaling.read import read_points
from epochal.scaling.repetition import PenaltyFit, family_costs

_RESAMPLES = 200
_LENGTHS = 3
"""Of runs that P needs: with fewer, A, B and beta are not told apart."""
_MODES = ("exact", "bound", "pseudo")
"""How minimal pairs are scored, the preferred one first."""


class Missing(NoteCode):
    """Why a line has no value."""

    FEW_LENGTHS = "penalty_needs_lengths"
    """least: lengths of finished runs that P needs."""
    NOT_FITTED = "penalty_not_fitted"
    """error: why the runs do not determine P."""
    NO_COST = "no_cost_of_repetition_seen"
    """The largest penalty of the runs is below 0.001 nats."""
    NO_CURVE = "no_validation_curve"
    NOT_REACHED = "nll_not_reached"
    """family: whose NLL; above: nats per token by which the lowest NLL of any run is above it,
    negative where only some seeds reached it."""
    NO_PAIRS = "minimal_pairs_not_scored"
    NOT_TIMED = "no_timed_text"
    """No text that the runs wrote has its seconds."""
    NO_LOG = "no_training_log"


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyLine:
    """A family at its best recipe. What is not known is None, with the reason in `missing`."""

    family: str
    runs: list[str]
    """Folders of the recipe's runs, one per seed, the lowest NLL first."""
    params: int | None
    flops: float
    """Spent by a run."""
    epochs: float
    """Seen by a run."""
    nll: float
    """Of the best checkpoints by `epochal eval`, nats per token."""
    error: float
    """Its standard error, over documents, draws and, of several runs, seeds."""
    spread: float | None
    """Standard deviation of the NLL over seeds; None with one."""
    bits_per_byte: float | None
    best_epoch: float | None
    """Of the lowest validation NLL in training."""
    rise: float | None
    """NLL at the end of the family's longest runs minus `nll`, nats per token."""
    penalty: float | None
    """P of the penalty law with both exponents 1, from all of the family's runs: nats of the first
    repetition of as many unique tokens as parameters."""
    penalty_interval: Interval | None
    """95 %; an open end is None."""
    reach_flops: float | None
    """FLOPs at which the best NLL of the comparison's `reference` is reached, of the recipe that
    reaches it with the least; of the reference those at its own best."""
    pairs: float | None
    """Accuracy on minimal pairs, a share; the mean over the comparison's `pair_tasks`."""
    pairs_error: float | None
    """Its standard error over items."""
    pairs_mode: str | None
    """How they were scored: exact, bound or pseudo."""
    train_speed: float | None
    """Tokens per second in training, the median of the log."""
    write_speed: float | None
    """Tokens per second of a single text, the median of those the runs wrote."""
    missing: dict[str, Note] = field(default_factory=dict)
    """Field → why it is None."""


def recipes(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """The runs, those that differ in the seed alone together, each by rising NLL.

    All need an evaluation. Runs whose record has no identity stand alone.
    """
    found: dict[Any, list[RunRecord]] = {}
    for record in records:
        identity = {k: v for k, v in record.info.get("identity", {}).items() if k != "seed"}
        key = repr(sorted(identity.items())) if identity else str(record.path)
        found.setdefault((record.family, key), []).append(record)
    return [sorted(own, key=_nll) for own in found.values()]


def mean_nll(records: Sequence[RunRecord]) -> float:
    """Mean NLL of the best checkpoints of evaluated runs, nats per token."""
    return float(np.mean([_nll(record) for record in records]))


def shared_pair_tasks(best: Mapping[str, Sequence[RunRecord]]) -> list[str]:
    """Minimal-pair tasks, on the same items, that all runs which have any were scored on."""
    own = [set(_pairs(record)[1]) for runs in best.values() for record in runs]
    shared = set.intersection(*known) if (known := [one for one in own if one]) else set()
    return sorted(task for task, *_ in shared)


def family_lines(
    best: Mapping[str, Sequence[RunRecord]], records: Sequence[RunRecord]
) -> list[FamilyLine]:
    """A line per family of `best`, its best recipe's runs; the first family is the reference.

    `records` are all evaluated runs of the comparison, which P and the compute are read from.
    """
    reference = next(iter(best))
    tasks = shared_pair_tasks(best)
    costs = _costs(records)
    target = mean_nll(best[reference])
    own = recipes(records)
    lines = []
    for family, runs in best.items():
        groups = [group for group in own if group[0].family == family]
        reached = (
            _reach([runs], None, reference)
            if family == reference
            else _reach(groups, target, reference)
        )
        rise = ("rise", _rise(groups, mean_nll(runs)), note(Missing.NO_CURVE))
        found = [*costs(family), rise, reached, *_pair_scores(runs, tasks)]
        lines.append(_line(family, runs, found))
    return lines


_Found = tuple[str, Any, Note | None]
"""Field, its value, and why there is none."""


def _line(family: str, runs: Sequence[RunRecord], found: Sequence[_Found]) -> FamilyLine:
    summaries = [summarise(record) for record in runs]
    results = [result for record in runs if (result := record.evaluation("best")) is not None]
    values = [result.nll_nats_per_token for result in results]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    errors = [result.standard_error for result in results]
    speeds = [
        line["tokens_per_second"]
        for record in runs
        for line in record.metrics("train")
        if line.get("tokens_per_second")
    ]
    written = [
        one["tokens"] / one["seconds"]
        for record in runs
        for one in record.samples()
        if one.get("seconds")
    ]
    found = [
        *found,
        ("train_speed", _median(speeds), note(Missing.NO_LOG)),
        ("write_speed", _median(written), note(Missing.NOT_TIMED)),
        ("best_epoch", _mean(summaries, "best_epoch"), note(Missing.NO_CURVE)),
    ]
    return FamilyLine(
        family=family,
        runs=[str(record.path) for record in runs],
        params=summaries[0].params,
        flops=_mean(summaries, "flops_spent") or 0.0,
        epochs=_mean(summaries, "epochs_seen") or 0.0,
        nll=float(np.mean(values)),
        error=math.hypot(float(np.mean(errors)), (spread or 0.0) / len(values) ** 0.5),
        spread=spread,
        bits_per_byte=_mean(summaries, "bits_per_byte"),
        missing={name: why for name, value, why in found if value is None and why is not None},
        **{name: value for name, value, _ in found},
    )


def _nll(record: RunRecord) -> float:
    result = record.evaluation("best")
    return math.inf if result is None else result.nll_nats_per_token


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _mean(summaries: Sequence[RunSummary], name: str) -> float | None:
    """The mean of a number that all have."""
    values = [getattr(one, name) for one in summaries]
    return None if None in values else float(np.mean(values))


def _costs(records: Sequence[RunRecord]) -> Callable[[str], list[_Found]]:
    """Family → P and its interval, by the law of all of its runs."""
    lengths: dict[str, set[float]] = {}
    for record in records:
        lengths.setdefault(record.family, set()).add(record.numbers["epochs"])
    asked = [record for record in records if len(lengths[record.family]) >= _LENGTHS]
    found: PenaltyFit | None = None
    left_out: dict[str, str] = {}
    refused = "no run is finished"
    try:
        if asked:
            points = read_points([record.path for record in asked])
            found, left_out = family_costs(points, FitOptions(bootstraps=_RESAMPLES))
    except EpochalError as error:
        refused = str(error)

    def of(family: str) -> list[_Found]:
        costs = [] if found is None else found.costs
        cost = next((one for one in costs if one.family == family), None)
        why = note(Missing.NO_COST)
        if len(lengths[family]) < _LENGTHS:
            why = note(Missing.FEW_LENGTHS, least=_LENGTHS)
        elif cost is None:
            error = left_out.get(family, refused).removeprefix(f"{family}: ")
            why = note(Missing.NOT_FITTED, error=error)
        return [
            ("penalty", cost and cost.penalty, why),
            ("penalty_interval", cost and cost.interval, None),
        ]

    return of


def _reach(groups: Sequence[Sequence[RunRecord]], target: float | None, reference: str) -> _Found:
    """The least compute at which all seeds of a recipe are at `target`, the mean over them.

    Without a target that of each run's own best.
    """
    reached, lowest, curves = [], math.inf, False
    for runs in groups:
        own = []
        for record in runs:
            if (curve := validation_curve(record)) is not None:
                curves = True
                nll = _nll(record)
                lowest = min(lowest, nll)
                own.append(_flops_at(curve, nll, nll if target is None else target))
        if len(own) == len(runs) and None not in own:
            reached.append(float(np.mean([one for one in own if one is not None])))
    why = note(Missing.NO_CURVE)
    if curves and target is not None:
        why = note(Missing.NOT_REACHED, family=reference, above=lowest - target)
    return "reach_flops", min(reached, default=None), why


def _rise(groups: Sequence[Sequence[RunRecord]], nll: float) -> float | None:
    """The NLL at the end of the best of the recipes with the most epochs, minus `nll`.

    A run's curve is shifted as for the compute.
    """
    longest = max(group[0].numbers["epochs"] for group in groups)
    ends = []
    for group in groups:
        curves = [validation_curve(record) for record in group]
        if group[0].numbers["epochs"] == longest and None not in curves:
            rises = [curve.rise for curve in curves if curve is not None]
            ends.append(mean_nll(group) + float(np.mean(rises)))
    return min(ends) - nll if ends else None


def _flops_at(curve: Curve, nll: float, target: float) -> float | None:
    """Compute at which the curve, shifted so that its lowest point is `nll`, is at `target`.

    Linear in the logarithm of the compute between evaluations; None where it never is.
    """
    best = curve.best_so_far() - curve.nll.min() + nll
    reached = np.flatnonzero(best <= target + 1e-12)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(curve.flops[0])
    share = (best[at - 1] - target) / (best[at - 1] - best[at])
    before, after = np.log(curve.flops[at - 1 : at + 1])
    return float(np.exp(before + min(1.0, share) * (after - before)))


def _pairs(record: RunRecord) -> tuple[str | None, dict[tuple[str, str, int], Mapping[str, Any]]]:
    """(mode, (task, data, items) → its accuracy) of the best checkpoint on minimal pairs."""
    result = record.evaluation("best")
    step = None if result is None else result.step
    by_mode: dict[str, dict[tuple[str, str, int], Mapping[str, Any]]] = {}
    for one in record.downstream():
        if "macro_acc" in one["metrics"] and one["step"] == step:
            key = one["task"], one["data"], one["documents"]
            by_mode.setdefault(one["mode"], {})[key] = one["metrics"]["macro_acc"]
    mode = next((mode for mode in _MODES if mode in by_mode), None)
    return mode, {} if mode is None else by_mode[mode]


def _pair_scores(runs: Sequence[RunRecord], tasks: Sequence[str]) -> list[_Found]:
    modes, values, errors = [], [], []
    for record in runs:
        mode, scores = _pairs(record)
        own = [score for (task, *_), score in scores.items() if task in tasks]
        modes.append(mode)
        if own:
            values.append(float(np.mean([one["value"] for one in own])))
            errors.append(math.hypot(*(one["standard_error"] or 0.0 for one in own)) / len(own))
    scored = len(values) == len(runs)
    return [
        ("pairs", float(np.mean(values)) if scored else None, note(Missing.NO_PAIRS)),
        ("pairs_error", float(np.mean(errors)) if scored else None, None),
        ("pairs_mode", modes[0] if scored else None, None),
    ]

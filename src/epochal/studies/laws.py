"""Laws of a study, what they recommend, and how that held in runs that were kept from the fit.

A small model first learns how often each token is. Until its loss has fallen below that level
(the unigram baseline), it shows nothing about how fast it will learn from context, and a law
fitted to such runs predicts far too little. So these runs are left out where enough others
remain, and where they do not, the family is *below the unigram baseline*: its law only describes
what was seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from epochal.comparison import nll_difference
from epochal.errors import EpochalError
from epochal.families import family_names
from epochal.progress import hidden
from epochal.report.study import HeldOutResult, HeldOutResults, RegularisationTrial, StudyNote
from epochal.results import Note, note
from epochal.runs import RunRecord
from epochal.scaling.fit import FitReport, fit_points
from epochal.scaling.forms import FORMS
from epochal.scaling.law import ScalingLaw
from epochal.scaling.optimum import LadderChoice, best_of_sizes
from epochal.scaling.options import OVERFIT_SHARE, FitOptions
from epochal.scaling.points import DropReason, Points, drop_unigram_level_runs
from epochal.scaling.read import read_points
from epochal.studies.compare import compare_existing
from epochal.studies.ladder import Ladders, Prediction, half_life_of, ladders_of
from epochal.studies.probes import FARTHEST, REPEATED, Costs
from epochal.sweeps.record import RunState, State

UniqueOf = Callable[[int], float]
LEAST_SPARE = 2
"""Runs beyond the number of constants without which no law is used. One fewer than the SPARE of
`scaling/points.py`, since overfitted runs are left out of a fit after those were counted."""
RUNS_FOR_OVERFITTING = 14
"""Runs per family from which a law with its ten constants is fitted."""
LARGER = 2.5
"""Parameters of a recommended size over those of the largest probe, at most. Chosen by us: the
optimum grows by about as much over the compute that the check has above the probes."""


@dataclass(frozen=True)
class StudyLaws:
    """Laws of all families."""

    points: Points
    """All runs, also those that are left out of the fit."""
    report: FitReport
    unigram_nll: float
    """NLL of token frequencies alone, nats per token."""
    below_unigram_baseline: Mapping[str, float]
    """Families whose runs are not clearly below it → lowest NLL seen."""
    unique_of: UniqueOf = float
    """Tokens at the beginning of the text → those of them that count as unique."""

    def near_probes(self, params: Mapping[str, float]) -> dict[str, float]:
        """The sizes to use it for: from the smallest probe to LARGER times the largest."""
        ranges = [fit.fitted_range["params"] for fit in self.report.families.values()]
        low, high = min(r[0] for r in ranges), LARGER * max(r[1] for r in ranges)
        return {size: n for size, n in params.items() if low <= n * 1.001 and n <= high}

    def choices(
        self, unique: int, flops: float, params: Mapping[str, float]
    ) -> dict[str, LadderChoice]:
        """The size and length recommended for each family with this compute, on the first
        `unique` tokens of the text.

        The size whose ladder leads to the lowest loss, of those with runs that are long enough; by
        the law, where there is none. A family below the unigram baseline trains the same as the
        first that is not.
        """
        chosen: dict[str, LadderChoice] = {}
        unique = int(self.unique_of(unique))
        for family, law in self.report.families.items():
            found = [
                LadderChoice(
                    size, n, tokens := flops / (6 * n), tokens / min(tokens, unique), loss.loss
                )
                for size, n in params.items()
                if (loss := self.prediction(family, n, flops / (6 * n))) is not None
            ]
            by_law = _best(law, unique, flops, params)
            chosen[family] = min(found, key=lambda one: one.loss, default=by_law)
        trusted = [family for family in chosen if family not in self.below_unigram_baseline]
        for family in self.below_unigram_baseline:
            if family in chosen and trusted:
                other = chosen[trusted[0]]
                seen = self.prediction(family, other.params, other.tokens)
                law = self.report.families[family]
                by_itself = float(law.predict(other.params, other.tokens, unique))
                chosen[family] = replace(other, loss=by_itself if seen is None else seen.loss)
        return chosen

    def prediction(self, family: str, params: float, tokens: float) -> Prediction | None:
        """From the ladder of a size; None without one, or with runs that are far too short."""
        ladders = self.ladders[family]
        own = [one for one in ladders.ladders if abs(one.params / params - 1) < 1e-6]
        if not own or tokens > 2 * FARTHEST * own[0].tokens[-1]:
            return None
        return ladders.predict(params, tokens)

    @cached_property
    def ladders(self) -> dict[str, Ladders]:
        """The ladders of each family, repetition as its law has it."""
        return {
            family: ladders_of(self.points, family, half_life_of(family, law))
            for family, law in self.report.families.items()
        }

    def affordable(
        self, unique: int, params: Mapping[str, float], costs: Costs, seconds: float
    ) -> float:
        """The largest compute, in FLOPs, at which each family's best size trains in `seconds`."""
        low, high = 1e6, 1e24
        for _ in range(40):
            middle = (low * high) ** 0.5
            longest = 0.0
            for family, one in self.choices(unique, middle, params).items():
                longest = max(longest, costs.seconds(family, one.name, one.tokens))
            low, high = (middle, high) if longest <= seconds else (low, middle)
        return low

    def judge(
        self,
        expected: Mapping[str, tuple[float, RegularisationTrial | None]],
        states: Sequence[RunState],
        flops: float,
    ) -> HeldOutResults:
        """The held-out runs beside `expected`: run → (predicted loss, trial of its setting)."""
        results = HeldOutResults(flops)
        done = [state for state in states if state.state == State.FINISHED]
        results.results = [_compare(self, *expected[state.name], state) for state in done]
        results.not_checked = {state.name: state.reason for state in states if state not in done}
        if len(done) < len(self.report.families):
            return results
        with hidden():
            results.comparison = compare_existing([state.run_dir for state in done])
        records = {state.family: RunRecord(state.run_dir) for state in done}
        lowest, *others = results.seen
        try:
            results.differences = {
                family: nll_difference(records[family], records[lowest]) for family in others
            }
        except EpochalError:  # evaluations that cannot be compared: the comparison has the reason
            results.differences = {}
        return results


def study_laws(
    places: Sequence[str | Path],
    unigram_nll: float,
    unique_of: UniqueOf,
    families: Sequence[str],
) -> tuple[StudyLaws | None, list[Note]]:
    """The laws of `families` by the runs in `places`, each with its extrapolation error, and notes.

    The unique tokens of a run are `unique_of` those that it has of the text. With an overfitting
    term where some runs overfitted and there are enough; of one epoch only
    where nothing else can be identified. None where the runs determine no law of all families;
    the notes have the reason for each law. Raises DataError or RunError for runs that cannot be
    read.
    """
    points = _counted(read_points(places), unique_of)
    kept, below = drop_unigram_level_runs(points, unigram_nll)
    notes: list[Note] = []
    report = _fitted(kept, "data-constrained", notes, families) or _fitted(
        kept, "chinchilla", notes, families
    )
    if report is None:
        return None, notes
    least = min(len(kept.of_family(family)) for family in report.families)
    if report.law == "data-constrained" and least >= RUNS_FOR_OVERFITTING and _overfits(report):
        report = _fitted(kept, "overfitting", notes, families) or report
    notes += [
        note(StudyNote.BELOW_UNIGRAM_BASELINE, family=family, nll=lowest, unigram_nll=unigram_nll)
        for family, lowest in below.items()
    ]
    laws = StudyLaws(points, report, unigram_nll, below, unique_of)
    return laws, notes + _ladder_notes(laws)


def _counted(points: Points, unique_of: UniqueOf) -> Points:
    counted = np.array([unique_of(int(unique)) for unique in points.unique_tokens], dtype=float)
    return replace(points, unique_tokens=counted)


def _ladder_notes(laws: StudyLaws) -> list[Note]:
    """How the ladders were extended, and which constants the runs do not identify."""
    notes = []
    for family, ladders in laws.ladders.items():
        if ladders.ladders:
            values = {"ratio": ladders.ratio, "weight_of_data": ladders.weight_of_data}
            values |= {"inflation": ladders.inflation}
            notes.append(note(StudyNote.LADDER, family=family, **values))
    points = laws.points
    for family, law in laws.report.families.items():
        for constant in ("R_D", "R_N"):
            if constant in law.constants and law.constants[constant] is None:
                size = float(points.params.max() if constant == "R_N" else points.params.min())
                unique = int(points.unique_tokens.min())
                run = {"params": size, "unique_tokens": unique, "epochs": 4 * REPEATED}
                notes.append(
                    note(StudyNote.NOT_IDENTIFIED, family=family, constant=constant, **run)
                )
    return notes


def _fitted(
    points: Points, law: str, notes: list[Note], families: Sequence[str]
) -> FitReport | None:
    """Laws of all `families`, or None, with the reason added to `notes`."""
    try:
        report = fit_points(points, FitOptions(law=law))
    except EpochalError as error:
        notes.append(note(StudyNote.LAW_REFUSED, law=law, problem=str(error)))
        return None
    if not set(families) <= set(report.families):
        problem = "; ".join(map(str, report.refused.values())) or "a family has no runs"
        notes.append(note(StudyNote.LAW_REFUSED, law=law, problem=problem))
        return None
    least = len(FORMS[law].constants) + LEAST_SPARE
    for family, fit in report.families.items():
        if (runs := len(fit.points)) < least:
            few = {"law": law, "family": family, "runs": runs, "least": least}
            notes.append(note(StudyNote.TOO_FEW_RUNS, **few))
            return None
    return report


def _ladders(points: Points) -> Iterator[tuple[str, float, list[tuple[float, float]]]]:
    """(family, U, [(tokens, loss), …] by tokens) of the runs of each family, U and size."""
    runs: dict[tuple[str, float, float], list[tuple[float, float]]] = defaultdict(list)
    for i, family in enumerate(points.family):
        key = family, float(points.unique_tokens[i]), float(points.params[i])
        runs[key].append((float(points.tokens[i]), float(points.loss[i])))
    for (family, unique, _), ladder in runs.items():
        yield family, unique, sorted(ladder)


def _overfits(report: FitReport) -> bool:
    """Whether a run was left out of a fit since it is overfitted."""
    dropped = [one for fit in report.families.values() for one in fit.dropped]
    return any(one.reason.code == DropReason.OVERFITTED for one in dropped)


def overfitting(points: Points) -> tuple[list[str], list[Note]]:
    """(families that overfit the largest number of unique tokens, a note per family and U)."""
    best: dict[tuple[str, float], list[float]] = defaultdict(list)
    for family, unique, ladder in _ladders(points):
        tokens, lowest = min(ladder, key=lambda pair: pair[1])
        if any(d > tokens and loss > lowest * (1 + OVERFIT_SHARE) for d, loss in ladder):
            best[family, unique].append(tokens / unique)
    notes = [
        note(
            StudyNote.OVERFITS,
            family=family,
            unique_tokens=unique,
            first=min(epochs),
            last=max(epochs),
        )
        for (family, unique), epochs in sorted(best.items())
    ]
    whole = float(points.unique_tokens.max())
    return [family for family in family_names() if (family, whole) in best], notes


def _best(law: ScalingLaw, unique: int, flops: float, params: Mapping[str, float]) -> LadderChoice:
    choice = best_of_sizes(law, float(unique), flops, params, 1.0, only=True)
    assert choice is not None  # None only where sizes far from the optimum are refused
    return choice


def _compare(
    laws: StudyLaws, loss: float, trial: RegularisationTrial | None, state: RunState
) -> HeldOutResult:
    """Prediction and outcome of a held-out run.

    `loss` is what was predicted, from the size's ladder or else by the law, with its interval. A
    family below the unigram baseline may have learnt as much as another by then, so its interval
    reaches down to there. The ladders know no regularisation: with the setting of a `trial` the
    prediction falls by the share that the setting brought at the probe, and the interval reaches
    from there to where it brings nothing.
    """
    law = laws.report.families[state.family]
    point = _counted(read_points([state.run_dir]), laws.unique_of)
    where = (point.params, point.tokens, point.unique_tokens)
    by_law = float(law.predict(*where)[0])
    found = laws.prediction(state.family, float(point.params[0]), float(point.tokens[0]))
    if found is None:
        low, high = (float(end[0]) for end in law.predict_interval(*where))
        error = 2 * float(law.residuals.std()) * loss + float(law.extrapolation_margin(*where)[0])
        found = Prediction(loss, min(low, loss) - error, max(high, loss) + error)
    low, high = found.low, found.high
    below = state.family in laws.below_unigram_baseline
    for family in laws.report.families:
        if below and family not in laws.below_unigram_baseline:
            other = laws.prediction(family, float(point.params[0]), float(point.tokens[0]))
            low = low if other is None else min(low, other.low)
    ratio = 1.0 if trial is None else trial.ratio
    low *= ratio
    seen = float(point.loss[0])
    return HeldOutResult(
        run=state.name,
        family=state.family,
        predicted=found.loss * ratio,
        law_prediction=by_law,
        interval=(low, high),
        seen=seen,
        inside=low <= seen <= high,
        below_unigram_baseline=below,
        setting=None if trial is None else trial.setting,
    )

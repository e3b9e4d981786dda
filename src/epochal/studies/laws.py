"""Laws of a study, what they recommend, and how that held in runs that were kept from the fit.

A small model first learns how often each token is. Until its loss has fallen below that level
(the unigram baseline), it shows nothing about how fast it will learn from context, and a law
fitted to such runs predicts far too little. So these runs are left out where enough others
remain, and where they do not, the family is *below the unigram baseline*: its law only describes
what was seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from epochal.comparison import nll_difference
from epochal.errors import EpochalError
from epochal.families import family_names
from epochal.progress import hidden
from epochal.report.study import HeldOutResult, HeldOutResults, RegularisationTrial, StudyNote
from epochal.results import Note, note
from epochal.runs import RunRecord
from epochal.scaling.checks import UNKNOWN_EXTRAPOLATION_ERROR, optimistic_loss
from epochal.scaling.fit import FitReport, fit_points
from epochal.scaling.forms import FORMS
from epochal.scaling.law import ScalingLaw
from epochal.scaling.optimum import LadderChoice, best_of_sizes
from epochal.scaling.options import OVERFIT_SHARE, FitOptions
from epochal.scaling.points import DropReason, Points, drop_unigram_level_runs
from epochal.scaling.read import read_points
from epochal.studies.compare import compare_existing
from epochal.studies.probes import Costs
from epochal.sweeps.record import RunState, State

LEAST_SPARE = 2
"""Runs beyond the number of constants without which no law is used. One fewer than the SPARE of
`scaling/points.py`, since overfitted runs are left out of a fit after those were counted."""
RUNS_FOR_OVERFITTING = 14
"""Runs per family from which a law with its ten constants is fitted."""
LARGER = 2.5
"""Parameters of a recommended size over those of the largest probe, at most. Chosen by us: the
optimum grows by about as much over the compute that the check has above the probes."""


@dataclass(frozen=True, slots=True)
class StudyLaws:
    """Laws of all families."""

    points: Points
    """All runs, also those that are left out of the fit."""
    report: FitReport
    unigram_nll: float
    """NLL of token frequencies alone, nats per token."""
    below_unigram_baseline: Mapping[str, float]
    """Families whose runs are not clearly below it → lowest NLL seen."""

    def near_probes(self, params: Mapping[str, float]) -> dict[str, float]:
        """The sizes to use it for: from the smallest probe to LARGER times the largest."""
        ranges = [fit.fitted_range["params"] for fit in self.report.families.values()]
        low, high = min(r[0] for r in ranges), LARGER * max(r[1] for r in ranges)
        return {size: n for size, n in params.items() if low <= n * 1.001 and n <= high}

    def choices(
        self, unique: int, flops: float, params: Mapping[str, float]
    ) -> dict[str, LadderChoice]:
        """The size and length recommended for each family with this compute.

        A family below the unigram baseline trains the same as the first that is not.
        """
        families = self.report.families
        chosen = {family: _best(law, unique, flops, params) for family, law in families.items()}
        trusted = [family for family in chosen if family not in self.below_unigram_baseline]
        for family in self.below_unigram_baseline:
            if family in chosen and trusted:
                other = chosen[trusted[0]]
                loss = float(families[family].predict(other.params, other.tokens, unique))
                chosen[family] = replace(other, loss=loss)
        return chosen

    def affordable(
        self, unique: int, params: Mapping[str, float], costs: Costs, seconds: float
    ) -> float:
        """The largest compute, in FLOPs, at which each family's best size trains in `seconds`."""
        low, high = 1e6, 1e24
        for _ in range(40):
            middle = (low * high) ** 0.5
            longest = 0.0
            for family, law in self.report.families.items():
                one = _best(law, unique, middle, params)
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
        if len(done) < len(family_names()):
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
    places: Sequence[str | Path], unigram_nll: float
) -> tuple[StudyLaws | None, list[Note]]:
    """The laws of the runs in `places`, each with its extrapolation error, and notes.

    With an overfitting term where some runs overfitted and there are enough; of one epoch only
    where nothing else can be identified. None where the runs determine no law of all families;
    the notes have the reason for each law. Raises DataError or RunError for runs that cannot be
    read.
    """
    points = read_points(places)
    kept, below = drop_unigram_level_runs(points, unigram_nll)
    notes: list[Note] = []
    report = _fitted(kept, "data-constrained", notes) or _fitted(kept, "chinchilla", notes)
    if report is None:
        return None, notes
    least = min(len(kept.of_family(family)) for family in family_names())
    if report.law == "data-constrained" and least >= RUNS_FOR_OVERFITTING and _overfits(report):
        report = _fitted(kept, "overfitting", notes) or report
    notes += [
        note(StudyNote.BELOW_UNIGRAM_BASELINE, family=family, nll=lowest, unigram_nll=unigram_nll)
        for family, lowest in below.items()
    ]
    return StudyLaws(points, report, unigram_nll, below), notes


def _fitted(points: Points, law: str, notes: list[Note]) -> FitReport | None:
    """Laws of all families, or None, with the reason added to `notes`."""
    try:
        report = fit_points(points, FitOptions(law=law))
    except EpochalError as error:
        notes.append(note(StudyNote.LAW_REFUSED, law=law, problem=str(error)))
        return None
    if len(report.families) < len(family_names()):
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

    `loss` is the law's prediction. The interval is the law's, and on either side twice the
    scatter of the runs it was fitted to and its extrapolation margin; where that is not known,
    it reaches down to what the runs' own trend may bring. A family below the unigram baseline may
    have learnt as much as another by then, so its interval reaches down to there. The laws know
    no regularisation: with the setting of a `trial` the prediction falls by the share that the
    setting brought at the probe, and the interval reaches from there to where it brings nothing.
    """
    law = laws.report.families[state.family]
    point = read_points([state.run_dir])
    where = (point.params, point.tokens, point.unique_tokens)
    low, high = (float(end[0]) for end in law.predict_interval(*where))
    error = 2 * float(law.residuals.std()) * loss + float(law.extrapolation_margin(*where)[0])
    low, high = min(low, loss) - error, max(high, loss) + error
    if law.extrapolation_error >= UNKNOWN_EXTRAPOLATION_ERROR:
        low = min(low, optimistic_loss(law.points, float(point.flops[0])))
    below = state.family in laws.below_unigram_baseline
    for family, other in laws.report.families.items():
        if below and family not in laws.below_unigram_baseline:
            low = min(low, float((other.predict(*where) - other.extrapolation_margin(*where))[0]))
    ratio = 1.0 if trial is None else trial.ratio
    low *= ratio
    seen = float(point.loss[0])
    return HeldOutResult(
        run=state.name,
        family=state.family,
        predicted=loss * ratio,
        law_prediction=loss,
        interval=(low, high),
        seen=seen,
        inside=low <= seen <= high,
        below_unigram_baseline=below,
        setting=None if trial is None else trial.setting,
    )

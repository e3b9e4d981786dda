"""Regularisation in a study: each family's best probe again, with dropout, with more decay.

The probe sweep takes a family's best over size and epochs. Here the best probe of each is trained
again with other regularisation, everything else equal, so that the difference is due to that
setting. What improves is used for the recommendation and for the run that checks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epochal.comparison import is_clear, nll_difference
from epochal.errors import EpochalError
from epochal.families import family_names
from epochal.report.study import SETTINGS, RegularisationTrial, StudyNote
from epochal.results import Note, note
from epochal.runs import RunRecord
from epochal.studies.probes import Costs, Probe
from epochal.sweeps.record import RunState, State

SHARE = 0.10
"""Share of the budget for these runs. Chosen by us: about two of the longest probes at a time."""
REPEATS = 2.0
"""Epochs from which a run repeats its tokens enough to try regularisation on it."""
LEAST_REPETITION = 0.5
"""A setting that improved a run is used for runs of at least this share of its epochs."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A probe to train again with a setting."""

    setting: str
    state: RunState
    """Of the probe."""
    probe: Probe

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.state.name}-{self.setting.replace(' ', '')}"


def variants(
    states: Sequence[RunState], probes: Mapping[str, Probe], costs: Costs, seconds: float
) -> list[Variant]:
    """Each family's best probe with each setting; one setting of all families before the next.

    The best is the one with the lowest NLL of those that repeat their tokens (of all, if none
    does), and of these of those that one slot trains with all the settings within `seconds`;
    where none does, the best of all, so that the report can state that there was no time.
    """
    chosen: list[tuple[RunState, Probe]] = []
    each = seconds / len(SETTINGS)
    for family in family_names():
        seen = [
            state
            for state in states
            if state.family == family and state.state == State.FINISHED and state.nll is not None
        ]
        if not seen:
            continue
        # Regularisation is for tokens seen again.
        seen = [s for s in seen if probes[s.name].epochs >= REPEATS] or seen
        short = [s for s in seen if costs.of(probes[s.name]) <= each] or seen
        best = min(short, key=lambda state: state.nll or 0.0)
        chosen.append((best, probes[best.name].with_costs(costs)))
    return [Variant(setting, state, probe) for setting in SETTINGS for state, probe in chosen]


def trials(wanted: Sequence[Variant], states: Sequence[RunState]) -> list[RegularisationTrial]:
    """The outcome of each variant, in their order."""
    by_name = {state.name: state for state in states}
    return [_trial(variant, by_name[variant.name]) for variant in wanted]


def _trial(variant: Variant, state: RunState) -> RegularisationTrial:
    baseline, probe = variant.state, variant.probe
    assert baseline.nll is not None
    found: tuple[float, float] | None = None
    reason = state.reason
    if state.state == State.FINISHED and state.nll is not None:
        try:
            found = nll_difference(RunRecord(state.run_dir), RunRecord(baseline.run_dir))
        except EpochalError as problem:
            reason = note(StudyNote.NOT_COMPARABLE, problem=str(problem))
    difference, error = found or (None, None)
    return RegularisationTrial(
        family=probe.family,
        setting=variant.setting,
        run=state.name,
        baseline_run=baseline.name,
        size=probe.size,
        unique_tokens=probe.unique_tokens,
        epochs=probe.epochs,
        baseline_nll=baseline.nll,
        nll=None if found is None else state.nll,
        difference=difference,
        error=error,
        improved=found is not None and found[0] < 0 and is_clear(*found),
        reason=reason if found is None else None,
    )


def best_setting(
    tried: Sequence[RegularisationTrial], family: str, epochs: float
) -> tuple[RegularisationTrial | None, list[Note]]:
    """The trial whose setting to train `family` with for `epochs`, None for without; and notes.

    One that improved a run of many epochs is not used for a run that hardly repeats its tokens;
    each such setting gets a note.
    """
    improved = [trial for trial in tried if trial.family == family and trial.improved]
    used = [trial for trial in improved if epochs >= LEAST_REPETITION * trial.epochs]
    notes = [
        note(
            StudyNote.SETTING_UNUSED,
            family=family,
            setting=trial.setting,
            trial_epochs=trial.epochs,
            epochs=epochs,
        )
        for trial in improved
        if trial not in used
    ]
    return min(used, key=lambda trial: trial.difference or 0.0, default=None), notes

"""The settings of a study's families, searched as `epochal tune` does.

The learning rate is searched at the middle size, at half the length of the longest probes, for all
families with the same number of runs, and carried to other sizes as by `epochal tune`. Weight decay
and dropout are searched only where a run of the ladder repeats its tokens and its held-out loss has
turned up: before that, strong decay was seen to lose (arXiv 2509.14786).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal.comparison import is_clear, nll_difference
from epochal.errors import EpochalError
from epochal.recipe.load import Tree
from epochal.report.study import RegularisationTrial, StudyNote
from epochal.results import Note, note
from epochal.runs import RunRecord
from epochal.scaling.points import LEARNING
from epochal.studies.probes import Probe, shape_of
from epochal.sweeps.cell import carried
from epochal.sweeps.file import sweep_from_tree
from epochal.sweeps.options import TuneOptions
from epochal.sweeps.search import Axis
from epochal.sweeps.tune import tune
from epochal.sweeps.tuned import Settings, Tuned, TunedRun

SHARE = 0.15
"""Share of the budget for the search of weight decay and dropout. Chosen by us."""
LEAST_REPETITION = 0.5
"""A setting that improved a run is used for runs of at least this share of its epochs."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The learning rate of each family at a size."""

    size: str
    of_family: Mapping[str, float]
    """Only those that were searched and found."""
    optimizer: str

    def at(self, family: str, size: str) -> float | None:
        """Carried to another size; None for a family without one."""
        found = self.of_family.get(family)
        if found is None:
            return None
        wider = shape_of(size).d_model / shape_of(self.size).d_model
        return float(f"{carried(found, wider, self.optimizer):.3g}")


def search(
    starts: Mapping[str, Probe],
    base: Tree,
    axes: Sequence[Axis],
    folder: Path,
    jobs: int,
    seconds: float,
) -> list[Tuned]:
    """A search from each of `starts` (names → runs), with the same share of `seconds`."""
    tree = {
        "sweep": {"design": "list"},
        "runs": [{"name": name, **probe.keys({})} for name, probe in starts.items()],
        "base": base,
    }
    names: tuple[Any, ...] = tuple(axis.value for axis in axes)
    options = TuneOptions(out=folder, jobs=jobs, axes=names, budget=max(1.0, seconds))
    return tune(sweep_from_tree(tree, folder.name), options=options).searches


def learned(searches: Sequence[Tuned], unigram_nll: float) -> dict[str, float]:
    """Family → the rate found, of those whose best run had begun to learn from context.

    Before, all rates look the same, and the difference between them is chance.
    """
    return {
        one.family: one.best.settings.lr
        for one in searches
        if one.best.nll is not None and one.best.nll < unigram_nll - LEARNING
    }


def trials(searches: Sequence[Tuned], probes: Mapping[str, Probe]) -> list[RegularisationTrial]:
    """What each setting of the searches brought, against their starts."""
    return [
        _trial(one, run, probes[one.family])
        for one in searches
        for run in one.runs
        if one.start.nll is not None and run.settings != one.start.settings
    ]


def _trial(found: Tuned, run: TunedRun, probe: Probe) -> RegularisationTrial:
    difference = error = None
    reason = run.reason
    if run.nll is not None:
        try:
            difference, error = nll_difference(RunRecord(run.run), RunRecord(found.start.run))
        except EpochalError as problem:
            reason = note(StudyNote.NOT_COMPARABLE, problem=str(problem))
    assert found.start.nll is not None
    return RegularisationTrial(
        family=found.family,
        setting=_name(run.settings),
        keys=_keys(run.settings),
        run=Path(run.run).name,
        baseline_run=Path(found.start.run).name,
        size=probe.size,
        unique_tokens=probe.unique_tokens,
        epochs=probe.epochs,
        baseline_nll=found.start.nll,
        nll=None if difference is None else run.nll,
        difference=difference,
        error=error,
        improved=difference is not None
        and error is not None
        and difference < 0
        and is_clear(difference, error),
        reason=reason,
    )


def _keys(settings: Settings) -> Tree:
    return {
        "train.weight_decay": settings.weight_decay,
        "train.attention_dropout": settings.dropout,
        "train.hidden_dropout": settings.dropout,
    }


def _name(settings: Settings) -> str:
    decay = f"weight decay {settings.weight_decay:.3g}"
    return f"{decay}, dropout {settings.dropout:g}" if settings.dropout else decay


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

"""The result of a study as values. `studies/` makes it; `report/text/study.py` has its English."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from epochal.comparison import Comparison
from epochal.recipe.load import Tree
from epochal.results import Note, NoteCode
from epochal.scaling.fit import FitReport
from epochal.scaling.optimum import LadderChoice
from epochal.scaling.planner import PlanReport
from epochal.sweeps.tuned import Tuned


class StageNote(NoteCode):
    """What a stage of a study did."""

    PREPARED = "prepared"
    """Values: unique_tokens."""
    MEASURED = "measured"
    """Values: tokens_per_second, of the fastest size in one slot."""
    TUNED = "tuned"
    """Values: runs, certified, searches."""
    PROBED = "probed"
    """Values: finished, runs."""
    REGULARISED = "regularised"
    """Values: finished, runs, improved."""
    FITTED = "fitted"
    """Values: law, or None."""
    CHECKED = "checked"
    """Values: runs, flops."""
    PLANNED = "planned"
    """Values: flops."""


class StudyNote(NoteCode):
    """What is worth knowing about a study."""

    PROBES_LEFT_OUT = "probes_left_out"
    """No time. Values: runs."""
    PROBES_FAILED = "probes_failed"
    """Values: runs, their names."""
    LAW_REFUSED = "law_refused"
    """Values: law, problem (the error's sentence)."""
    TOO_FEW_RUNS = "too_few_runs"
    """Values: law, family, runs, least."""
    BELOW_UNIGRAM_BASELINE = "below_unigram_baseline"
    """A family's law must not be extrapolated. Values: family, nll, unigram_nll."""
    OVERFITS = "overfits"
    """Values: family, unique_tokens, first, last (best epochs over the sizes)."""
    SETTING_UNUSED = "setting_unused"
    """It helped at a run that repeats its tokens more. Values: family, setting, trial_epochs,
    epochs."""
    NOT_LEARNED = "not_learned"
    """All rates of a search looked the same: before a model learns from context, they do. Values:
    family, lr (that is used), nll, unigram_nll."""
    LADDER = "ladder"
    """How a family's ladder was extended. Values: family, ratio (r), weight_of_data, inflation."""
    NOT_IDENTIFIED = "not_identified"
    """A constant of a law. Values: family, constant; params, unique_tokens, epochs of a run that
    would identify it."""
    NOT_COMPARABLE = "not_comparable"
    """Two evaluations. Values: problem (the error's sentence)."""
    NOT_TRIED = "not_tried"
    """Which settings the study did not try."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a study."""

    name: str
    seconds: float
    note: Note


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularisationTrial:
    """A family's longest probe of the ladder trained again with another regularisation."""

    family: str
    setting: str
    """Its name."""
    keys: Tree
    """Recipe keys of the setting."""
    run: str
    baseline_run: str
    """Name of the probe."""
    size: str
    unique_tokens: int
    epochs: float
    baseline_nll: float
    """Best NLL of the probe, nats per token."""
    nll: float | None
    """Best NLL with the setting; None where it was not trained."""
    difference: float | None
    """NLL with the setting minus without, paired by document."""
    error: float | None
    """Standard error of `difference`."""
    improved: bool
    """Whether the difference is clear, and for the better."""
    reason: Note | None = None
    """Why there is no `nll`."""

    @property
    def ratio(self) -> float:
        """NLL with the setting over NLL without; 1 where it was not trained."""
        return 1.0 if self.nll is None else self.nll / self.baseline_nll


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutResult:
    """A run that was kept from the fit, and its prediction. Losses in nats per token."""

    run: str
    family: str
    predicted: float
    """From its size's ladder, times the ratio of the trial whose setting was taken."""
    law_prediction: float
    """By the law of the family."""
    interval: tuple[float, float]
    """Has the loss in 90 % of cases."""
    seen: float
    inside: bool
    """Whether `seen` is in the interval."""
    below_unigram_baseline: bool
    """Whether the family's probes did not beat the unigram baseline."""
    setting: str | None


@dataclass(slots=True)
class HeldOutResults:
    """All held-out runs."""

    flops: float
    """Compute of each."""
    results: list[HeldOutResult] = field(default_factory=list)
    not_checked: dict[str, Note | None] = field(default_factory=dict)
    """Run that was not finished → why."""
    differences: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Other family → (NLL minus that of the family with the lowest, its standard error), paired by
    document; empty unless all families were trained."""
    comparison: Comparison | None = None

    @property
    def seen(self) -> dict[str, float]:
        """Family → NLL of its held-out run, lowest first."""
        losses = {result.family: result.seen for result in self.results}
        return dict(sorted(losses.items(), key=lambda item: item[1]))


class Basis(StrEnum):
    """What a recommendation rests on."""

    MEASURED = "measured"
    """Held-out runs of all families at the planned compute."""
    PREDICTED = "predicted"
    """The laws."""
    TOO_EARLY = "too_early"
    """A family's probes did not beat the unigram baseline, and its law says nothing."""
    NO_LAW = "no_law"
    """The runs determine no law."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to train."""

    basis: Basis
    winner: str | None = None
    """The family that is clearly better; None where that is not known."""
    reversed_by_regularisation: bool = False
    """Whether the laws alone have another winner than the laws with the trials' ratios."""
    family: str | None = None
    """The family to train; None where no size near the optimum was measured."""
    choice: LadderChoice | None = None
    setting: str | None = None
    """Regularisation to train with."""
    predicted: float | None = None
    """NLL in nats per token."""
    seen: float | None = None
    """NLL of the held-out run of this family, where it was trained at the planned compute."""
    check_missed: bool = False
    """Whether its held-out run was outside its interval."""
    best_run: str | None = None
    """Without a law: the run with the lowest NLL."""
    best_nll: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The result of a study."""

    recommendation: Recommendation
    overfit: list[str]
    """Families that overfit the whole text."""
    held_out: HeldOutResults | None
    """None without a law."""
    tuned: list[Tuned]
    """The searches of the learning rate, one per family; empty where there was no time."""
    regularisation: list[RegularisationTrial]
    notes: list[Note]
    stages: list[Stage]
    below_unigram_baseline: dict[str, float]
    """Families whose probes did not beat the unigram baseline → lowest NLL seen."""
    unigram_nll: float | None
    """NLL of token frequencies alone, nats per token; None without a law."""
    budget: float
    """Seconds."""
    seconds: float
    """Used, over all sessions."""
    jobs: int
    """Runs at a time."""
    report: Path
    """The page."""
    recipes: dict[str, str]
    """Family → recipe file of its recommendation."""
    plan: PlanReport | None
    fit: FitReport | None

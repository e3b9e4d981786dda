"""Points that a law is fitted to: (N, D, U, loss) of finished runs; and which runs are left out.

A law describes a family at its best. So of runs with equal size, length and unique tokens that
differ in dropout, weight decay or any other setting, those of the setting with the lowest mean loss
over its seeds stay. A law that cannot express overfitting takes no overfitted runs, and a study no
runs that are hardly better than token frequencies alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.data.blend import Blend
from epochal.data.corpus import open_corpus
from epochal.data.store import TokenStore
from epochal.errors import EpochalError
from epochal.estimates import Floats, unigram_nll
from epochal.results import Note, NoteCode, note
from epochal.runs import RunRecord
from epochal.scaling.forms import DATA_CONSTRAINED
from epochal.scaling.forms.form import Form
from epochal.scaling.law import SINGLE_EPOCH
from epochal.scaling.options import FitOptions

_SPARE = 3
"""Runs that a fit needs beyond the constants of its law. Chosen by us: with one to spare a law
passed through all of its runs and predicted nothing."""
LEARNING, ENOUGH = 0.15, 3
"""A family has begun to learn from context if ENOUGH of its runs are LEARNING nats below the
unigram NLL. Chosen by us: a document's own token frequencies are worth about 0.1."""
_COUNTED = 10_000_000
"""Tokens of a text that are counted."""


class DropReason(NoteCode):
    """Why a run is not a point of a fit."""

    DIVERGED = "run_diverged"
    NOT_FINISHED = "run_not_finished"
    """status: of the run; its learning rate has not decayed."""
    BRANCHED_FROM = "branched_from"
    """branch: name of a run that starts from it; its own rate has not decayed."""
    NO_FINITE_LOSS = "no_finite_loss"
    LOSS_NOT_POSITIVE = "loss_not_positive"
    """loss."""
    DOMINATED_SETTING = "dominated_setting"
    """setting, loss, runs: its own, mean over `runs` runs; best_setting, best_loss, best_runs."""
    TOO_MANY_EPOCHS = "too_many_epochs"
    """limit, epochs."""
    OVERFITTED = "overfitted"
    """above: share by which its loss is above a shorter run's; threshold."""
    ONLY_REPEATED = "only_repeated"
    """A single multi-epoch run cannot identify a half-life."""
    UNIGRAM_LEVEL = "unigram_level"
    """unigram_nll: the run is no better than token frequencies alone, nats per token."""


class PointsNote(NoteCode):
    """What to know about a set of points."""

    SINGLE_EPOCH_ASSUMED = "single_epoch_assumed"
    """file: has no column unique_tokens."""
    FAMILY_ASSUMED = "family_assumed"
    """file: has no column family; family: the one that is assumed."""
    BEST_EVALUATIONS = "best_evaluations"
    """Points are the best evaluations within runs."""
    TRAINING_EVALUATIONS = "training_evaluations"
    """count of total losses come from the evaluation during training."""
    RUNS_AT_UNIGRAM_LEVEL = "runs_at_unigram_level"
    """family; count of total runs are no better than unigram_nll."""


class ParamsConvention(StrEnum):
    """How N counts parameters."""

    AS_GIVEN = "as_given"
    """As in the table; whether embeddings count is not known."""
    PAPER = "paper"
    """N = 4ld² + 3ldh + 6ld + Vd, with embeddings (arXiv 2507.15857)."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A run that is not a point of the fit, and why."""

    run: str
    family: str
    params: float
    tokens: float
    unique_tokens: float
    loss: float | None
    """None where there was none."""
    reason: Note


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Ends of training runs, one per element; arrays and lists of one length."""

    params: Floats
    """N."""
    tokens: Floats
    """D, tokens trained on."""
    unique_tokens: Floats
    """U."""
    loss: Floats
    """Validation loss, nats per token."""
    family: list[str]
    """Name of each point's family."""
    run: list[str]
    """Name of the run; points of one name are resampled together."""
    seed: list[str]
    n_convention: ParamsConvention = ParamsConvention.AS_GIVEN
    """How N counts parameters."""
    dropped: list[Dropped] = field(default_factory=list, metadata={"json": False})
    """Runs that reading already left out."""
    notes: list[Note] = field(default_factory=list, metadata={"json": False})
    sequence_length: int | None = None
    """Tokens per row in all runs; None if unknown or not the same."""
    vocabulary: int | None = None
    """Vocabulary size in all runs; None if unknown or not the same."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata={"json": False})
    """Run → its recipe, as plain tables; empty for points without run folders."""
    recipe: list[str] = field(default_factory=list)
    """What tells each point's recipe from the family's others, "" where there are none; not given:
    all of them alike."""

    def __post_init__(self) -> None:
        if not self.recipe:
            object.__setattr__(self, "recipe", [""] * len(self.params))

    def __len__(self) -> int:
        return len(self.params)

    @property
    def budgets(self) -> Floats:
        """log U, equal for numbers of unique tokens that are within about 1 % of each other."""
        result: Floats = np.log(self.unique_tokens).round(2)
        return result

    @property
    def epochs(self) -> Floats:
        """D / min(U, D)."""
        return self.tokens / np.minimum(self.tokens, self.unique_tokens)

    @property
    def flops(self) -> Floats:
        """C = 6·N·D."""
        return 6.0 * self.params * self.tokens

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest params, tokens, unique_tokens, flops and epochs."""
        names = ("params", "tokens", "unique_tokens", "flops", "epochs")
        columns = {name: getattr(self, name) for name in names}
        return {name: (float(np.min(v)), float(np.max(v))) for name, v in columns.items()}

    def take(self, rows: NDArray[Any]) -> Points:
        """Some of the points, by a mask or by indices; `dropped` and `notes` are not passed on."""
        index = np.arange(len(self))[rows]
        return Points(
            self.params[index],
            self.tokens[index],
            self.unique_tokens[index],
            self.loss[index],
            [self.family[i] for i in index],
            [self.run[i] for i in index],
            [self.seed[i] for i in index],
            self.n_convention,
            sequence_length=self.sequence_length,
            vocabulary=self.vocabulary,
            recipes=self.recipes,
            recipe=[self.recipe[i] for i in index],
        )

    def of_family(self, family: str) -> Points:
        """The points of one family."""
        return self.take(np.array([name == family for name in self.family], dtype=bool))

    def drop(self, index: int, reason: Note) -> Dropped:
        """The record of a point that is left out."""
        return Dropped(
            self.run[index],
            self.family[index],
            float(self.params[index]),
            float(self.tokens[index]),
            float(self.unique_tokens[index]),
            float(self.loss[index]),
            reason,
        )


_OF_THE_POINT = frozenset(
    {
        "family",
        "seed",
        "data.unique_tokens",
        "train.steps",
        "train.tokens",
        "train.epochs",
        "train.flops",
        "train.device",
        "train.compile",
        "train.deterministic",
    }
)
_ALIKE = 0.01
"""Lengths within this share of each other are equal: batches round them to whole steps."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run as one of several at its point."""

    family: str
    params: float
    tokens: float
    """Of the whole run, as planned."""
    unique_tokens: float
    loss: float
    setting: Mapping[str, Any]
    """All that may differ at one point, by name."""
    recipe: str = ""
    """What tells its recipe from the family's others."""


def setting_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a run's identity that are not its point, seed, corpus or evaluation."""
    return {
        key: value
        for key, value in identity.items()
        if key == "eval.ema" or not (key in _OF_THE_POINT or key.startswith(("corpus.", "eval.")))
    }


def dominated_settings(runs: Sequence[Candidate], within_recipes: bool = False) -> dict[int, Note]:
    """Index → why the run is left out: another setting has the lower mean loss at its point.

    Settings of the family count, or, `within_recipes`, only those of the same recipe.
    """
    reasons: dict[int, Note] = {}
    for indices in _points(runs, within_recipes):
        by_setting: dict[Hashable, list[int]] = defaultdict(list)
        for index in indices:
            by_setting[_key(runs[index].setting)].append(index)
        if len(by_setting) < 2:
            continue
        groups = list(by_setting.values())
        means = [float(np.mean([runs[i].loss for i in group])) for group in groups]
        best = int(np.argmin(means))
        differing = _differing([runs[group[0]].setting for group in groups])
        for number, group in enumerate(groups):
            if number != best:
                reason = note(
                    DropReason.DOMINATED_SETTING,
                    setting=differing[number],
                    loss=means[number],
                    runs=len(group),
                    best_setting=differing[best],
                    best_loss=means[best],
                    best_runs=len(groups[best]),
                )
                reasons |= dict.fromkeys(group, reason)
    return reasons


def _points(runs: Sequence[Candidate], within_recipes: bool) -> list[list[int]]:
    """Indices of runs of one family (and recipe) at one point."""
    curves: dict[Hashable, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        recipe = run.recipe if within_recipes else ""
        curves[run.family, recipe, run.params, run.unique_tokens].append(index)
    points = []
    for indices in curves.values():
        indices.sort(key=lambda i: runs[i].tokens)
        group = indices[:1]
        for index in indices[1:]:
            if runs[index].tokens > runs[group[0]].tokens * (1 + _ALIKE):
                points.append(group)
                group = []
            group.append(index)
        points.append(group)
    return points


def _key(setting: Mapping[str, Any]) -> Hashable:
    return tuple(sorted((name, repr(value)) for name, value in setting.items()))


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each setting the keys that are not the same in all; None: not set."""
    keys = sorted({key for setting in settings for key in setting})
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings}) > 1]
    return [{key: setting.get(key) for key in differing} for setting in settings]


def select_rows(points: Points, form: Form, options: FitOptions) -> tuple[Points, list[Dropped]]:
    """The points that `form` is fitted to, and those left out with the reason.

    A law of no repetition takes only runs of about one epoch. One that is monotone in epochs
    takes no overfitted runs: it cannot express them, and they would move its constants.
    """
    limit = options.max_epochs
    if limit is None and not form.repetition:
        limit = SINGLE_EPOCH
    reasons: dict[int, Note] = {}
    if limit is not None:
        for index in np.flatnonzero(points.epochs > limit * (1 + 1e-9)).tolist():
            epochs = float(points.epochs[index])
            reasons[index] = note(DropReason.TOO_MANY_EPOCHS, limit=limit, epochs=epochs)
    if form.monotone and not options.keep_overfitted:
        threshold = options.overfit_threshold
        for index, above in _overfitted(points, threshold).items():
            reason = note(DropReason.OVERFITTED, above=above, threshold=threshold)
            reasons.setdefault(index, reason)
    keep = np.array([index not in reasons for index in range(len(points))], dtype=bool)
    return points.take(keep), [points.drop(index, reason) for index, reason in reasons.items()]


def _overfitted(points: Points, threshold: float) -> dict[int, float]:
    """Index → share by which the loss is above the lowest of shorter, otherwise equal runs."""
    alike: dict[tuple[float, float], list[int]] = defaultdict(list)
    for index in np.argsort(points.tokens, kind="stable"):
        alike[float(points.params[index]), float(points.unique_tokens[index])].append(int(index))
    above = {}
    for indices in alike.values():
        lowest = np.inf
        for index in indices:
            if points.loss[index] > lowest * (1 + threshold):
                above[index] = float(points.loss[index] / lowest - 1)
            lowest = min(lowest, float(points.loss[index]))
    return above


def corpus_unigram_nll(train: TokenStore, validation: TokenStore, vocabulary: int) -> float:
    """NLL of the validation tokens under the frequencies of the training tokens, nats per token."""
    nll = unigram_nll(np.bincount(train.tokens[:_COUNTED], minlength=vocabulary).astype(float))
    seen = np.bincount(validation.tokens[:_COUNTED], minlength=vocabulary)
    return float((seen * nll).sum() / seen.sum())


def drop_unigram_level_runs(points: Points, level: float) -> tuple[Points, dict[str, float]]:
    """(points to fit a law to, family → lowest loss of those that do not yet beat `level`).

    `level` is the unigram NLL. Of a family that learns from context the runs below it are kept, if
    they are enough for a law; of one that does not yet, all are.
    """
    family = np.array(points.family)
    below, early = points.loss < level, {}
    for name in set(points.family):
        own = family == name
        enough = (own & (points.loss < level - LEARNING)).sum() >= ENOUGH
        if not enough or (own & below).sum() < len(DATA_CONSTRAINED.constants) + _SPARE:
            if not enough:
                early[name] = float(points.loss[own].min())
            below |= own
    reason = note(DropReason.UNIGRAM_LEVEL, unigram_nll=level)
    dropped = [points.drop(index, reason) for index in np.flatnonzero(~below).tolist()]
    kept = replace(points.take(below), dropped=[*points.dropped, *dropped], notes=points.notes)
    return kept, early


def unigram_level_notes(points: Points) -> list[Note]:
    """Counts of runs that are no better than the unigram NLL of their corpus.

    Nothing for points without run folders, and where their corpus is not found.
    """
    if not points.recipes:
        return []
    level = _level(points.run[int(np.argmax(points.unique_tokens))])
    if level is None:
        return []
    notes = []
    for family in sorted(set(points.family)):
        own = points.of_family(family)
        if count := int((own.loss >= level).sum()):
            code = PointsNote.RUNS_AT_UNIGRAM_LEVEL
            notes.append(note(code, family=family, count=count, total=len(own), unigram_nll=level))
    return notes


def _level(run: str) -> float | None:
    """The unigram NLL of a run's corpus; None where it is not found, or mixes stores."""
    try:
        record = RunRecord(run)
        corpus = open_corpus(record.data)
    except EpochalError:
        return None
    if isinstance(corpus.train, Blend):
        return None
    return corpus_unigram_nll(corpus.train, corpus.validation, corpus.tokenizer.vocabulary)

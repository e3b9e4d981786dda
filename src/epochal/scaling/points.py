"""Points that a law is fitted to: (N, D, U, loss) of finished runs, one per run.

A law describes a family at its best. So of runs with equal size, length and unique tokens that
differ in dropout, weight decay or any other setting, those of the setting with the lowest mean loss
over its seeds stay, and the others are dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.results import Note, note
from epochal.scaling.notes import DropReason

COLUMNS = ("params", "tokens", "unique_tokens", "val_loss")


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

    def __len__(self) -> int:
        return len(self.params)

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


def make_points(
    params: Any,
    tokens: Any,
    unique_tokens: Any = None,
    loss: Any = None,
    *,
    family: str | Sequence[str] = "",
    run: Sequence[str] | None = None,
    seed: Sequence[str] | None = None,
    n_convention: ParamsConvention = ParamsConvention.AS_GIVEN,
) -> Points:
    """Points from arrays; without `unique_tokens` every run is one epoch.

    Without `family` all points are of the first family of the list.

    Raises DataError naming the row for a value that is not positive and finite.
    """
    arrays = [np.atleast_1d(np.asarray(a, dtype=float)) for a in (params, tokens)]
    arrays.append(arrays[1] if unique_tokens is None else np.asarray(unique_tokens, dtype=float))
    arrays.append(np.asarray(loss, dtype=float))
    n, d, u, seen = (np.broadcast_to(a, arrays[0].shape).astype(float) for a in arrays)
    for name, values in zip(COLUMNS, (n, d, u, seen), strict=True):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"row {row + 1}: {name} = {values[row]:g} is not a positive number; fix or "
                "remove the row"
            )
    count = len(n)
    if isinstance(family, str):
        family = [family or family_names()[0]] * count
    return Points(
        n,
        d,
        u,
        seen,
        [str(name) for name in family],
        [f"row {i + 1}" for i in range(count)] if run is None else [str(r) for r in run],
        [""] * count if seed is None else [str(s) for s in seed],
        n_convention,
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


def setting_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a run's identity that are not its point, seed, corpus or evaluation."""
    return {
        key: value
        for key, value in identity.items()
        if key == "eval.ema" or not (key in _OF_THE_POINT or key.startswith(("corpus.", "eval.")))
    }


def dominated_settings(runs: Sequence[Candidate]) -> dict[int, Note]:
    """Index → why the run is left out: another setting has the lower mean loss at its point."""
    reasons: dict[int, Note] = {}
    for indices in _points(runs):
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


def _points(runs: Sequence[Candidate]) -> list[list[int]]:
    """Indices of runs of one family at one point."""
    curves: dict[Hashable, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        curves[run.family, run.params, run.unique_tokens].append(index)
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

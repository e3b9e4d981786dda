"""The best regularisation of each point: runs of equal size, length and unique tokens.

A law is of a family at its best, so where runs differ in dropout, weight decay or any other
setting alone, the setting with the lowest mean loss over its seeds stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
class RunOfPoint:
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
    """What of a run's identity is neither its point, nor its seed, corpus or evaluation."""
    return {
        key: value
        for key, value in identity.items()
        if key == "eval.ema" or not (key in _OF_THE_POINT or key.startswith(("corpus.", "eval.")))
    }


def not_best(runs: Sequence[RunOfPoint]) -> dict[int, str]:
    """Index → why the run is left out: another setting has the lower mean loss at its point."""
    found: dict[int, str] = {}
    for indices in _points(runs):
        by_setting: dict[Hashable, list[int]] = defaultdict(list)
        for index in indices:
            by_setting[_key(runs[index].setting)].append(index)
        if len(by_setting) < 2:
            continue
        groups = list(by_setting.values())
        means = [float(np.mean([runs[i].loss for i in group])) for group in groups]
        best = int(np.argmin(means))
        names = _names([runs[group[0]].setting for group in groups])
        for number, group in enumerate(groups):
            if number == best:
                continue
            reason = (
                f"not the best setting of its size, tokens and unique tokens: {names[number]} gave "
                f"{_mean(means[number], group)}, {names[best]} {_mean(means[best], groups[best])}"
            )
            found |= dict.fromkeys(group, reason)
    return found


def _points(runs: Sequence[RunOfPoint]) -> list[list[int]]:
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


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each setting by what is not the same in all."""
    keys = sorted({key for setting in settings for key in setting})
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings}) > 1]
    return [", ".join(f"{k}={s.get(k, 'unset')}" for k in differing) for s in settings]


def _mean(loss: float, group: Sequence[int]) -> str:
    return f"{loss:.4f} nats" + (f" in the mean of {len(group)} runs" if len(group) > 1 else "")

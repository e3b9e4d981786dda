"""Parts of a study: its clock, its recipes, and its choice of what to check."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epochal import files
from epochal.recipe.load import Tree
from epochal.scaling.law import ScalingLaw
from epochal.scaling.optimum import LadderChoice, best_of_sizes
from epochal.studies.probes import Costs, Probe, shape_of

WIDTH_OF_FULL_RATE = 128
FULL_RATE, LEAST_RATE = 2e-3, 2e-4
"""Learning rates by width: full up to 128, then as 1/width. Chosen by us: a rate good for width
96 let the loss of widths above 256 jump."""


class Clock:
    """The time that a study has used, over all its sittings, kept in a file with its state."""

    def __init__(self, path: Path, budget: float) -> None:
        """`budget` in seconds. Reads what earlier sittings have left in `path`."""
        self._path, self.budget = path, budget
        self.state: dict[str, Any] = {}
        if path.exists():
            self.state = json.loads(path.read_text(encoding="utf-8"))
        self._before = float(self.state.get("used", 0.0))
        self._start = time.monotonic()

    @property
    def used(self) -> float:
        """Seconds used so far."""
        return self._before + time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; negative if it is overdrawn."""
        return self.budget - self.used

    def save(self, **more: Any) -> None:
        """Keep the time used, and more of the state."""
        self.state |= more | {"used": self.used}
        files.write_json(self._path, self.state)


@dataclass(slots=True)
class Stages:
    """What the study did, for its report."""

    done: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, began: float, note: str, status: str = "done") -> None:
        """One stage; `began` by time.monotonic()."""
        seconds = round(time.monotonic() - began, 1)
        self.done.append({"name": name, "status": status, "seconds": seconds, "note": note})


def run_keys(probe: Probe, length: Mapping[str, Any]) -> Tree:
    """Recipe keys of one run of a study; `length` is its train.epochs or train.tokens."""
    shape = shape_of(probe.size)
    rate = max(LEAST_RATE, FULL_RATE * min(1.0, WIDTH_OF_FULL_RATE / shape.d_model))
    return {
        "family": probe.family,
        "data.unique_tokens": probe.unique_tokens,
        "model.d_model": shape.d_model,
        "model.layers": shape.layers,
        "model.heads": shape.heads,
        "model.head_dim": shape.head_dim,
        "train.lr": rate,
        "train.min_lr": rate / 10,
        **length,
    }


def base_recipe(corpus: Path, length: int, batch: int) -> Tree:
    """What all runs of a study have in common."""
    return {
        "data": {"corpus": corpus.as_posix(), "sequence_length": length},
        # Counts of masked tokens spread evenly: small models learn sooner with them.
        "mdm": {"noise": "stratified"},
        "train": {"global_batch_size": batch, "warmup": 0.05},
        "eval": {"every": "50%", "max_tokens": 5_000},
        "log": {"every": "2%", "tensorboard": False},
    }


def choose(law: ScalingLaw, unique: int, flops: float, params: Mapping[str, float]) -> LadderChoice:
    """The best size and length of one family for a compute budget."""
    choice = best_of_sizes(law, float(unique), flops, params, 1.0, only=True)
    assert choice is not None  # it is None only where sizes far from the optimum are refused
    return choice


def affordable(
    laws: Mapping[str, ScalingLaw],
    unique: int,
    params: Mapping[str, float],
    costs: Costs,
    seconds: float,
) -> float:
    """The largest compute for which each family's best choice trains within `seconds`."""
    low, high = 1e6, 1e24
    for _ in range(40):
        middle = (low * high) ** 0.5
        times = []
        for family, law in laws.items():
            best = choose(law, unique, middle, params)
            times.append(costs.seconds(family, best.name, best.tokens))
        if max(times) <= seconds:
            low = middle
        else:
            high = middle
    return low

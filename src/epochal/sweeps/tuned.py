"""What a tuning found, and what is certified of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from epochal.results import Note
from epochal.sweeps.search import Axis


class Verdict(StrEnum):
    """What is known of a neighbour of the best point."""

    WORSE = "worse"
    """By more than the error of the difference."""
    CLOSE = "close"
    """The difference is within its error."""
    BETTER = "better"
    """By more than the error; the search ended before it moved there."""
    UNTRIED = "untried"
    """No time was left, or the run failed."""
    LIMIT = "limit"
    NOT_TURNED_UP = "not_turned_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run that are searched."""

    lr: float
    weight_decay: float
    epochs: float
    dropout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedRun:
    """A run of a search."""

    run: str
    settings: Settings
    nll: float | None
    """Best held-out NLL, nats per token; None if it diverged, failed or was left out."""
    turned_up: bool
    """Whether the held-out loss had risen again by the end."""
    diverged: bool = False
    reason: Note | None = None
    """Why there is no `nll`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One step from the best point."""

    axis: Axis
    value: float
    verdict: Verdict
    difference: float | None = None
    """Its NLL minus that of the best point, paired by document; infinite where it diverged."""
    error: float | None = None
    """Standard error of `difference`; with several seeds, also of another seed for both runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a search cost."""

    runs: int
    tokens: int
    flops: float
    seconds: float
    """Of the runs' processes, over all sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The outcome of one search."""

    name: str
    family: str
    params: int
    unique_tokens: int
    start: TunedRun
    carried_from: str | None
    """The search of a smaller model that found the start's settings; None: the recipe's."""
    best: TunedRun
    runs: list[TunedRun]
    """In the order in which they were asked for."""
    seed_nlls: list[float]
    """NLL of the best settings with each seed that was trained, the search's own first."""
    seed_spread: float | None
    """Standard deviation of these; None for a single seed."""
    neighbours: list[Neighbour]
    """Of the best point; empty where even the start gave no result."""
    effort: Effort
    certified: bool
    """Whether every neighbour that is a candidate is worse by more than the error."""
    recipe: Path
    """The best settings as a recipe to train with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """The searches of a tuning, one per start."""

    path: Path
    """Folder of the runs."""
    searches: list[Tuned]

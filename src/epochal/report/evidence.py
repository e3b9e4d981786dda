"""What searches and sweeps show of which family learns more from a text, as values.

`searches.py` makes it from records; `text/evidence.py` has its English. The wheel carries the
evidence of `docs/results/records` (`evidence.json`), which the page of a quickstart shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from epochal.scaling.checks import Interval
from epochal.sweeps.tuned import Neighbour

SHIPPED = Path(__file__).with_name("evidence.json")
"""The evidence of the project's own runs; `docs/generate.py` writes it."""
TUNED, USUAL = "tuned", "usual"
"""Settings of a search: the best found; the start's rate and weight decay, at the best length that
was run with them. Runs of a folder without a search have its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best run of a family on U unique tokens with one kind of settings."""

    family: str
    settings: str
    """tuned, usual, or the name of a folder."""
    unique_tokens: int
    params: int
    lr: float
    weight_decay: float
    dropout: float
    epochs: float
    nll: float
    """Nats per token; the mean over seeds."""
    error: float
    """Standard error: documents, mask draws and, where there are several, seeds."""
    bits_per_byte: float | None
    seeds: int
    frontier: list[tuple[float, float]]
    """(FLOPs of a whole run, the lowest NLL of any run of up to so many), rising FLOPs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCost:
    """What a search certified, and what it cost."""

    family: str
    unique_tokens: int
    params: int
    certified: bool
    open: list[Neighbour]
    """Steps from the best settings that are not shown to be worse."""
    runs: int
    tokens: int
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """NLL of the second family's best minus that of the first's, nats per token."""

    families: tuple[str, str]
    settings: str
    unique_tokens: int
    params: int | None
    """None: each at its best size."""
    difference: float
    error: float
    interval: tuple[float, float]
    """95 %, paired by document."""
    seeds: tuple[int, int]
    clear: bool
    """Beyond two standard errors and 0.01 nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalCompute:
    """The compute from which the second family is below the first, on U unique tokens at one size.

    The laws are fitted to the runs of that size alone, so they say nothing of other sizes.
    """

    families: tuple[str, str]
    settings: str
    unique_tokens: int
    params: int
    seen: float | None
    """FLOPs of the smallest run below the first family's best of any length; None unless the
    difference of the best is clear."""
    largest: float
    """FLOPs of the second family's largest run."""
    law: float | None
    """FLOPs by the fitted laws, at equal length; None where they do not cross. Not to be trusted
    beyond ten times `largest`."""
    interval: Interval | None
    """95 % of `law`; an open end is None."""
    share: float | None
    """Of the resamples of the laws that cross."""
    refused: str | None
    """Why there are no laws."""
    paper: float
    """The paper's closed form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """P of a family with one kind of settings: see scaling/repetition.py."""

    family: str
    settings: str
    params: int
    penalty: float | None
    """None: no cost is seen."""
    interval: Interval | None
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEvidence:
    """All runs whose losses are on one scale."""

    name: str
    """Of the first source of the text."""
    tokenizer: str
    validation_sha256: str
    validation_tokens: int
    documents: int
    best: list[Best]
    searches: list[SearchCost]
    differences: list[Difference]
    critical: list[CriticalCompute]
    penalties: list[Penalty]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What records show, per text."""

    texts: list[TextEvidence]
    records: dict[str, str] = field(default_factory=dict)
    """Archive that it was made from → its SHA-256, where it was made from archives."""


def read_evidence(path: Path) -> Evidence:
    """What `results.to_json` made of an Evidence."""
    return TypeAdapter(Evidence).validate_json(path.read_bytes())


def shipped_evidence() -> Evidence:
    """The evidence of the project's own runs, made from `docs/results/records`."""
    return read_evidence(SHIPPED)

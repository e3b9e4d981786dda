"""What is kept of a study and its grid search: one JSON file per text and budget.

Nothing in it depends on where things lie on the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from advice_parts.texts import Text
from epochal import files
from epochal.errors import UserError
from epochal.results import to_json

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusIdentity:
    """The tokens that were trained and scored; NLLs of two corpora cannot be compared."""

    train: str
    """SHA-256 of the tokens."""
    validation: str
    unique_tokens: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A family's prediction and what the run that was kept from the fit showed. Nats per token."""

    predicted: float
    interval: tuple[float, float]
    seen: float
    setting: str | None
    """Regularisation it was trained with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a study answered."""

    corpus: CorpusIdentity
    seconds: float
    """Used of the budget."""
    law: str | None
    basis: str
    winner: str | None
    """The family that it calls better; None where it calls none."""
    check_flops: float | None
    """Compute of each run of the check; None without a law."""
    planned_flops: float | None
    """Compute that the recommended configurations are for."""
    largest_probe: dict[str, float]
    """Family → FLOPs of the largest run that its law was fitted to."""
    checked: dict[str, Checked]
    """Family → the check; without those that were not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """One run of the grid, or a recommended configuration."""

    family: str
    size: str
    lr: float
    weight_decay: float
    tokens: int
    epochs: float
    nll: float | None
    """Best held-out NLL, nats per token; None where it diverged or failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid search of every family at one compute."""

    flops: float
    points: list[GridPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What it was made with."""

    cores: int
    jobs: int
    """Runs at a time."""
    python: str
    torch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A text and a budget: the study, the grid search, the recommended configurations."""

    format: int = FORMAT
    epochal: str
    """Version of the study."""
    text: Text
    budget: float
    """Seconds."""
    machine: Machine
    cpu_seconds: dict[str, float]
    """Stage → CPU seconds of all its processes."""
    outcome: Outcome
    grid: Grid | None
    """None where the study named no configuration to search around, or with --no-grid."""
    recommended: list[GridPoint]
    """One per family, trained with the compute of the grid."""


_RECORD = TypeAdapter(Record)


def record_file(folder: Path, text: str, budget: float) -> Path:
    """Where the record of a text and a budget is kept."""
    return folder / f"advice-{text}-{budget_name(budget)}.json"


def budget_name(budget: float) -> str:
    """A budget as it is typed: 10min, 90s."""
    return f"{budget / 60:g}min" if budget % 60 == 0 else f"{budget:g}s"


def write_record(path: Path, record: Record) -> None:
    """Write it as JSON. Raises StorageError."""
    files.write_json(path, to_json(record))


def read_record(path: Path) -> Record:
    """The record in a file. Raises UserError, naming the file."""
    try:
        record = _RECORD.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{path.name} is no record of advice ({problem})") from None
    if record.format != FORMAT:
        raise UserError(f"{path.name} has format {record.format}, this version reads {FORMAT}")
    return record


def read_records(folder: Path, held_out: bool, names: Iterable[str] = ()) -> list[Record]:
    """All records of a folder, or those of the texts named, in the order of text and budget."""
    wanted = set(names)
    records = [read_record(path) for path in sorted(folder.glob("advice-*.json"))]
    kept = [
        record
        for record in records
        if (not wanted or record.text.name in wanted) and (held_out or not record.text.held_out)
    ]
    return sorted(kept, key=lambda one: (one.text.held_out, one.text.name, one.budget))

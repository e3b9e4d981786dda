"""Where the nats are: by place in the window, by document, by noise level.

By place: the mean over rows of w·NLL at a place, whose mean over draws is what the token at
that place adds to the (bound on the) NLL. No control variate is taken off here, so these
figures are noisier than the total, and their errors say by how much.

By noise level (masked diffusion): with K of m tokens masked, f(K) is the mean NLL of a masked
token; the bound per token is the mean of f over K = 1 … m. Shown are means of f over ranges of
the masked share K/m, so the mean of the lines, each weighted by its share of the range of K, is
the bound.

By document: its NLL per token, with the error from the draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from epochal import files
from epochal.estimates import Estimate, Floats
from epochal.likelihood.nll import Evaluator, Integers
from epochal.results import to_json

PLACE_RANGES = 12
LEVEL_RANGES = 10
EXTREMES = 5
"""Documents shown from either end."""


@dataclass(frozen=True, slots=True)
class PlaceRange:
    """Mean NLL of the tokens in a range of places of the window."""

    first: int
    """Counted from 1, as is `last`."""
    last: int
    nll: float
    error: float
    """0 for an exact likelihood, not known (NaN) from a single draw."""


@dataclass(frozen=True, slots=True)
class LevelRange:
    """Mean NLL of a masked token in a range of the masked share."""

    low: float
    high: float
    nll: float
    error: float | None
    """Between rows; None from a single one."""
    rows: int
    """Rows with such a share, of all draws."""


@dataclass(frozen=True, slots=True)
class DocumentNLL:
    """One document of the validation set, or one window."""

    document: int
    """Its number in the set, from 0."""
    tokens: int
    nll: float
    error: float
    """0 for an exact likelihood, not known (NaN) from a single draw."""


@dataclass(frozen=True, slots=True)
class DocumentSpread:
    """How the NLL differs between the documents."""

    unit: Literal["document", "window"]
    """Windows are counted where the set has a single document."""
    count: int
    deciles: tuple[float, ...]
    """NLL of the easiest document, at each tenth, and of the hardest; 11 values."""
    easiest: tuple[DocumentNLL, ...]
    """The easiest first."""
    hardest: tuple[DocumentNLL, ...]
    """The hardest first."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """NLL in parts, in nats per token; errors are standard errors from the draws."""

    places: list[PlaceRange]
    """By place in the window, in ranges of about equal ratio."""
    levels: list[LevelRange]
    """By masked share; empty for a family whose likelihood is exact."""
    documents: DocumentSpread
    place_nll: Floats = field(metadata={"json": False})
    """[L − 1], of the second place in the window, the third, …"""
    place_error: Floats = field(metadata={"json": False})
    """[L − 1]; 0 for an exact likelihood, NaN from a single draw."""
    document: Integers = field(metadata={"json": False})
    """[units] number of the document in the set, from 0 (of the window, if there is one document).
    """
    document_nll: Floats = field(metadata={"json": False})
    """[units]"""
    document_error: Floats = field(metadata={"json": False})
    """[units]"""
    document_tokens: Integers = field(metadata={"json": False})
    """[units] scored tokens."""

    def save(self, prefix: Path) -> None:
        """`<prefix>.json` with the tables and `<prefix>.npz` with all arrays."""
        with (
            files.atomic_path(prefix.with_suffix(".npz")) as temporary,
            temporary.open("wb") as file,
        ):
            arrays = [one.name for one in fields(self) if not one.metadata.get("json", True)]
            np.savez_compressed(file, **{name: getattr(self, name) for name in arrays})
        files.write_json(prefix.with_suffix(".json"), to_json(self))


def break_down(evaluator: Evaluator, found: Estimate) -> Breakdown:
    """Of all draws that `evaluator` has made; `found` is its result."""
    places = evaluator.by_place()
    exact = evaluator.objective.exact
    numbers, nll = evaluator.unit_numbers(), found.unit_totals / found.unit_tokens
    errors = np.sqrt(found.unit_variances) / found.unit_tokens

    def document(unit: int) -> DocumentNLL:
        tokens = int(found.unit_tokens[unit])
        return DocumentNLL(int(numbers[unit]), tokens, float(nll[unit]), float(errors[unit]))

    order = np.argsort(nll, kind="stable")
    return Breakdown(
        places=_place_ranges(places, exact),
        levels=[] if exact else _level_ranges(*evaluator.by_level()),
        documents=DocumentSpread(
            unit="document" if evaluator.by_document else "window",
            count=len(nll),
            deciles=tuple(np.quantile(nll, np.linspace(0, 1, 11)).tolist()),
            easiest=tuple(document(unit) for unit in order[:EXTREMES]),
            hardest=tuple(document(unit) for unit in order[::-1][:EXTREMES]),
        ),
        place_nll=places.mean(axis=0),
        place_error=_error(places, exact),
        document=numbers,
        document_nll=nll,
        document_error=errors,
        document_tokens=found.unit_tokens,
    )


def _error(draws: Floats, exact: bool) -> Floats:
    """Standard error of the mean over [R, …] draws."""
    if exact or len(draws) < 2:
        return np.full(draws.shape[1:], 0.0 if exact else np.nan)
    return np.asarray(draws.std(axis=0, ddof=1) / np.sqrt(len(draws)))


def _place_ranges(places: Floats, exact: bool) -> list[PlaceRange]:
    """Ranges of about equal ratio, since the first places differ most."""
    count = places.shape[1]
    edges = np.unique(np.geomspace(1, count + 1, PLACE_RANGES + 1).astype(np.int64))
    lines = []
    for first, end in pairwise(edges.tolist()):
        means = places[:, first - 1 : end - 1].mean(axis=1)
        error = float(_error(means, exact))
        lines.append(PlaceRange(int(first), int(end - 1), float(means.mean()), error))
    return lines


def _level_ranges(shares: Floats, nll: Floats) -> list[LevelRange]:
    """[R, rows] masked shares and NLL per masked token → a line per range with rows in it."""
    # A share of exactly 1/10 belongs to the range that ends there.
    place = np.clip(np.ceil(shares * LEVEL_RANGES - 1e-9).astype(np.int64) - 1, 0, None)
    lines = []
    for number in range(LEVEL_RANGES):
        inside = nll[place == number]
        if not len(inside):
            continue
        error = float(inside.std(ddof=1) / np.sqrt(len(inside))) if len(inside) > 1 else None
        low, high = number / LEVEL_RANGES, (number + 1) / LEVEL_RANGES
        lines.append(LevelRange(low, high, float(inside.mean()), error, len(inside)))
    return lines

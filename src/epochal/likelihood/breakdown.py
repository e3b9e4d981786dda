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

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epochal import files
from epochal.estimates import Estimate
from epochal.likelihood.nll import Evaluator

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PLACE_RANGES = 12
LEVEL_RANGES = 10
EXTREMES = 5
"""Documents shown from either end."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Figures in nats per token; errors are standard errors from the draws (NaN: unknown)."""

    place_nll: Floats
    """[L − 1], of the second place in the window, the third, …"""
    place_error: Floats
    """[L − 1]; 0 for an exact likelihood."""
    place_ranges: list[dict[str, float]]
    """The same for ranges of places: first, last (counted from 1), nll, error."""
    level_ranges: list[dict[str, float | None]]
    """Per range of the masked share: low, high, nll, error (between rows; None of a single one),
    rows. Empty for AR."""
    document: Integers
    """[units] number of the document in the set, from 0 (of the window, if there is one document).
    """
    unit: Literal["document", "window"]
    """What the numbers in `document` count."""
    document_nll: Floats
    document_error: Floats
    document_tokens: Integers

    def as_dict(self) -> dict[str, Any]:
        """Tables, and the documents at both ends; arrays in full are in the .npz beside it."""
        order = np.argsort(self.document_nll, kind="stable")
        share = np.linspace(0, 1, 11)
        return {
            "places": self.place_ranges,
            "levels": self.level_ranges,
            "documents": {
                "unit": self.unit,
                "count": len(order),
                "deciles": np.quantile(self.document_nll, share).tolist(),
                "easiest": [self._document(n) for n in order[:EXTREMES]],
                "hardest": [self._document(n) for n in order[::-1][:EXTREMES]],
            },
        }

    def save(self, prefix: Path) -> None:
        """`<prefix>.json` with the tables and `<prefix>.npz` with all arrays."""
        with (
            files.atomic_path(prefix.with_suffix(".npz")) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(
                file,
                place_nll=self.place_nll,
                place_error=self.place_error,
                document=self.document,
                document_nll=self.document_nll,
                document_error=self.document_error,
                document_tokens=self.document_tokens,
            )
        files.write_json(prefix.with_suffix(".json"), self.as_dict())

    def _document(self, unit: int) -> dict[str, float]:
        return {
            "document": int(self.document[unit]),
            "tokens": int(self.document_tokens[unit]),
            "nll": float(self.document_nll[unit]),
            "error": float(self.document_error[unit]),
        }


def break_down(evaluator: Evaluator, found: Estimate) -> Breakdown:
    """Of all draws that `evaluator` has made; `found` is its result."""
    places = evaluator.by_place()
    exact = evaluator.objective.exact
    return Breakdown(
        place_nll=places.mean(axis=0),
        place_error=_error(places, exact),
        place_ranges=_place_ranges(places, exact),
        level_ranges=[] if exact else _level_ranges(*evaluator.by_level()),
        document=evaluator.unit_numbers(),
        unit="document" if evaluator.by_document else "window",
        document_nll=found.unit_totals / found.unit_tokens,
        document_error=np.sqrt(found.unit_variances) / found.unit_tokens,
        document_tokens=found.unit_tokens,
    )


def _error(draws: Floats, exact: bool) -> Floats:
    """Standard error of the mean over [R, …] draws."""
    if exact or len(draws) < 2:
        return np.full(draws.shape[1:], 0.0 if exact else np.nan)
    return np.asarray(draws.std(axis=0, ddof=1) / np.sqrt(len(draws)))


def _place_ranges(places: Floats, exact: bool) -> list[dict[str, float]]:
    """Ranges of about equal ratio, since the first places differ most."""
    count = places.shape[1]
    edges = np.unique(np.geomspace(1, count + 1, PLACE_RANGES + 1).astype(np.int64))
    lines = []
    for first, end in pairwise(edges.tolist()):
        means = places[:, first - 1 : end - 1].mean(axis=1)
        lines.append(
            {
                "first": int(first),
                "last": int(end - 1),
                "nll": float(means.mean()),
                "error": float(_error(means, exact)),
            }
        )
    return lines


def _level_ranges(shares: Floats, nll: Floats) -> list[dict[str, float | None]]:
    """[R, rows] masked shares and NLL per masked token → a line per range with rows in it."""
    # A share of exactly 1/10 belongs to the range that ends there.
    place = np.clip(np.ceil(shares * LEVEL_RANGES - 1e-9).astype(np.int64) - 1, 0, None)
    lines: list[dict[str, float | None]] = []
    for number in range(LEVEL_RANGES):
        inside = nll[place == number]
        if not len(inside):
            continue
        error = float(inside.std(ddof=1) / np.sqrt(len(inside))) if len(inside) > 1 else None
        lines.append(
            {
                "low": number / LEVEL_RANGES,
                "high": (number + 1) / LEVEL_RANGES,
                "nll": float(inside.mean()),
                "error": error,
                "rows": len(inside),
            }
        )
    return lines

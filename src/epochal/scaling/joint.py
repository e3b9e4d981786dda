"""One law on several sets of runs at once: some constants in common, the others each set's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms.form import FitProblem


class Problem(Protocol):
    """What can be minimised: one law on its points, or several with constants in common."""

    @property
    def delta(self) -> float:
        """Huber's δ."""

    def map(self) -> tuple[Floats, Floats]:
        """(p0 [k], M [k, m]): unconstrained constants p = p0 + M·q of the free ones q."""

    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest q."""

    def to_free(self, constants: Floats) -> Floats:
        """Unconstrained constants [..., k] → q [..., m]."""

    def residuals_with_gradient(self, constants: Floats) -> tuple[Floats, Floats]:
        """[S, k] → [S, n] and [S, k, n]."""

    def huber(self, residuals: Floats) -> Floats:
        """Huber's term of each residual."""


@dataclass(frozen=True, slots=True)
class JointProblem:
    """What is minimised: the sum over G sets of runs. Constants are [G·k], set after set."""

    parts: Sequence[FitProblem]
    """Of one law, with the same free constants, δ and kind of residual."""
    shared: tuple[str, ...]
    """Free constants that all have in common; none whose search is centred."""

    @property
    def delta(self) -> float:
        """Huber's δ."""
        return self.parts[0].delta

    @property
    def free(self) -> list[str]:
        """Names of the constants that are searched: the shared ones, then each set's own."""
        return [*self.shared, *(name for part in self.parts for name in self._own(part))]

    def _own(self, part: FitProblem) -> list[str]:
        return [name for name in part.free if name not in self.shared]

    def map(self) -> tuple[Floats, Floats]:
        """(p0 [G·k], M [G·k, m]), see `FitProblem.map`."""
        bases, matrices = zip(*(part.map() for part in self.parts), strict=True)
        count = len(bases[0])
        matrix = np.zeros((count * len(self.parts), len(self.free)))
        column = len(self.shared)
        for number, (part, own) in enumerate(zip(self.parts, matrices, strict=True)):
            rows = slice(number * count, (number + 1) * count)
            for name, values in zip(part.free, own.T, strict=True):
                at = self.shared.index(name) if name in self.shared else column
                column += name not in self.shared
                matrix[rows, at] = values
        return np.concatenate(bases), matrix

    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest q."""
        named = [dict(zip(p.free, zip(*p.bounds(), strict=True), strict=True)) for p in self.parts]
        pairs = [named[0][name] for name in self.shared]
        for part, own in zip(self.parts, named, strict=True):
            pairs += [own[name] for name in self._own(part)]
        return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])

    def to_free(self, constants: Floats) -> Floats:
        """Constants [..., G·k] → q [..., m]."""
        base, matrix = self.map()
        result: Floats = (constants - base) @ np.linalg.pinv(matrix).T
        return result

    def residuals_with_gradient(self, constants: Floats) -> tuple[Floats, Floats]:
        """[S, G·k] → [S, n] and [S, G·k, n], the sets' rows one after another."""
        split = np.split(constants, len(self.parts), axis=1)
        residuals, gradients = zip(
            *(p.residuals_with_gradient(c) for p, c in zip(self.parts, split, strict=True)),
            strict=True,
        )
        whole = np.concatenate(residuals, axis=1)
        gradient = np.zeros((*constants.shape, whole.shape[1]))
        row = column = 0
        for one in gradients:
            gradient[:, row : row + one.shape[1], column : column + one.shape[2]] = one
            row, column = row + one.shape[1], column + one.shape[2]
        return whole, gradient

    def huber(self, residuals: Floats) -> Floats:
        """Huber's term of each residual."""
        return self.parts[0].huber(residuals)

"""Coordinate descent over a recipe's settings in steps of two, as pure functions of what is known.

From a start, one setting after another is doubled and halved, and the search moves to what is
better; it ends where no such step is better. That point is *certified* where every neighbour is
worse by more than the error of the difference (Kim et al., arXiv 2509.14786, §3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isinf

DROPOUTS = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Dropout doubles, too, but for its first step from none."""
USUAL_DECAY = 0.1
"""Weight decay that is usual without repetition. More is only tried where the held-out loss has
turned up: where it has not, strong decay was seen to lose."""
LEAST_PRIOR, MOST_PRIOR = 0.1, 3.2


class Axis(StrEnum):
    """A setting that is searched."""

    LR = "lr"
    WEIGHT_DECAY = "weight_decay"
    EPOCHS = "epochs"
    DROPOUT = "dropout"


class Closed(StrEnum):
    """Why a neighbour is no candidate."""

    LIMIT = "limit"
    """Fewer epochs than one would be fewer unique tokens; dropout ends at 0 and 0.4."""
    NOT_TURNED_UP = "not_turned_up"
    """Strong weight decay, where the held-out loss had not turned up."""


@dataclass(frozen=True, slots=True)
class Point:
    """Steps from the start on each setting: a doubling is 1, halving −1."""

    lr: int = 0
    weight_decay: int = 0
    epochs: int = 0
    dropout: int = 0

    def step(self, axis: Axis, by: int) -> Point:
        """The neighbour on one setting."""
        return replace(self, **{axis: getattr(self, axis) + by})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run at a point showed."""

    nll: float
    """Best held-out NLL, nats per token; infinite where the run diverged."""
    turned_up: bool = False
    """Whether its held-out loss had risen again by the end."""

    @property
    def diverged(self) -> bool:
        """Whether it has no NLL."""
        return isinf(self.nll)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a search begins: the values at Point()."""

    lr: float
    weight_decay: float
    epochs: float
    dropout: float = 0.0
    """One of DROPOUTS."""
    prior: float | None = None
    """Weight decay to try second, where the first run's held-out loss turned up."""

    def value(self, axis: Axis, point: Point) -> float:
        """The setting at a point."""
        steps = getattr(point, axis)
        if axis is Axis.DROPOUT:
            return DROPOUTS[DROPOUTS.index(self.dropout) + steps]
        return float(getattr(self, axis) * 2.0**steps)


@dataclass(frozen=True, slots=True)
class Search:
    """A search and what it knows: point → outcome, None for one that could not be tried."""

    start: Start
    axes: Sequence[Axis]
    known: Mapping[Point, Outcome | None]

    def next(self) -> tuple[Point, list[Point]]:
        """(the best point of the path so far, what to try next: nothing at the end).

        The path is computed anew from the start, so that an interrupted search continues as if
        it had not been.
        """
        if self._nll(Point()) is None:
            return Point(), [] if Point() in self.known else [Point()]
        at = Point()
        if (jump := self._jump()) is not None:
            if jump not in self.known:
                return at, [jump]
            at = self._better(at, [jump])
        moved = True
        while moved:
            moved = False
            for axis in self.axes:
                while True:
                    open_ = [p for p, _, closed in self.neighbours(at, axis) if closed is None]
                    if wanted := [point for point in open_ if point not in self.known]:
                        return at, wanted
                    better = self._better(at, open_)
                    if better == at:
                        break
                    at, moved = better, True
        return at, []

    def neighbours(self, at: Point, axis: Axis) -> Iterator[tuple[Point, int, Closed | None]]:
        """(point, step, why it is no candidate) of the two steps on one setting."""
        for step in (-1, 1):
            point, closed = at.step(axis, step), None
            if axis is Axis.DROPOUT:
                place = DROPOUTS.index(self.start.dropout) + point.dropout
                closed = None if 0 <= place < len(DROPOUTS) else Closed.LIMIT
            elif axis is Axis.EPOCHS and self.start.value(axis, point) < 1 and step < 0:
                closed = Closed.LIMIT
            elif axis is Axis.WEIGHT_DECAY and step > 0:
                outcome = self.known.get(at)
                strong = self.start.value(axis, point) > USUAL_DECAY * 1.001
                if strong and not (outcome and outcome.turned_up):
                    closed = Closed.NOT_TURNED_UP
            yield point, step, closed

    def _jump(self) -> Point | None:
        """The point with the prior's weight decay, if that is to be tried."""
        outcome, prior = self.known[Point()], self.start.prior
        if prior is None or Axis.WEIGHT_DECAY not in self.axes:
            return None
        if not (outcome and outcome.turned_up):
            return None
        steps = 0
        while self.start.weight_decay * 2.0**steps < prior / 2**0.5:
            steps += 1
        return Point(weight_decay=steps) if steps else None

    def _nll(self, point: Point) -> float | None:
        outcome = self.known.get(point)
        return None if outcome is None else outcome.nll

    def _better(self, at: Point, others: Sequence[Point]) -> Point:
        """The point with the lowest NLL; `at` unless another is lower."""
        best = at
        for point in others:
            nll, lowest = self._nll(point), self._nll(best)
            if nll is not None and lowest is not None and nll < lowest:
                best = point
        return best


def decay_prior(per_capacity: float, params: float, unique_tokens: float) -> float:
    """Weight decay that was best for `params` on `unique_tokens` that are repeated.

    per_capacity · N / U, from 0.1 to 3.2: the optima of arXiv 2509.14786 (table of section 3) lie
    within a factor of two of it at 1.1.
    """
    return min(MOST_PRIOR, max(LEAST_PRIOR, per_capacity * params / unique_tokens))

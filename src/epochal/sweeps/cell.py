"""One search of a tuning in progress: where it starts, what it asked for, what its runs showed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epochal.errors import EpochalError, RecipeError
from epochal.families import get_family
from epochal.recipe import Recipe, RunNumbers, identity
from epochal.runs import RunFolder, RunRecord
from epochal.runs.curves import turned_up
from epochal.sweeps.designs import CorpusFacts, SweepRun
from epochal.sweeps.record import RunState, State
from epochal.sweeps.search import DROPOUTS, Axis, Outcome, Point, Search, Start, decay_prior
from epochal.sweeps.tuned import Settings

_SHAPE = ("size", "d_model", "layers", "heads", "head_dim", "d_ff")
"""Keys of `[model]` in which sizes differ."""


def carried(lr: float, wider: float, optimizer: str) -> float:
    """A learning rate found at one width, for a model `wider` times as wide: in proportion to
    1 / width, as it is for hidden matrices under AdamW (Yang et al., arXiv 2203.03466, table 3), or
    to its root with Muon (`make_optimizer`)."""
    return lr / (wider**0.5 if optimizer == "muon" else wider)


@dataclass(slots=True, eq=False)
class Cell:
    """A search in progress."""

    run: SweepRun
    start: Start
    axes: Sequence[Axis]
    facts: CorpusFacts
    smaller: Cell | None = None
    """The search of the next smaller model, if the starts differ in size: it comes first."""
    carried: bool = False
    """Whether the start is what that search found."""
    asked: dict[str, Point] = field(default_factory=dict)
    """Name of the run → point, in the order asked."""
    repeats: dict[str, SweepRun] = field(default_factory=dict)
    """Of the best point, with other seeds."""
    states: dict[str, RunState] = field(default_factory=dict)
    outcomes: dict[str, Outcome | None] = field(default_factory=dict)
    """Name of a run that is done → what it showed; None where it was not trained to its end."""

    @property
    def search(self) -> Search:
        known = {p: self.outcomes[name] for name, p in self.asked.items() if name in self.outcomes}
        return Search(self.start, self.axes, known)

    def done(self, state: RunState) -> None:
        """Take over a run's state, and read what it showed."""
        self.states[state.name] = state
        self.outcomes[state.name] = _outcome(state)

    def settings(self, point: Point) -> Settings:
        return Settings(**{axis.value: self.start.value(axis, point) for axis in Axis})

    def ended(self, begun: Sequence[Cell]) -> bool:
        """Whether the search has begun and has nothing more to try."""
        return self in begun and not self.search.next()[1]

    def found(self) -> dict[str, float] | None:
        """The best settings so far; None where even the start gave no result."""
        at, _ = self.search.next()
        outcome = self.search.known.get(at)
        if outcome is None or outcome.diverged:
            return None
        return dataclasses.asdict(self.settings(at))

    def begin(self, before: Mapping[str, RunState]) -> None:
        """Start from what the smaller model's search found, and go the path of an earlier session.

        Weight decay, epochs and dropout are taken over; so is the learning rate with CompleteP,
        which carries it over sizes, and else it is `carried`.
        """
        small, values = self.smaller, None if self.smaller is None else self.smaller.found()
        if small is not None and values is not None:
            model, other = self.run.recipe.model, small.run.recipe.model
            if model.parametrisation == "standard":
                wider = model.architecture().d_model / other.architecture().d_model
                values["lr"] = carried(values["lr"], wider, self.run.recipe.train.optimizer)
            searched = {axis.value: values[axis.value] for axis in self.axes}
            self.start, self.carried = dataclasses.replace(self.start, **searched), True
        self.take(before)

    def take(self, before: Mapping[str, RunState]) -> None:
        """Go the path as far as the runs of an earlier session lead."""
        while wanted := self.search.next()[1]:
            names = [self.ask(point) for point in wanted]
            old = [before.get(name) for name in names]
            if any(one is None or not _is_kept(one) for one in old):
                return
            for one in old:
                if one is not None:
                    self.done(one)

    def ask(self, point: Point) -> str:
        """Note that a point is wanted; the name of its run."""
        values = self.settings(point)
        dropout = f"-drop{values.dropout:g}" if Axis.DROPOUT in self.axes else ""
        name = f"lr{values.lr:.3g}-wd{values.weight_decay:.3g}-{values.epochs:.4g}ep{dropout}"
        name = f"{self.run.name}-{name}"
        self.asked[name] = point
        return name

    def repeat(self, seeds: int) -> bool:
        """Ask for the best point with other seeds; whether one of these runs is new."""
        at, _ = self.search.next()
        self.repeats = {}
        if self.search.known.get(at) is None:
            return False
        own = next(name for name, point in self.asked.items() if point == at)
        recipe = self.recipe(at)
        for seed in range(recipe.seed + 1, recipe.seed + seeds):
            name = f"{own}-seed{seed}"
            self.repeats[name] = SweepRun(name, dataclasses.replace(recipe, seed=seed))
        return any(name not in self.states for name in self.repeats)

    def recipe(self, point: Point) -> Recipe:
        """The start's recipe with the settings of a point."""
        train, values = self.run.recipe.train, self.settings(point)
        changes: dict[str, Any] = {
            "lr": values.lr,
            "min_lr": train.min_lr * (values.lr / train.lr),
            "weight_decay": values.weight_decay,
            **dict.fromkeys(("tokens", "steps", "flops")),
            "epochs": values.epochs,
        }
        if Axis.DROPOUT in self.axes:
            changes |= {"attention_dropout": values.dropout, "hidden_dropout": values.dropout}
        return dataclasses.replace(
            self.run.recipe, train=dataclasses.replace(train, **changes), run_dir=None
        )

    def numbers(self, point: Point) -> RunNumbers:
        return self.facts.numbers(self.recipe(point))

    def seconds(self, point: Point) -> float:
        """Expected, from the speed of the runs that are finished; 0 before the first."""
        done = {
            name: self.states[name].seconds
            for name in self.asked
            if name in self.states and self.states[name].seconds > 0
        }
        tokens = sum(self.numbers(self.asked[name]).tokens for name in done)
        seconds = sum(done.values())
        return self.numbers(point).tokens * seconds / tokens if tokens else 0.0


def make_cells(starts: Sequence[SweepRun], axes: Sequence[Axis], facts: CorpusFacts) -> list[Cell]:
    """A search per start, smallest first; of starts that differ in size only, each follows the
    next smaller one."""
    cells = [Cell(run, _start(run, axes, facts), axes, facts) for run in starts]
    cells.sort(key=lambda cell: facts.numbers(cell.run.recipe).params)
    last: dict[str, Cell] = {}
    for cell in cells:
        what = identity(cell.run.recipe)
        key = repr({k: v for k, v in what.items() if k.removeprefix("model.") not in _SHAPE})
        cell.smaller, last[key] = last.get(key), cell
    return cells


def _start(run: SweepRun, axes: Sequence[Axis], facts: CorpusFacts) -> Start:
    """Where the search of a start begins. Raises RecipeError for a setting without a double."""
    train, numbers = run.recipe.train, facts.numbers(run.recipe)
    if Axis.WEIGHT_DECAY in axes and train.weight_decay == 0:
        raise RecipeError(
            "`train.weight_decay` = 0 cannot be doubled; start from 0.1, or leave weight_decay out"
        )
    if Axis.DROPOUT in axes and not (
        train.hidden_dropout == train.attention_dropout and train.hidden_dropout in DROPOUTS
    ):
        raise RecipeError(
            f"`train.hidden_dropout` = {train.hidden_dropout:g}: to search dropout, start with "
            f"hidden_dropout and attention_dropout both one of {', '.join(map(str, DROPOUTS))}"
        )
    per_capacity = get_family(run.recipe.family).decay_per_capacity
    return Start(
        lr=train.lr,
        weight_decay=train.weight_decay,
        epochs=train.epochs or numbers.epochs,
        dropout=train.hidden_dropout if Axis.DROPOUT in axes else 0.0,
        prior=None
        if per_capacity is None
        else decay_prior(per_capacity, numbers.params, numbers.unique_tokens),
    )


def _outcome(state: RunState) -> Outcome | None:
    """Reads a run's record."""
    if state.state == State.FINISHED and state.nll is not None and math.isfinite(state.nll):
        return Outcome(state.nll, turned_up(RunRecord(state.run_dir)))
    return Outcome(math.inf) if _diverged(state) else None


def _is_kept(state: RunState) -> bool:
    """Whether a run is finished, and its folder still there."""
    return state.state == State.FINISHED and RunFolder(Path(state.run_dir)).read_info() is not None


def _diverged(state: RunState) -> bool:
    if state.state not in (State.FAILED, State.FINISHED):
        return False
    try:
        return RunRecord(state.run_dir).status == "diverged"
    except EpochalError:  # it failed before it had a record
        return False

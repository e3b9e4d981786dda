"""Tuning: a search of learning rate, weight decay and epochs per family, with a certificate.

Each start (a family, a size, a number of unique tokens) has its own coordinate descent, see
`search.py`; the runs that the searches ask for are trained together, as a sweep.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Any

from epochal import files
from epochal.comparison import is_clear, nll_difference
from epochal.errors import EpochalError, OptionError, RecipeError
from epochal.families import family_names, get_family
from epochal.progress import say
from epochal.recipe import Recipe, RunNumbers, find_recipe, recipe_toml
from epochal.recipe.load import read_toml
from epochal.results import Note, note, to_json
from epochal.runs import RunRecord
from epochal.runs.curves import validation_curve
from epochal.sweeps.designs import CorpusFacts, SweepRun, design_runs
from epochal.sweeps.file import Sweep, load_sweep, sweep_from_tree
from epochal.sweeps.options import TuneOptions
from epochal.sweeps.record import RunReason, RunState, State, SweepFolder
from epochal.sweeps.search import DROPOUTS, Axis, Closed, Outcome, Point, Search, Start, decay_prior
from epochal.sweeps.slots import make_slots, warn_idle_gpus
from epochal.sweeps.sweep import run_all
from epochal.sweeps.tuned import Effort, Neighbour, Settings, Tuned, TunedRun, TuneResult, Verdict

AXES = (Axis.LR, Axis.WEIGHT_DECAY, Axis.EPOCHS)
"""Searched if no others are asked for."""


@dataclass(slots=True)
class _Cell:
    """A search in progress."""

    run: SweepRun
    start: Start
    axes: Sequence[Axis]
    facts: CorpusFacts
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

    def take(self, before: Mapping[str, RunState]) -> None:
        """Go the path as far as the runs of an earlier session lead."""
        while wanted := self.search.next()[1]:
            names = [self.ask(point) for point in wanted]
            old = [before.get(name) for name in names]
            if any(one is None or one.state != State.FINISHED for one in old):
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


def tune(
    source: str | Path | Sweep,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    options: TuneOptions | None = None,
) -> TuneResult:
    """Search the best learning rate, weight decay and epochs of each family (or start).

    `source` is a recipe, trained with each of `options.families`, or a sweep file: each of its
    runs is then a start. All runs are kept in `options.out`, the result in its `tune.json`; the
    same call resumes, and finished runs are not done again. With `options.budget`, every search
    may use the same share of it. Raises OptionError, RecipeError or DataError before anything
    starts, and TrainingStopped after Ctrl-C or SIGTERM.
    """
    options = options or TuneOptions()
    sweep = _starts(source, overrides, options)
    folder = SweepFolder(options.out or Path("runs") / f"{sweep.name}-tune")
    facts = CorpusFacts.of(sweep)
    axes = tuple(map(Axis, options.axes)) or AXES
    starts = design_runs(sweep, facts)
    cells = [_Cell(run, _start(run, axes, facts), axes, facts) for run in starts]
    warn_idle_gpus(make_slots(options.jobs))
    share = math.inf if options.budget is None else options.budget * options.jobs / len(cells)
    before = folder.read()
    for cell in cells:
        cell.take(before)
    checked = False
    while True:
        wanted = [(cell, point) for cell in cells for point in cell.search.next()[1]]
        again = not wanted and sum(cell.repeat(options.seeds) for cell in cells) > 0
        if checked and not wanted and not again:
            break
        for cell, point in wanted:
            cell.ask(point)
        # The first time even without a new run: what was taken is checked against the recipe.
        _train(sweep, cells, facts, folder, options.jobs, share)
        checked = True
        for cell in cells:
            _say_best(cell)
    result = TuneResult(path=folder.path, searches=[_tuned(cell, folder) for cell in cells])
    files.write_json(folder.path / "tune.json", to_json(result))
    return result


def _starts(
    source: str | Path | Sweep, overrides: Sequence[str] | Mapping[str, Any], options: TuneOptions
) -> Sweep:
    """A sweep whose runs are the starts."""
    if isinstance(source, Sweep):
        return source
    path = find_recipe(str(source))
    recipe = read_toml(path)
    if "sweep" not in recipe:
        families = list(dict.fromkeys(options.families or family_names()))
        tree = {"sweep": {"design": "grid", "families": families}, "base": recipe}
        recipe.pop("run_dir", None)
        recipe.pop("family", None)
        return sweep_from_tree(tree, path.stem, overrides)
    if options.families:
        raise OptionError(
            "families", options.families[0], "a sweep names its own; change `sweep.families`"
        )
    sweep = load_sweep(source, overrides)
    if any(part.design == "trunk" for part in sweep.parts):
        raise RecipeError(
            "`sweep.design` = 'trunk': the branches of a trunk share its learning rate and cannot "
            'be tuned one by one; use "grid"'
        )
    return sweep


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


def _train(
    sweep: Sweep,
    cells: Sequence[_Cell],
    facts: CorpusFacts,
    folder: SweepFolder,
    jobs: int,
    share: float,
) -> None:
    """Train what is asked for and not done, each search within its share of the seconds."""
    owner = {name: cell for cell in cells for name in [*cell.asked, *cell.repeats]}

    def may_start(state: RunState) -> Note | None:
        cell = owner[state.name]
        cell.states[state.name] = state  # its seconds count from now on
        used = sum(one.seconds for one in cell.states.values())
        point = cell.asked.get(state.name) or cell.search.next()[0]
        late = used + cell.seconds(point) > share
        return note(RunReason.NO_TIME) if late and len(cell.states) > 1 else None

    runs = [
        SweepRun(name, cell.recipe(point)) for cell in cells for name, point in cell.asked.items()
    ]
    runs += [run for cell in cells for run in cell.repeats.values()]
    result = run_all(
        dataclasses.replace(sweep, evaluate=True, early_stopping=False),
        runs,
        facts,
        folder,
        jobs=jobs,
        places=[folder.path],
        may_start=may_start,
    )
    for state in result.runs:
        owner[state.name].done(state)


def _outcome(state: RunState) -> Outcome | None:
    """Reads a run's record."""
    if state.state == State.FINISHED and state.nll is not None and math.isfinite(state.nll):
        curve = validation_curve(RunRecord(state.run_dir))
        return Outcome(state.nll, curve is not None and curve.overfits)
    return Outcome(math.inf) if _diverged(state) else None


def _diverged(state: RunState) -> bool:
    if state.state not in (State.FAILED, State.FINISHED):
        return False
    try:
        return RunRecord(state.run_dir).status == "diverged"
    except EpochalError:  # it failed before it had a record
        return False


def _say_best(cell: _Cell) -> None:
    at, _ = cell.search.next()
    outcome = cell.search.known.get(at)
    if outcome is not None:
        values = cell.settings(at)
        say(
            f"{cell.run.name}: NLL {outcome.nll:.4f} with lr {values.lr:.3g}, weight decay "
            f"{values.weight_decay:.3g}, {values.epochs:.4g} epochs ({len(cell.states)} runs)"
        )


def _tuned(cell: _Cell, folder: SweepFolder) -> Tuned:
    """The outcome of a search; writes the recipe of its best point."""
    search = cell.search
    at, _ = search.next()
    runs = {point: _tuned_run(cell, name, point) for name, point in cell.asked.items()}
    again = [outcome for name in cell.repeats if (outcome := cell.outcomes[name]) is not None]
    seed_nlls = [
        one.nll for one in (search.known[at], *again) if one is not None and not one.diverged
    ]
    spread = stdev(seed_nlls) if len(seed_nlls) > 1 else None
    neighbours = []
    if search.known[at] is not None:
        neighbours = [
            _neighbour(cell, search, at, point, axis, closed, spread or 0.0)
            for axis in cell.axes
            for point, _, closed in search.neighbours(at, axis)
            if axis is not Axis.DROPOUT or closed is None  # beyond its ends there is no value
        ]
    numbers = [
        cell.numbers(cell.asked.get(name, at))
        for name, state in cell.states.items()
        if state.state == State.FINISHED
    ]
    start = cell.numbers(Point())
    recipe = folder.path / f"tuned-{cell.run.name}.toml"
    files.write_text(recipe, recipe_toml(cell.recipe(at)))
    open_ = [one.verdict for one in neighbours if one.verdict not in _EXCUSED]
    return Tuned(
        name=cell.run.name,
        family=cell.run.recipe.family,
        params=start.params,
        unique_tokens=start.unique_tokens,
        start=runs[Point()],
        best=runs[at],
        runs=list(runs.values()),
        seed_nlls=seed_nlls,
        seed_spread=spread,
        neighbours=neighbours,
        effort=Effort(
            runs=len(numbers),
            tokens=sum(one.tokens for one in numbers),
            flops=sum(one.flops for one in numbers),
            seconds=sum(state.seconds for state in cell.states.values()),
        ),
        certified=bool(neighbours) and all(verdict is Verdict.WORSE for verdict in open_),
        recipe=recipe,
    )


_EXCUSED = (Verdict.LIMIT, Verdict.NOT_TURNED_UP)


def _tuned_run(cell: _Cell, name: str, point: Point) -> TunedRun:
    state, outcome = cell.states[name], cell.outcomes[name]
    finished = outcome is not None and not outcome.diverged
    return TunedRun(
        run=state.run_dir,
        settings=cell.settings(point),
        nll=outcome.nll if outcome is not None and finished else None,
        turned_up=outcome is not None and outcome.turned_up,
        diverged=outcome is not None and outcome.diverged,
        reason=None if finished else state.reason,
    )


def _neighbour(
    cell: _Cell,
    search: Search,
    at: Point,
    point: Point,
    axis: Axis,
    closed: Closed | None,
    spread: float,
) -> Neighbour:
    """What is known of a step from the best point; `spread` is what another seed changes."""
    outcome, value = search.known.get(point), cell.start.value(axis, point)
    if closed is Closed.LIMIT or (closed and outcome is None):
        return Neighbour(axis=axis, value=value, verdict=Verdict(closed.value))
    if outcome is None:
        return Neighbour(axis=axis, value=value, verdict=Verdict.UNTRIED)
    difference, error = math.inf, 0.0
    if not outcome.diverged:
        names = {one: name for name, one in cell.asked.items()}
        records = [RunRecord(cell.states[names[one]].run_dir) for one in (point, at)]
        difference, error = nll_difference(*records)
        error = math.hypot(error, 2**0.5 * spread)  # the seed of either run could be another
    verdict = Verdict.CLOSE
    if is_clear(difference, error):
        verdict = Verdict.WORSE if difference > 0 else Verdict.BETTER
    return Neighbour(axis=axis, value=value, verdict=verdict, difference=difference, error=error)

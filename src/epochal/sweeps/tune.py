"""Tuning: a search of learning rate, weight decay and epochs per family, with a certificate.

Each start (a family, a size, a number of unique tokens) has its own coordinate descent, see
`search.py`; the runs that the searches ask for are trained together, as a sweep.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from epochal import files
from epochal.comparison import is_clear, nll_difference
from epochal.errors import OptionError, RecipeError
from epochal.families import default_families
from epochal.progress import say
from epochal.recipe import find_recipe, recipe_toml
from epochal.recipe.load import read_toml
from epochal.results import Note, note, to_json
from epochal.runs import RunRecord
from epochal.runs.find import TUNE_FILE
from epochal.sweeps.cell import Cell, make_cells
from epochal.sweeps.designs import CorpusFacts, SweepRun, design_runs
from epochal.sweeps.file import Sweep, load_sweep, sweep_from_tree
from epochal.sweeps.options import TuneOptions
from epochal.sweeps.record import RunReason, RunState, State, SweepFolder
from epochal.sweeps.search import Axis, Closed, Point, Search
from epochal.sweeps.slots import jobs_for, make_slots, warn_idle_gpus
from epochal.sweeps.sweep import run_all
from epochal.sweeps.tuned import Effort, Neighbour, Tuned, TunedRun, TuneResult, Verdict

AXES = (Axis.LR, Axis.WEIGHT_DECAY, Axis.EPOCHS)
"""Searched if no others are asked for."""


def tune(
    source: str | Path | Sweep,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    options: TuneOptions | None = None,
) -> TuneResult:
    """Search the best learning rate, weight decay and epochs of each family (or start).

    `source` is a recipe, trained with each of `options.families`, or a sweep file: each of its
    runs is then a start; of starts that differ in size only, the smallest is searched first, and
    each larger one starts from what the one before it found. All runs are kept in `options.out`,
    the result in its `tune.json`; the same call resumes, and finished runs are not done again. With
    `options.budget`, every search may use the same share of it. Raises OptionError, RecipeError or
    DataError before anything starts, and TrainingStopped after Ctrl-C or SIGTERM.
    """
    options = options or TuneOptions()
    sweep = _starts(source, overrides, options)
    folder = SweepFolder(options.out or Path("runs") / f"{sweep.name}-tune")
    facts = CorpusFacts.of(sweep)
    axes = tuple(map(Axis, options.axes)) or AXES
    starts = design_runs(sweep, facts)
    cells = make_cells(starts, axes, facts)
    jobs = jobs_for(len(cells), options.jobs)
    warn_idle_gpus(make_slots(jobs))
    share = math.inf if options.budget is None else options.budget * jobs / len(cells)
    before, begun = folder.read(), list[Cell]()
    names = [run.name for run in starts]
    checked = False
    while True:
        for cell in cells:
            if cell not in begun and (cell.smaller is None or cell.smaller.ended(begun)):
                cell.begin(before)
                begun.append(cell)
        wanted = [(cell, point) for cell in begun for point in cell.search.next()[1]]
        again = not wanted and sum(cell.repeat(options.seeds) for cell in begun) > 0
        if checked and not wanted and not again:
            break
        for cell, point in wanted:
            cell.ask(point)
        # The first time even without a new run: what was taken is checked against the recipe.
        _train(sweep, begun, facts, folder, jobs, share)
        checked = True
        for cell in begun:
            _say_best(cell)
        # After each round, so that a search that is broken off leaves what it knows.
        in_order = sorted(begun, key=lambda cell: names.index(cell.run.name))
        result = TuneResult(path=folder.path, searches=[_tuned(cell, folder) for cell in in_order])
        files.write_json(folder.path / TUNE_FILE, to_json(result))
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
        families = list(dict.fromkeys(options.families or default_families()))
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


def _train(
    sweep: Sweep,
    cells: Sequence[Cell],
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


def _say_best(cell: Cell) -> None:
    at, _ = cell.search.next()
    outcome = cell.search.known.get(at)
    if outcome is not None:
        values = cell.settings(at)
        say(
            f"{cell.run.name}: NLL {outcome.nll:.4f} with lr {values.lr:.3g}, weight decay "
            f"{values.weight_decay:.3g}, {values.epochs:.4g} epochs ({len(cell.states)} runs)"
        )


def _tuned(cell: Cell, folder: SweepFolder) -> Tuned:
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
        carried_from=cell.smaller.run.name if cell.smaller is not None and cell.carried else None,
        best=runs[at],
        runs=list(runs.values()),
        seed_nlls=seed_nlls,
        seed_spread=spread,
        neighbours=neighbours,
        effort=Effort(
            runs=len(numbers),
            tokens=sum(one.tokens for one in numbers),
            flops=sum(one.flops for one in numbers),
            seconds=sum(map(_seconds, cell.states.values())),
        ),
        certified=bool(neighbours) and all(verdict is Verdict.WORSE for verdict in open_),
        recipe=recipe,
    )


def _seconds(state: RunState) -> float:
    """Of training; of a run that was there already, those of its record."""
    if state.seconds or state.state is not State.FINISHED:
        return state.seconds
    return float(RunRecord(state.run_dir).info.get("seconds") or 0.0)


_EXCUSED = (Verdict.LIMIT, Verdict.NOT_TURNED_UP)


def _tuned_run(cell: Cell, name: str, point: Point) -> TunedRun:
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
    cell: Cell,
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

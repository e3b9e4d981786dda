"""Run the runs of a sweep, skip what is done, and tell what came of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.opened import open_corpus
from epochal.errors import RecipeError, UserError
from epochal.progress import say
from epochal.recipe import Recipe, recipe_toml
from epochal.recipe.schema import Data
from epochal.runs import RunFolder, RunRecord
from epochal.sweeps import Sweep, SweepRun, design_runs, load_sweep
from epochal.sweeps.finished import (
    FinishedRuns,
    best_nll,
    check_own_folder,
    kept_steps,
    needs_evaluation,
    recipe_hash,
)
from epochal.sweeps.launch import Launch, MayStart
from epochal.sweeps.listing import CorpusFacts, corpus_facts, numbers_of
from epochal.sweeps.monitor import Watch
from epochal.sweeps.record import DONE, RunState, SweepFolder
from epochal.sweeps.screen import SweepScreen
from epochal.sweeps.slots import divide, tell_idle_gpus
from epochal.training.parallel.mesh import plan_mesh


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What became of the runs of a sweep."""

    name: str
    path: Path
    """The sweep's folder."""
    runs: list[RunState]

    @property
    def failed(self) -> list[RunState]:
        """Runs that failed; the others were done all the same."""
        return [run for run in self.runs if run.state == "failed"]

    @property
    def finished(self) -> list[RunState]:
        """Runs that are finished, those taken from other sweeps included."""
        return [run for run in self.runs if run.state == "finished"]

    def log_tail(self, run: RunState) -> list[str]:
        """The last lines that a run's processes printed."""
        return SweepFolder(self.path).log_tail(run.name)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        runs = [
            run.as_dict() | ({"log_tail": self.log_tail(run)} if run.state == "failed" else {})
            for run in self.runs
        ]
        return {"sweep": self.name, "path": str(self.path), "runs": runs}


def sweep(
    file: str | Path | Sweep,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    jobs: int = 1,
    out: str | Path | None = None,
    retry: bool = False,
    reuse: Sequence[str | Path] | None = None,
) -> SweepResult:
    """Train and evaluate all runs of a sweep on this machine, `jobs` at a time.

    The runs go to `<out>/<run's name>`; `out` is runs/<sweep's name> if not given. A run is a
    process of its own and has its share of the threads or GPUs. Runs that are finished, here or
    in a folder of `reuse` (default: the folder that holds `out`), are not done again: they are
    known by the hashes of recipe and corpus. A failure does not end the others; failed runs are
    tried again with `retry`. Raises RecipeError, DataError or RunError before anything starts, and
    TrainingStopped after Ctrl-C or SIGTERM, when all is saved and the same call goes on.
    """
    wanted = prepared(file, overrides)
    folder = SweepFolder(Path(out) if out is not None else Path("runs") / wanted.name)
    facts = corpus_facts(wanted)
    runs = design_runs(wanted, facts.vocabulary, facts.unique_tokens)
    tell_idle_gpus(divide(jobs))
    return run_all(
        wanted, runs, facts, folder, jobs=jobs, retry=retry, places=places_of(folder, reuse)
    )


def prepared(file: str | Path | Sweep, overrides: Sequence[str] | Mapping[str, Any]) -> Sweep:
    """The sweep, from a file, a shipped name or as it is."""
    if not isinstance(file, Sweep):
        return load_sweep(file, overrides)
    if overrides:
        raise UserError("give overrides with a sweep file, or change the Sweep itself")
    return file


def run_all(
    wanted: Sweep,
    runs: list[SweepRun],
    facts: CorpusFacts,
    folder: SweepFolder,
    *,
    jobs: int,
    retry: bool = False,
    places: Sequence[Path] = (),
    may_start: MayStart | None = None,
) -> SweepResult:
    """Run a list of runs as `sweep` does; `may_start` may leave some out."""
    if not facts.found:
        open_corpus(runs[0].recipe.data)  # raises, saying what is missing
    slots = divide(jobs)
    with RunFolder(folder.path).lock():
        states = plan_states(runs, facts, folder, retry=retry, places=places)
        check_runs(runs, states, slots[0].gpus, facts)
        write_recipes(runs, states, folder)
        _say_what_is_done(states)
        with SweepScreen() as screen:
            Launch(
                name=wanted.name,
                folder=folder,
                states=states,
                watches=_watches(runs, facts, folder),
                slots=slots,
                screen=screen,
                evaluate=wanted.evaluate,
                stop_hopeless=wanted.stop_hopeless,
                may_start=may_start,
            ).run()
    return SweepResult(wanted.name, folder.path, states)


def plan_states(
    runs: list[SweepRun],
    facts: CorpusFacts,
    folder: SweepFolder,
    *,
    retry: bool,
    places: Sequence[Path],
) -> list[RunState]:
    """The state of each run before anything is started.

    Raises RunError if a run's folder holds a run with other settings.
    """
    before, done = folder.read(), FinishedRuns(places)
    states: list[RunState] = []
    starts = _starts(runs)
    for run in runs:
        recipe = placed(run.recipe, folder.run_dir(run.name))
        if run.after is not None:
            recipe = _started(recipe, folder.run_dir(run.after).as_posix())
        state = RunState(
            name=run.name,
            family=recipe.family,
            run_dir=str(folder.run_dir(run.name)),
            identity=recipe_hash(recipe),
            steps=numbers_of(recipe, facts)[0].steps,
            after=[] if run.after is None else [run.after],
        )
        check_own_folder(recipe, RunFolder(folder.run_dir(run.name)))
        old = before.get(run.name)
        if old is not None and old.identity == state.identity:
            state.attempts, state.exit_code = old.attempts, old.exit_code
            state.seconds = old.seconds
            if old.state in ("failed", "ended early") and not retry:
                state.state, state.why, state.nll = old.state, old.why, old.nll
        if state.state in ("waiting", "failed"):
            _take_finished(state, recipe, done, starts.get(run.name, set()))
        states.append(state)
    _leave_out_trunks(states, starts)
    return states


def _starts(runs: list[SweepRun]) -> dict[str, set[int]]:
    """Trunk → the steps at which runs start from it."""
    starts: dict[str, set[int]] = {}
    for run in runs:
        if run.after is not None:
            starts.setdefault(run.after, set()).add(run.start_step)
    return starts


def _leave_out_trunks(states: list[RunState], starts: Mapping[str, set[int]]) -> None:
    """A trunk that was never begun is not needed where all its branches are finished."""
    for state in states:
        branches = [one for one in states if state.name in one.after]
        begun = RunFolder(Path(state.run_dir)).read_info() is not None
        if (
            state.name in starts
            and state.state == "waiting"
            and not begun
            and all(one.state == "finished" for one in branches)
        ):
            state.state, state.why = "left out", "all runs that start from it are finished"


def check_runs(
    runs: list[SweepRun], states: list[RunState], processes: int, facts: CorpusFacts
) -> None:
    """Raise RecipeError for a run that is still to be done and cannot be.

    That is one which does not fit its processes, or wants more tokens than the corpus has. So it
    is found before the others have run for days.
    """
    done = {state.name for state in states if state.state in DONE}
    tokens: dict[Data, int] = {}
    for run in runs:
        if run.name in done:
            continue
        try:
            plan_mesh(run.recipe, max(1, processes), facts.vocabulary)
        except RecipeError as error:
            raise RecipeError(f"the run {run.name}: {error}") from None
        data = dataclasses.replace(run.recipe.data, unique_tokens=None)
        if facts.found and data not in tokens:
            tokens[data] = open_corpus(data).train.unique_tokens
        wanted = run.recipe.data.unique_tokens or 0
        if wanted > tokens.get(data, wanted):
            raise RecipeError(
                f"the run {run.name} wants {wanted:,} unique tokens, the corpus has "
                f"{tokens[data]:,}; leave such runs out, or give more text"
            )


def write_recipes(runs: list[SweepRun], states: list[RunState], folder: SweepFolder) -> None:
    """Write the recipe of each run, as its process will read it."""
    places = {state.name: state.run_dir for state in states}
    for run in runs:
        recipe = placed(run.recipe, folder.run_dir(run.name))
        if run.after is not None:
            recipe = _started(recipe, Path(places[run.after]).as_posix())
        files.write_text(folder.recipe_file(run.name), recipe_toml(recipe))


def placed(recipe: Recipe, run_dir: Path) -> Recipe:
    """The recipe with a place for its run."""
    return dataclasses.replace(recipe, run_dir=run_dir.as_posix())


def _started(recipe: Recipe, trunk: str) -> Recipe:
    """The branch's recipe with its trunk, of which it takes the last checkpoint that will do."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, start_from=trunk))


def _take_finished(state: RunState, recipe: Recipe, done: FinishedRuns, starts: set[int]) -> None:
    found = done.find(recipe)
    if found is None:
        return
    record = RunRecord(found)
    own = found.resolve() == Path(state.run_dir).resolve()
    if not own and not starts <= kept_steps(record.folder):
        return  # the same trunk, but without the checkpoints that are wanted here
    if own and needs_evaluation(record):
        return  # the launch sees to it
    state.state, state.nll, state.run_dir = "finished", best_nll(record), str(found)
    state.why = "" if own else f"the same run as {found}"


def _watches(runs: list[SweepRun], facts: CorpusFacts, folder: SweepFolder) -> dict[str, Watch]:
    watches = {}
    for run in runs:
        numbers, unique = numbers_of(run.recipe, facts)
        watches[run.name] = Watch(
            RunFolder(folder.run_dir(run.name)).metrics_file,
            run.recipe.family,
            numbers.steps,
            numbers.flops,
            unique,
        )
    return watches


def places_of(folder: SweepFolder, reuse: Sequence[str | Path] | None) -> list[Path]:
    """Folders in which finished runs are looked for."""
    given = [folder.path.parent] if reuse is None else [Path(place) for place in reuse]
    return [folder.path, *given]


def _say_what_is_done(states: list[RunState]) -> None:
    names = [state.state for state in states]
    if finished := names.count("finished"):
        taken = sum(state.state == "finished" and bool(state.why) for state in states)
        also = f", {taken} of them in other folders" if taken else ""
        say(f"{finished} of {len(states)} runs are finished already{also}")
    if failed := names.count("failed"):
        say(f"{failed} failed before and are left as they are; --retry tries them again")

"""Train the runs of a sweep on this machine, except those that are already finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.corpus import open_corpus
from epochal.errors import RecipeError, RunError, UserError
from epochal.progress import say
from epochal.recipe import Recipe, recipe_toml
from epochal.recipe.load import differing_keys
from epochal.recipe.schema import Data
from epochal.results import note
from epochal.runs import RunFolder, RunRecord
from epochal.runs.record import in_bf16_on_cpu
from epochal.runs.teachers import run_identity
from epochal.sweeps.designs import CorpusFacts, SweepRun, design_runs
from epochal.sweeps.file import Sweep, load_sweep
from epochal.sweeps.launch import Launch, MayStart
from epochal.sweeps.monitor import RunMonitor, SweepScreen
from epochal.sweeps.options import SweepOptions
from epochal.sweeps.record import (
    DONE,
    FinishedRuns,
    RunReason,
    RunState,
    State,
    SweepFolder,
    needs_evaluation,
    recipe_hash,
)
from epochal.sweeps.slots import jobs_for, make_slots, warn_idle_gpus
from epochal.training.parallel.mesh import plan_mesh


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The runs of a sweep and their states."""

    sweep: str
    path: Path
    """The sweep's folder."""
    runs: list[RunState]
    log_tails: dict[str, list[str]]
    """Failed run → the last lines that its processes printed."""

    @property
    def failed(self) -> list[RunState]:
        """Runs that failed."""
        return [run for run in self.runs if run.state == State.FAILED]

    @property
    def finished(self) -> list[RunState]:
        """Runs that are finished, those found in other sweeps included."""
        return [run for run in self.runs if run.state == State.FINISHED]


def sweep(
    source: str | Path | Sweep,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    options: SweepOptions | None = None,
) -> SweepResult:
    """Train and evaluate all runs of a sweep on this machine, `options.jobs` at a time.

    The runs go to `<out>/<run's name>`. A run is a process of its own and has its share of the
    threads or GPUs. Runs that are finished, in `out` or in a folder of `reuse`, are not done
    again: they are identified by the hashes of recipe and corpus. A failure does not end the
    others. Raises RecipeError, DataError or RunError before anything starts, and TrainingStopped
    after Ctrl-C or SIGTERM, when all is saved and the same call resumes.
    """
    options = options or SweepOptions()
    loaded = _loaded(source, overrides)
    folder = SweepFolder(options.out or Path("runs") / loaded.name)
    facts = CorpusFacts.of(loaded)
    runs = design_runs(loaded, facts)
    jobs = jobs_for(len(runs), options.jobs)
    warn_idle_gpus(make_slots(jobs))
    return run_all(
        loaded,
        runs,
        facts,
        folder,
        jobs=jobs,
        retry=options.retry,
        places=[folder.path, *(options.reuse or [folder.path.parent])],
    )


def _loaded(source: str | Path | Sweep, overrides: Sequence[str] | Mapping[str, Any]) -> Sweep:
    """The sweep from a file or a shipped name, or as it is."""
    if not isinstance(source, Sweep):
        return load_sweep(source, overrides)
    if overrides:
        raise UserError("give overrides with a sweep file, or change the Sweep itself")
    return source


def run_all(
    source: Sweep,
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
    if facts.unique_tokens is None:
        open_corpus(runs[0].recipe.data)  # raises DataError, naming what is missing
    slots = make_slots(jobs)
    with RunFolder(folder.path).lock():
        states = plan_states(runs, facts, folder, slots[0].gpus, retry=retry, places=places)
        write_recipes(runs, states, folder)
        _say_what_is_done(states)
        with SweepScreen(source.name) as screen:
            Launch(
                name=source.name,
                folder=folder,
                states=states,
                monitors=_monitors(runs, facts, folder),
                slots=slots,
                screen=screen,
                evaluate=source.evaluate,
                early_stopping=source.early_stopping,
                may_start=may_start,
            ).run()
    failed = [state.name for state in states if state.state == State.FAILED]
    tails = {name: folder.log_tail(name) for name in failed}
    return SweepResult(source.name, folder.path, states, tails)


def plan_states(
    runs: list[SweepRun],
    facts: CorpusFacts,
    folder: SweepFolder,
    processes: int,
    *,
    retry: bool,
    places: Sequence[Path],
) -> list[RunState]:
    """The state of each run before anything is started.

    Raises RunError if a run's folder holds a run with other settings, and RecipeError for a run
    that `processes` processes or the corpus cannot run.
    """
    before, finished = folder.read(), FinishedRuns(places)
    states: list[RunState] = []
    starts = _starts(runs)
    for run in runs:
        recipe = _placed(run, folder, None if run.after is None else folder.run_dir(run.after))
        state = RunState(
            name=run.name,
            family=recipe.family,
            run_dir=str(folder.run_dir(run.name)),
            identity=recipe_hash(recipe),
            steps=facts.numbers(recipe).steps,
            after=[] if run.after is None else [run.after],
        )
        _check_own_folder(recipe, RunFolder(folder.run_dir(run.name)))
        old = before.get(run.name)
        if old is not None and old.identity in (
            state.identity,
            recipe_hash(recipe, version_0_1=True),
        ):
            state.attempts, state.exit_code = old.attempts, old.exit_code
            state.seconds = old.seconds
            if old.state in (State.FAILED, State.ENDED_EARLY) and not retry:
                state.state, state.reason, state.nll = old.state, old.reason, old.nll
        if state.state in (State.WAITING, State.FAILED):
            _take_finished(state, recipe, finished, starts.get(run.name, set()))
        states.append(state)
    _leave_out_trunks(states, starts)
    _check_runs(runs, states, processes, facts)
    return states


def _check_own_folder(recipe: Recipe, folder: RunFolder) -> None:
    """Raise RunError if the run's folder holds a run that the recipe could not resume."""
    info = folder.read_info()
    if info is None:
        return
    stored, wanted = dict(info.get("identity", {})), run_identity(recipe)
    differing = [key for key in differing_keys(stored, wanted) if not key.startswith("corpus.")]
    if differing:
        key = differing[0]
        raise RunError(
            f"{folder.path} holds a run with other settings (`{key}` {stored.get(key)!r} → "
            f"{wanted.get(key)!r}); give the changed sweep another folder, `out`"
        )


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
        branches = [other for other in states if state.name in other.after]
        begun = RunFolder(Path(state.run_dir)).read_info() is not None
        if (
            state.name in starts
            and state.state == State.WAITING
            and not begun
            and all(branch.state == State.FINISHED for branch in branches)
        ):
            state.state, state.reason = State.LEFT_OUT, note(RunReason.BRANCHES_FINISHED)


def _check_runs(
    runs: list[SweepRun], states: list[RunState], processes: int, facts: CorpusFacts
) -> None:
    """Raise RecipeError for a run that is not done and cannot be run.

    That is one whose mesh does not fit `processes`, or that wants more tokens than the corpus
    has. So it is found before the others have run for days.
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
        data = replace(run.recipe.data, unique_tokens=None)
        if facts.unique_tokens is not None and data not in tokens:
            tokens[data] = open_corpus(data).train.unique_tokens
        wanted = run.recipe.data.unique_tokens or 0
        if wanted > tokens.get(data, wanted):
            raise RecipeError(
                f"the run {run.name} wants {wanted:,} unique tokens, the corpus has "
                f"{tokens[data]:,}; leave such runs out, or give more text"
            )


def write_recipes(runs: list[SweepRun], states: list[RunState], folder: SweepFolder) -> None:
    """Write the recipe of each run, which its process will read."""
    places = {state.name: Path(state.run_dir) for state in states}
    for run in runs:
        recipe = _placed(run, folder, None if run.after is None else places[run.after])
        files.write_text(folder.recipe_file(run.name), recipe_toml(recipe))


def _placed(run: SweepRun, folder: SweepFolder, trunk: Path | None) -> Recipe:
    """The run's recipe with its folder, and that of its trunk, from which it starts."""
    recipe = replace(run.recipe, run_dir=folder.run_dir(run.name).as_posix())
    if trunk is None:
        return recipe
    return replace(recipe, train=replace(recipe.train, start_from=trunk.as_posix()))


def _take_finished(
    state: RunState, recipe: Recipe, finished: FinishedRuns, starts: set[int]
) -> None:
    path = finished.find(recipe)
    if path is None:
        return
    record = RunRecord(path)
    own = path.resolve() == Path(state.run_dir).resolve()
    if not own and not starts <= _kept_steps(record.folder):
        return  # the same trunk, but without the checkpoints that the branches need
    if not own and recipe.train.precision == "auto" and in_bf16_on_cpu(record.info):
        return  # it measured for itself, and this sweep's runs are fp32
    if own and needs_evaluation(record):
        return  # the launch sees to it
    state.state, state.nll, state.run_dir = State.FINISHED, record.best_nll, str(path)
    state.reason = None if own else note(RunReason.SAME_RUN, run_dir=str(path))


def _kept_steps(folder: RunFolder) -> set[int]:
    """Steps of the checkpoints that have optimizer state, from which other runs can start."""
    kinds = ("last", "permanent", "kept")  # version 0.1 wrote kept-<step>
    paths = [path for kind in kinds for path in folder.checkpoints.glob(f"{kind}-*")]
    steps = (path.name.rpartition("-")[2] for path in paths)
    return {int(step) for step in steps if step.isdigit()}


def _monitors(
    runs: list[SweepRun], facts: CorpusFacts, folder: SweepFolder
) -> dict[str, RunMonitor]:
    monitors = {}
    for run in runs:
        numbers = facts.numbers(run.recipe)
        monitors[run.name] = RunMonitor(
            RunFolder(folder.run_dir(run.name)).metrics_file,
            run.recipe.family,
            numbers.steps,
            numbers.flops,
            facts.unique(run.recipe),
        )
    return monitors


def _say_what_is_done(states: list[RunState]) -> None:
    finished = [state for state in states if state.state == State.FINISHED]
    if finished:
        elsewhere = sum(state.reason is not None for state in finished)
        also = f", {elsewhere} of them in other folders" if elsewhere else ""
        say(f"{len(finished)} of {len(states)} runs are already finished{also}")
    if failed := sum(state.state == State.FAILED for state in states):
        say(f"{failed} failed before and are left as they are; `retry` tries them again")

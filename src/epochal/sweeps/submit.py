"""Submit a run, or the runs of a sweep, to a Slurm cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.corpus import open_corpus
from epochal.errors import OptionError, RunError, UserError
from epochal.recipe import find_recipe, load_recipe, recipe_toml
from epochal.recipe.load import read_toml
from epochal.results import Note, NoteCode, note
from epochal.runs import RunFolder
from epochal.sweeps.designs import CorpusFacts, design_runs
from epochal.sweeps.file import is_sweep, load_sweep
from epochal.sweeps.options import Resources, SubmitOptions
from epochal.sweeps.record import DONE, RunState, State, SweepFolder
from epochal.sweeps.slurm import TrainTask, script, submit_tasks
from epochal.sweeps.sweep import plan_states, write_recipes
from epochal.training.parallel.mesh import plan_mesh


class SkipReason(NoteCode):
    """Why a run of a sweep is not submitted."""

    DONE = "done"
    """Values: state, reason (a note of the state, or None)."""
    IN_USE = "in_use"
    """Another process is working on it."""
    TRUNK_SKIPPED = "trunk_skipped"
    """Values: trunk, reason (why that is skipped)."""


@dataclass(frozen=True, slots=True)
class Submission:
    """The jobs that were submitted, or after a dry run would be."""

    script: str
    """The sbatch script."""
    logs: Path
    """Folder of what the jobs print."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Run folder → job id; empty after a dry run."""
    skipped: dict[str, Note] = field(default_factory=dict)
    """Run folder → why it was not submitted (SkipReason)."""


def submit(
    source: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    resources: Resources | None = None,
    options: SubmitOptions | None = None,
) -> Submission:
    """Submit the run of a recipe, or all runs of a sweep that are not done, as Slurm jobs.

    The runs of a sweep become one array, and those that start from a trunk a second one that
    waits for it. A job that is preempted or runs out of time saves a checkpoint, is queued again
    and resumes. Raises RecipeError, DataError or RunError for what is wrong with recipe or
    corpus, OptionError for options that would do nothing, and UserError where Slurm is missing
    or refuses.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(
            "submitting needs the package submitit: pip install 'epochal[slurm]'"
        ) from None
    resources, options = resources or Resources(), options or SubmitOptions()
    _check_cluster(resources, options)
    path = find_recipe(str(source))
    if is_sweep(read_toml(path), overrides):
        return _submit_sweep(path, overrides, resources, options)
    if options.retry:
        raise OptionError("retry", True, f"is for a sweep, and {source} is a recipe")
    recipe = load_recipe(path, overrides)
    recipe.model.architecture()  # raises RecipeError for an unknown size here, not in the job
    run_dir = options.out or Path(str(recipe.run_dir))
    logs = run_dir / "slurm"
    file = logs / "recipe.toml"
    task = _task(file, run_dir, resources, evaluate=True)
    text = script(resources, run_dir.name, logs, [task])
    if options.dry_run:
        return Submission(text, logs)
    corpus = open_corpus(recipe.data)  # raises DataError, naming what is missing
    plan_mesh(recipe, resources.processes, corpus.tokenizer.vocabulary)
    with RunFolder(run_dir).lock():
        files.write_text(file, recipe_toml(replace(recipe, run_dir=run_dir.as_posix())))
    [job] = submit_tasks([task], resources, run_dir.name, logs, options.cluster)
    return Submission(text, logs, {str(run_dir): job})


def _check_cluster(resources: Resources, options: SubmitOptions) -> None:
    """Raise OptionError for what only Slurm heeds, where jobs are processes of this machine."""
    if options.cluster == "slurm":
        return
    if options.dry_run:
        raise OptionError("dry_run", True, 'prints the script for Slurm, not for cluster "local"')
    default = Resources()
    for name in ("partition", "nodes", "cpus", "memory_gb", "parallel", "requeues", "setup",
                 "sbatch"):  # fmt: skip
        if (value := getattr(resources, name)) != getattr(default, name):
            raise OptionError(name, value, 'is for Slurm; leave it out with cluster "local"')


def _submit_sweep(
    path: Path,
    overrides: Sequence[str] | Mapping[str, Any],
    resources: Resources,
    options: SubmitOptions,
) -> Submission:
    sweep = load_sweep(path, overrides)
    folder = SweepFolder(options.out or Path("runs") / sweep.name)
    logs = folder.path / "slurm"
    facts = CorpusFacts.of(sweep)
    runs = design_runs(sweep, facts)
    places = [folder.path, folder.path.parent]
    states = plan_states(
        runs, facts, folder, resources.processes, retry=options.retry, places=places
    )
    skipped = _skipped(folder, states, held=not options.dry_run)
    open_states = [state for state in states if state.run_dir not in skipped]
    tasks = {
        state.name: _task(
            folder.recipe_file(state.name), Path(state.run_dir), resources, evaluate=sweep.evaluate
        )
        for state in open_states
    }
    text = script(resources, sweep.name, logs, list(tasks.values())) if tasks else ""
    if options.dry_run or not tasks:
        return Submission(text, logs, {}, skipped)
    open_corpus(runs[0].recipe.data)
    write_recipes(runs, states, folder)
    folder.write(sweep.name, states)
    jobs: dict[str, str] = {}
    for level in _levels(open_states):
        waits = {
            jobs[name].partition("_")[0] for one in level for name in one.after if name in jobs
        }
        more = {"dependency": "afterok:" + ":".join(sorted(waits))} if waits else {}
        ids = submit_tasks(
            [tasks[state.name] for state in level],
            replace(resources, sbatch={**resources.sbatch, **more}),
            sweep.name,
            logs,
            options.cluster,
        )
        jobs |= dict(zip((state.name for state in level), ids, strict=True))
    return Submission(text, logs, {str(folder.run_dir(n)): job for n, job in jobs.items()}, skipped)


def _task(file: Path, run_dir: Path, resources: Resources, evaluate: bool) -> TrainTask:
    return TrainTask(
        recipe_file=str(file),
        run_dir=str(run_dir),
        nodes=resources.nodes,
        gpus=resources.gpus,
        grace=resources.grace,
        evaluate=evaluate,
    )


def _skipped(folder: SweepFolder, states: list[RunState], held: bool) -> dict[str, Note]:
    """Run folder → why it is not submitted: done, in use (if `held`), or without its trunk."""
    skipped: dict[str, Note] = {}
    lost: dict[str, Note] = {}
    for state in states:  # a trunk comes before its branches
        trunks = [trunk for trunk in state.after if trunk in lost]
        if state.state in DONE:
            why = note(SkipReason.DONE, state=state.state, reason=state.reason)
        elif trunks:
            why = note(SkipReason.TRUNK_SKIPPED, trunk=trunks[0], reason=lost[trunks[0]])
        elif held and _in_use(folder.run_dir(state.name)):
            why = note(SkipReason.IN_USE)
        else:
            continue
        skipped[state.run_dir] = why
        if state.state != State.FINISHED:
            lost[state.name] = why
    return skipped


def _in_use(run_dir: Path) -> bool:
    if not run_dir.is_dir():
        return False
    try:
        with RunFolder(run_dir).lock():
            return False
    except RunError:
        return True


def _levels(states: list[RunState]) -> list[list[RunState]]:
    """Runs that need no other one of these first, and then the rest."""
    names = {state.name for state in states}
    later = [state for state in states if names & set(state.after)]
    return [level for level in ([s for s in states if s not in later], later) if level]

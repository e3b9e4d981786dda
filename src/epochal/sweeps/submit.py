"""Hand a run, or the runs of a sweep, to a Slurm cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.opened import open_corpus
from epochal.errors import RunError
from epochal.recipe import find_recipe, load_recipe, recipe_toml
from epochal.runs import RunFolder
from epochal.sweeps import design_runs, is_sweep, load_sweep
from epochal.sweeps.listing import corpus_facts
from epochal.sweeps.record import DONE, RunState, SweepFolder
from epochal.sweeps.slurm import (
    Cluster,
    Resources,
    TrainTask,
    need_submitit,
    script,
    submit_tasks,
)
from epochal.sweeps.sweep import check_runs, placed, places_of, plan_states, write_recipes
from epochal.training.parallel.mesh import plan_mesh


@dataclass(frozen=True, slots=True)
class Submission:
    """What was handed in, or would be."""

    jobs: dict[str, str]
    """Run folder → job id; empty after a dry run."""
    skipped: dict[str, str]
    """Run folder → why it was not handed in."""
    script: str
    """The sbatch script."""
    logs: Path
    """Folder of what the jobs print."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        made = {"jobs": self.jobs, "skipped": self.skipped, "script": self.script}
        return made | {"logs": str(self.logs)}


def submit(
    name: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    resources: Resources | None = None,
    out: str | Path | None = None,
    retry: bool = False,
    cluster: Cluster = "slurm",
    dry_run: bool = False,
) -> Submission:
    """Submit the run of a recipe, or all runs of a sweep that are not done, as Slurm jobs.

    The runs of a sweep become one array, and those that go on from another of them a second
    that waits for it. A job that is preempted or runs out of time saves a checkpoint, is queued
    again and goes on. `dry_run` only makes the script. Raises RecipeError, DataError or RunError
    for what is wrong with recipe or corpus, and UserError where Slurm is not there or refuses.
    """
    need_submitit()
    path = find_recipe(str(name))
    asked = resources or Resources()
    if is_sweep(path):
        return _submit_sweep(path, overrides, asked, out, retry, cluster, dry_run)
    recipe = load_recipe(path, overrides)
    recipe.model.architecture()  # raises for a size that is not known, here and not in the job
    run_dir = Path(out) if out is not None else Path(str(recipe.run_dir))
    logs = run_dir / "slurm"
    file = logs / "recipe.toml"
    task = _task(file, run_dir, asked, evaluate=True)
    text = script(asked, run_dir.name, logs, [task])
    if dry_run:
        return Submission({}, {}, text, logs)
    corpus = open_corpus(recipe.data)  # raises, saying what is missing
    plan_mesh(recipe, asked.processes, corpus.tokenizer.vocabulary)
    with RunFolder(run_dir).lock():
        files.write_text(file, recipe_toml(placed(recipe, run_dir)))
    [job] = submit_tasks([task], asked, run_dir.name, logs, cluster)
    return Submission({str(run_dir): job}, {}, text, logs)


def _submit_sweep(
    path: Path,
    overrides: Sequence[str] | Mapping[str, Any],
    asked: Resources,
    out: str | Path | None,
    retry: bool,
    cluster: Cluster,
    dry_run: bool,
) -> Submission:
    sweep = load_sweep(path, overrides)
    folder = SweepFolder(Path(out) if out is not None else Path("runs") / sweep.name)
    logs = folder.path / "slurm"
    facts = corpus_facts(sweep)
    runs = design_runs(sweep, facts.vocabulary, facts.unique_tokens)
    states = plan_states(runs, facts, folder, retry=retry, places=places_of(folder, None))
    check_runs(runs, states, asked.processes, facts)
    skipped = {
        state.run_dir: f"{state.state}{': ' * bool(state.why)}{state.why}"
        for state in states
        if state.state in DONE
    }
    if not dry_run:
        skipped |= _held(folder, states)
    lost = {
        state.name: state.run_dir
        for state in states
        if state.run_dir in skipped and state.state != "finished"
    }
    for state in states:
        if state.state not in DONE and (gone := [name for name in state.after if name in lost]):
            skipped[state.run_dir] = f"{gone[0]}, which it starts from: {skipped[lost[gone[0]]]}"
    open_states = [state for state in states if state.run_dir not in skipped]
    tasks = {
        state.name: _task(
            folder.recipe_file(state.name), Path(state.run_dir), asked, evaluate=sweep.evaluate
        )
        for state in open_states
    }
    text = script(asked, sweep.name, logs, list(tasks.values())) if tasks else ""
    if dry_run or not tasks:
        return Submission({}, skipped, text, logs)
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
            replace(asked, more={**asked.more, **more}),
            sweep.name,
            logs,
            cluster,
        )
        jobs |= dict(zip((state.name for state in level), ids, strict=True))
    return Submission({str(folder.run_dir(n)): job for n, job in jobs.items()}, skipped, text, logs)


def _task(file: Path, run_dir: Path, asked: Resources, evaluate: bool) -> TrainTask:
    return TrainTask(
        recipe_file=str(file),
        run_dir=str(run_dir),
        nodes=asked.nodes,
        gpus=asked.gpus,
        grace=asked.grace,
        evaluate=evaluate,
    )


def _held(folder: SweepFolder, states: list[RunState]) -> dict[str, str]:
    """Runs that another process is working on."""
    held = {}
    for state in states:
        if state.state in DONE or not folder.run_dir(state.name).is_dir():
            continue
        try:
            with RunFolder(folder.run_dir(state.name)).lock():
                pass
        except RunError:
            held[state.run_dir] = "another process is working on it"
    return held


def _levels(states: list[RunState]) -> list[list[RunState]]:
    """Runs that need no other one of these first, and then the rest."""
    names = {state.name for state in states}
    later = [state for state in states if names & set(state.after)]
    return [level for level in ([s for s in states if s not in later], later) if level]

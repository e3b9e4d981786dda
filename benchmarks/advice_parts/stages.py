"""The work that takes time: a study of a text, a grid search at its compute."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from advice_parts.grid import Extent, grid_points, grid_sweep, recommended_runs
from advice_parts.record import (
    Checked,
    CorpusIdentity,
    Grid,
    GridPoint,
    Machine,
    Outcome,
    Record,
    budget_name,
)
from advice_parts.texts import Text, documents_of
from epochal import files
from epochal._version import __version__
from epochal.data.corpus import Corpus, open_corpus
from epochal.data.parallel import cores
from epochal.errors import DataError, UserError
from epochal.progress import say
from epochal.recipe import Recipe, load_recipe
from epochal.recipe.schema import Data
from epochal.report.study import StudyResult
from epochal.results import to_json
from epochal.studies.options import StudyOptions
from epochal.studies.runner import StudyRunner
from epochal.studies.state import StudyState
from epochal.studies.study import study
from epochal.sweeps.designs import CorpusFacts, SweepRun, design_runs
from epochal.sweeps.file import Sweep
from epochal.sweeps.fork_server import forked_cpu_seconds
from epochal.sweeps.record import SweepFolder
from epochal.sweeps.sweep import run_all

_OUTCOME = TypeAdapter(Outcome)
_SECONDS = TypeAdapter(dict[str, float])


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and a budget, and the folder of their runs."""

    text: Text
    text_folder: Path
    budget: float
    """Seconds."""
    folder: Path
    jobs: int

    @property
    def study_folder(self) -> Path:
        """Where the study is."""
        return self.folder / "study"


def measure(cell: Cell, extent: Extent | None, kept: Record | None = None) -> Record:
    """Study, grid search and recommended configurations of a cell; finished work is only read.

    Without an `extent` only the study.
    With an earlier record, `kept`, the study plans for the compute of its grid, which is not
    searched again. Raises what `study` and sweeps raise, and DataError where the corpus is not
    that of `kept`.
    """
    if kept is not None and kept.grid is None:
        raise UserError(f"the record of {cell.text.name} has no grid; leave out --kept-grid")
    with _clock(cell.folder, "study"):
        outcome = run_study(cell, None if kept is None or kept.grid is None else kept.grid.flops)
    if kept is not None and kept.outcome.corpus != outcome.corpus:
        raise DataError(
            f"the study of {cell.text.name} trained on other tokens than the record's grid; leave "
            "out --kept-grid"
        )
    grid, recommended = None, list[GridPoint]()
    if extent is not None:
        with _clock(cell.folder, "grid"):
            grid, recommended = run_grid(cell, outcome, extent, None if kept is None else kept.grid)
    return Record(
        epochal=__version__,
        text=cell.text,
        budget=cell.budget,
        machine=Machine(
            cores=cores(),
            jobs=cell.jobs,
            python=platform.python_version(),
            torch=torch.__version__.partition("+")[0],
        ),
        cpu_seconds=_seconds(cell.folder)
        if kept is None
        else _seconds(cell.folder) | _grid_of(kept),
        outcome=outcome,
        grid=grid,
        recommended=recommended,
    )


def _grid_of(kept: Record) -> dict[str, float]:
    """The seconds of a grid that was not searched again."""
    return {stage: used for stage, used in kept.cpu_seconds.items() if stage == "grid"}


def run_study(cell: Cell, flops: float | None) -> Outcome:
    """What the study answers; read where it has ended. `flops` is the compute to plan for."""
    path = cell.folder / "outcome.json"
    if path.exists():
        try:
            outcome = _OUTCOME.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{path} is damaged ({type(error).__name__}); delete it") from None
        if flops is not None and outcome.planned_flops not in (flops, None):
            raise UserError(
                f"{cell.folder} has a study that planned for another compute; give another --work "
                "folder"
            )
        return outcome
    say(f"study of {cell.text.name}, {budget_name(cell.budget)}:")
    options = StudyOptions(budget=cell.budget, out=cell.study_folder, flops=flops, jobs=cell.jobs)
    result = study(documents_of(cell.text_folder), options)
    outcome = outcome_of(result, corpus_identity(_corpus(cell)))
    files.write_json(path, to_json(outcome))
    return outcome


def outcome_of(result: StudyResult, corpus: CorpusIdentity) -> Outcome:
    """What is kept of a study's result."""
    held_out, fit = result.held_out, result.fit
    laws = {} if fit is None else fit.families
    return Outcome(
        corpus=corpus,
        seconds=result.seconds,
        law=None if fit is None else fit.law,
        basis=result.recommendation.basis.value,
        winner=result.recommendation.winner,
        check_flops=None if held_out is None else held_out.flops,
        planned_flops=None if result.plan is None else result.plan.flops,
        largest_probe={family: law.fitted_range["flops"][1] for family, law in laws.items()},
        checked={
            one.family: Checked(
                predicted=one.predicted, interval=one.interval, seen=one.seen, setting=one.setting
            )
            for one in (held_out.results if held_out is not None else [])
        },
    )


def corpus_identity(corpus: Corpus) -> CorpusIdentity:
    """The hashes and sizes of a corpus."""
    found = corpus.identity()
    return CorpusIdentity(
        train=found["corpus.train"],
        validation=found["corpus.validation"],
        unique_tokens=corpus.train.unique_tokens,
        vocabulary=corpus.tokenizer.vocabulary,
    )


def run_grid(
    cell: Cell, outcome: Outcome, extent: Extent, kept: Grid | None
) -> tuple[Grid | None, list[GridPoint]]:
    """The grid (that of `kept`, if any) and the recommended configurations, all trained."""
    recipes = recommended_recipes(cell.study_folder)
    if not recipes or outcome.planned_flops is None:
        return kept, []
    wanted = recommended_runs(recipes)
    sweep = declared_grid(cell, _corpus(cell), outcome.planned_flops, recipes, extent)
    if kept is not None:
        return kept, _train(cell, outcome, sweep, wanted)
    runs = design_runs(sweep)
    points = _train(cell, outcome, sweep, [*runs, *wanted])
    return Grid(flops=outcome.planned_flops, points=points[: len(runs)]), points[len(runs) :]


def declared_grid(
    cell: Cell, corpus: Corpus, flops: float, recipes: Mapping[str, Recipe], extent: Extent
) -> Sweep:
    """The grid around the recommended `recipes`, with the base recipe of the study's runs."""
    state = StudyState(cell.study_folder / "state.json", cell.budget)
    runner = StudyRunner(cell.study_folder, state, cell.jobs, corpus, tuple(recipes))
    params, vocabulary = runner.params, corpus.tokenizer.vocabulary

    def nearest_size(recipe: Recipe) -> str:
        own = recipe.model.architecture().params(vocabulary)
        return min(params, key=lambda size: abs(params[size] - own))

    centres = {family: nearest_size(recipe) for family, recipe in recipes.items()}
    return grid_sweep(runner.base, flops, corpus.train.unique_tokens, params, centres, extent)


def recommended_recipes(folder: Path) -> dict[str, Recipe]:
    """Family → the recipe that the study in `folder` recommends."""
    recipes = [load_recipe(path) for path in sorted(folder.glob("recommended-*.toml"))]
    return {recipe.family: recipe for recipe in recipes}


def _train(cell: Cell, outcome: Outcome, sweep: Sweep, runs: list[SweepRun]) -> list[GridPoint]:
    """Train the runs that are not finished anywhere in the cell; what all of them showed."""
    facts = CorpusFacts(outcome.corpus.vocabulary, outcome.corpus.unique_tokens)
    say(f"grid search of {cell.text.name}, {budget_name(cell.budget)}: {len(runs)} runs")
    result = run_all(
        sweep,
        runs,
        facts,
        SweepFolder(cell.folder / "grid"),
        jobs=cell.jobs,
        places=[cell.folder],
    )
    return grid_points(runs, result.runs, {run.name: facts.numbers(run.recipe) for run in runs})


def _corpus(cell: Cell) -> Corpus:
    return open_corpus(Data(corpus=(cell.study_folder / "corpus").as_posix()))


@contextmanager
def _clock(folder: Path, stage: str) -> Iterator[None]:
    """Add the CPU seconds of this process and those it started to the stage's, over sessions."""
    began = sum(os.times()[:4]) + forked_cpu_seconds()
    try:
        yield
    finally:
        used = _seconds(folder)
        spent = sum(os.times()[:4]) + forked_cpu_seconds() - began
        files.write_json(
            folder / "cpu.json", used | {stage: round(used.get(stage, 0.0) + spent, 1)}
        )


def _seconds(folder: Path) -> dict[str, float]:
    try:
        return _SECONDS.validate_json((folder / "cpu.json").read_bytes())
    except (OSError, ValidationError):
        return {}

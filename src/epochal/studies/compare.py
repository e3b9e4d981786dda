"""Train families on the same unique tokens under equal settings, and compare them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from epochal import files
from epochal.comparison import Comparison, best_recipes, compare_runs
from epochal.data.corpus import open_corpus
from epochal.downstream_tasks.babylm_files import read_tasks
from epochal.downstream_tasks.downstream import downstream
from epochal.downstream_tasks.options import BABYLM, DownstreamOptions
from epochal.errors import NotFiniteError, OptionError, RecipeError, RunError, UserError
from epochal.evaluation.evaluate import evaluate_best
from epochal.evaluation.load import load_run
from epochal.families import default_families, get_family
from epochal.generation.config import GenerationConfig
from epochal.progress import say
from epochal.recipe import Recipe, RecipeLike, load_recipe
from epochal.recipe.load import read_overrides
from epochal.results import to_json
from epochal.runs import RunFolder, RunRecord
from epochal.runs.find import find_runs
from epochal.studies.options import CompareOptions
from epochal.sweeps.designs import CorpusFacts, SweepRun
from epochal.sweeps.file import Sweep
from epochal.sweeps.record import SweepFolder
from epochal.sweeps.slots import jobs_for
from epochal.sweeps.sweep import run_all
from epochal.training.parallel.world import process_count
from epochal.training.train import archive_run, train

SAMPLE_PROMPT_TOKENS = 12
SAMPLE_NEW_TOKENS = 48
SAMPLES = 3


def compare(
    recipe: RecipeLike = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    options: CompareOptions | None = None,
) -> Comparison:
    """Train each family from one recipe, evaluate all at their best, compare.

    The runs go to `<out>/<family>`, the result to `<out>/comparison.json`. Finished work is not
    repeated. Raises OptionError for fewer than two families or an unknown one, and what `train`
    and `evaluate` raise.
    """
    options = options or CompareOptions()
    changes = read_overrides(overrides)
    if "family" in changes:
        raise RecipeError("`family` has no place here: compare trains several families")
    names = tuple(dict.fromkeys(options.families or default_families()))
    recipes = {family: _recipe(recipe, changes, family, names) for family in names}
    if len(recipes) < 2:
        raise OptionError("families", ", ".join(names), "give two or more, or none for all")
    name = Path(str(recipe)).stem if isinstance(recipe, str | Path) else "compare"
    folder = Path(options.out) if options.out is not None else Path("runs") / name
    recipes = {
        family: dataclasses.replace(own, run_dir=str(folder / family))
        for family, own in recipes.items()
    }
    jobs = jobs_for(len(recipes), options.jobs)
    trained: list[str] = []
    if jobs > 1 and process_count() == 1:
        trained = _side_by_side(recipes, folder, jobs, options.restart)
    runs = []
    for family, own in recipes.items():
        runs.append(RunRecord(folder / family) if family in trained else _train(own, options))
        _evaluate(runs[-1], options.draws)
        _write(runs[-1])
    _score_pairs(runs, options.pairs)
    comparison = compare_runs(runs)
    files.write_json(folder / "comparison.json", to_json(comparison))
    return comparison


def compare_existing(
    places: Sequence[str | Path], *, draws: int | None = None, pairs: Path | None = None
) -> Comparison:
    """Compare existing runs: run folders, or folders that hold runs, such as a sweep's.

    The best checkpoint of each run is evaluated where that is missing. Of the best recipe of each
    family every run writes a few texts where it has not, if its checkpoint is there, and is scored
    on the minimal pairs in `pairs`. Left out and listed are runs whose NLL is not finite, and runs
    below the folders that are not validated yet. Raises RunError unless runs of two families or
    more remain, all on the same tokens.
    """
    records = [RunRecord(path) for path in find_runs(places)]
    if len(records) < 2:
        raise RunError("give at least two runs, of different families, to compare them")
    named = {Path(place).resolve() for place in places}
    unvalidated = [r for r in records if r.status != "finished" and not r.metrics("eval")]
    for record in unvalidated:
        if record.path.resolve() in named:
            restart = "restart it with a lower `train.lr`"
            fix = restart if record.status == "diverged" else "resume it"
            raise RunError(
                f"the run {record.path} ({record.status}) has no validation result yet; leave it "
                f"out or {fix}"
            )
    scored: list[RunRecord] = []
    left_out: list[str] = []
    for record in records:
        if record in unvalidated:
            continue
        try:
            _evaluate(record, draws)
            scored.append(record)
        except NotFiniteError:
            left_out.append(str(record.path))
    chosen = [record for runs in best_recipes(scored).values() for record in runs]
    for record in chosen:
        with suppress(UserError):  # records alone, without weights or corpus
            _write(record)
    _score_pairs(chosen, pairs)
    return compare_runs(scored, left_out, [str(record.path) for record in unvalidated])


def _recipe(
    recipe: RecipeLike, changes: Mapping[str, Any], family: str, names: Sequence[str]
) -> Recipe:
    """The recipe for `family`, one of `names`, with its defaults unless it is a Recipe already."""
    if isinstance(recipe, Recipe):
        return dataclasses.replace(load_recipe(recipe, changes), family=family)
    return load_recipe(recipe, {**changes, "family": family}, names)


def _side_by_side(
    recipes: Mapping[str, Recipe], folder: Path, jobs: int, restart: bool
) -> list[str]:
    """Train and evaluate the runs in processes of their own; the families that are finished."""
    if restart:
        for family in recipes:
            with RunFolder(folder / family).lock():
                archive_run(RunFolder(folder / family))
    corpus = open_corpus(next(iter(recipes.values())).data)
    facts = CorpusFacts(corpus.tokenizer.vocabulary, corpus.train.unique_tokens)
    plain = Sweep(name="compare", parts=(), grid={}, variants={}, runs=(), base={})
    runs = [SweepRun(family, recipe) for family, recipe in recipes.items()]
    result = run_all(plain, runs, facts, SweepFolder(folder), jobs=jobs, retry=True)
    return [run.name for run in result.finished]


def _train(recipe: Recipe, options: CompareOptions) -> RunRecord:
    """Train in this process, which also says why a run failed in another."""
    say(f"{get_family(recipe.family).title}:")
    return train(recipe, restart=options.restart, comparable=True)


def _evaluate(record: RunRecord, draws: int | None) -> None:
    """Score the best checkpoint, where that is missing, in each way that its family has."""
    evaluate_best(record, draws)
    if get_family(record.family).masked_reading is not None:
        evaluate_best(record, draws, masked=True)


def _score_pairs(records: Sequence[RunRecord], data: Path | None) -> None:
    """Score the best checkpoints on the minimal pairs in `data`, where that is missing."""
    if data is None:
        return
    tasks = {(task.name, folder, len(items)) for task, folder, items in read_tasks(data)}
    for record in records:
        result = record.evaluation("best")
        known = {
            (one["task"], one["data"], one["documents"])
            for one in record.downstream()
            if result is not None and one["step"] == result.step
        }
        if not tasks <= known:
            say(f"{record.path}: minimal pairs")
            downstream(record, DownstreamOptions(tasks=BABYLM, data=data, checkpoint="best"))


def _write(record: RunRecord, seed: int = 0) -> None:
    """Let a run's model continue beginnings of validation documents, and keep the texts with it,
    each with the seconds it took, unless it has such texts."""
    if any("seconds" in sample for sample in record.samples()):
        return
    loaded = load_run(record.path)
    sampling: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}
    new = min(SAMPLE_NEW_TOKENS, loaded.sequence_length - SAMPLE_PROMPT_TOKENS - 1)
    if new < 1:
        return
    texts = []
    for prompt in _beginnings(loaded.recipe):
        start = time.monotonic()
        config = GenerationConfig(tokens=new, seed=seed, **sampling)
        [(_, [written])] = loaded.generator.generate([prompt], config)
        timed = {"tokens": len(written.new), "seconds": time.monotonic() - start}
        texts.append({"prompt": prompt, "text": written.text, "seed": seed, **sampling, **timed})
    record.folder.write_samples(texts)


def _beginnings(settings: Recipe) -> list[str]:
    """The first words of the first few validation documents that are long enough."""
    corpus = open_corpus(settings.data)
    store = corpus.validation
    long_enough = (
        number
        for number in range(store.documents)
        if len(store.document(number)) > 4 * SAMPLE_PROMPT_TOKENS
    )
    chosen = [number for number, _ in zip(long_enough, range(SAMPLES), strict=False)]
    return [
        corpus.tokenizer.decode(store.document(number)[:SAMPLE_PROMPT_TOKENS]) for number in chosen
    ]

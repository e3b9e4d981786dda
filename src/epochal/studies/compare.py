"""Train both families on the same unique tokens under equal settings, and say which won."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from epochal import files
from epochal.comparison import Comparison, compare_runs
from epochal.data.corpus import open_corpus
from epochal.errors import NotFiniteError, RecipeError, RunError
from epochal.evaluation.evaluate import evaluate_best
from epochal.evaluation.load import load_run
from epochal.families import family_names, get_family
from epochal.generation.config import GenerationConfig
from epochal.progress import say
from epochal.recipe import Recipe, RecipeLike, load_recipe
from epochal.recipe.load import split_override
from epochal.runs import RunRecord
from epochal.training.train import train

SAMPLE_PROMPT_TOKENS = 12
SAMPLE_NEW_TOKENS = 48
SAMPLES = 3


def compare(
    recipe: RecipeLike = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: str | Path | None = None,
    draws: int | None = None,
    restart: bool = False,
) -> Comparison:
    """Train AR and MDM by one recipe, evaluate both at their best, compare.

    The runs go to `<out>/ar` and `<out>/mdm`, the result to `<out>/comparison.json`; `out` is
    runs/<recipe's name> if not given. What is finished is not done again. Raises what `train`
    and `evaluate` raise.
    """
    if "family" in dict(overrides if isinstance(overrides, Mapping) else ()) or any(
        str(override).split("=")[0].strip() == "family" for override in overrides
    ):
        raise RecipeError("`family` has no place here: compare trains both families")
    name = Path(str(recipe)).stem if isinstance(recipe, str | Path) else "compare"
    folder = Path(out) if out is not None else Path("runs") / name
    runs = [
        _one(_settings(recipe, overrides, family), folder, draws, restart)
        for family in family_names()
    ]
    comparison = compare_runs(runs)
    files.write_json(folder / "comparison.json", comparison.as_dict())
    return comparison


def compare_existing(paths: Sequence[str | Path], *, draws: int | None = None) -> Comparison:
    """Compare runs that are there already, evaluating the best checkpoint of each if need be.

    Runs whose NLL is not a finite number are left out and listed. Raises RunError unless there is
    another run of each family, all on the same tokens.
    """
    if len(paths) < 2:
        raise RunError("give at least two runs, one of each family, to compare them")
    records = [RunRecord(path) for path in paths]
    for record in records:
        if record.status != "finished" and not record.metrics("eval"):
            mend = "anew with a lower `train.lr`" if record.status == "diverged" else "on"
            raise RunError(
                f"the run {record.path} ({record.status}) has not come to a validation, so there "
                f"is nothing to compare; leave it out, or train it {mend}"
            )
    scored: list[RunRecord] = []
    lost: list[str] = []
    for record in records:
        try:
            evaluate_best(record, draws)
            scored.append(record)
        except NotFiniteError:
            lost.append(record.name)
    return compare_runs(scored, lost)


def _settings(
    recipe: RecipeLike, overrides: Sequence[str] | Mapping[str, Any], family: str
) -> Recipe:
    """The recipe for `family`, with the defaults of that family unless it is a Recipe already."""
    if isinstance(recipe, Recipe):
        return dataclasses.replace(load_recipe(recipe, overrides), family=family)
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(split_override, overrides)
    return load_recipe(recipe, dict(pairs) | {"family": family})


def _one(settings: Recipe, folder: Path, draws: int | None, restart: bool) -> RunRecord:
    say(f"{get_family(settings.family).title}:")
    run_dir = str(folder / settings.family)
    record = train(dataclasses.replace(settings, run_dir=run_dir), restart=restart)
    evaluate_best(record, draws)
    if not record.samples():
        keep_samples(record)
    return record


def keep_samples(record: RunRecord, seed: int = 0) -> None:
    """Let a run's model go on from the beginnings of validation documents; keep the texts."""
    loaded = load_run(record.path)
    sampling: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95}
    new = min(SAMPLE_NEW_TOKENS, loaded.sequence_length - SAMPLE_PROMPT_TOKENS - 1)
    if new < 1:
        return
    texts = []
    for prompt in _beginnings(loaded.recipe):
        [text] = loaded.generate(prompt, GenerationConfig(tokens=new, seed=seed, **sampling))
        texts.append({"prompt": prompt, "text": text, "seed": seed, **sampling})
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

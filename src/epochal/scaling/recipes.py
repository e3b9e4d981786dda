"""Which runs share a recipe: all but size, unique tokens, length, seed and learning rate.

What is scaled with the size or tuned for it, such as the learning rate, the batch or the shape of
the model, makes no other recipe. Regularisation and the objective do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from epochal.recipe import known_keys
from epochal.runs.find import TUNE_FILE
from epochal.scaling.law import read_table

_REGULARISATION = frozenset(
    {
        "train.optimizer",
        "train.weight_decay",
        "train.cautious_decay",
        "train.attention_dropout",
        "train.hidden_dropout",
        "train.embedding_dropout",
        "model.stochastic_depth",
        "train.ema",
        "train.average_epochs",
        "eval.ema",
    }
)
TUNED = "tuned"
"""Label of the best runs of `epochal tune`, whatever their decay and dropout."""


def recipe_labels(
    families: Sequence[str], runs: Sequence[tuple[Path, Mapping[str, Any]]]
) -> list[str]:
    """What tells each run's recipe from the others of its family, such as "weight_decay=1.6".

    `runs` are folders with their settings (`points.setting_of`), of `families`. "" where a family
    has one recipe.
    """
    best = _tuned({folder.parent for folder, _ in runs})
    own = [
        None if folder.resolve() in best else _of_the_recipe(family, setting)
        for family, (folder, setting) in zip(families, runs, strict=True)
    ]
    differing = {family: _differing(family, families, own) for family in set(families)}
    known = known_keys()

    def value(keys: Mapping[str, Any], key: str) -> Any:
        # Keys that were added later are not in the settings at their default.
        return keys.get(key, known[key].default if key in known else None)

    return [
        TUNED
        if keys is None
        else ", ".join(f"{key.partition('.')[2]}={value(keys, key)}" for key in differing[family])
        for family, keys in zip(families, own, strict=True)
    ]


def _of_the_recipe(family: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    sections = (f"{family}.", "distill.")
    return {k: v for k, v in setting.items() if k in _REGULARISATION or k.startswith(sections)}


def _differing(
    family: str, families: Sequence[str], recipes: Sequence[Mapping[str, Any] | None]
) -> list[str]:
    """Keys in which the family's recipes differ, without the tuned ones."""
    pairs = zip(families, recipes, strict=True)
    own = [recipe for name, recipe in pairs if name == family and recipe is not None]
    keys = sorted({key for recipe in own for key in recipe})
    return [key for key in keys if len({repr(recipe.get(key)) for recipe in own}) > 1]


def _tuned(folders: set[Path]) -> set[Path]:
    """The best runs of the tunings in `folders`."""
    found = set()
    for file in {folder / TUNE_FILE for folder in folders}:
        for search in read_table(file).get("searches", ()) if file.exists() else ():
            run = Path(search["best"]["run"])
            found |= {run.resolve(), (file.parent / run.name).resolve()}  # it may have moved
    return found

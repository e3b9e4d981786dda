"""Which runs of a sweep are already finished, here or in another sweep's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.corpus import open_corpus
from epochal.errors import RunError
from epochal.recipe import Recipe, identity
from epochal.recipe.load import differing_keys
from epochal.recipe.renames import old_names
from epochal.runs import RunFolder, RunRecord
from epochal.runs.find import runs_below


class FinishedRuns:
    """Finished runs below some folders, found by the settings that decide their numbers."""

    def __init__(self, places: Sequence[Path]) -> None:
        """Read every run record below `places`; damaged and archived ones are left out."""
        self._found: dict[str, list[Path]] = {}
        for path in runs_below(places):
            info = _info(path)
            if info.get("status") == "finished" and isinstance(info.get("identity"), dict):
                self._found.setdefault(_recipe_hash(info["identity"]), []).append(path)

    def find(self, recipe: Recipe) -> Path | None:
        """Folder of a finished run with this recipe's identity and the same corpus, or None.

        The corpus is only hashed where a run has the recipe's identity.
        """
        candidates = self._found.get(recipe_hash(recipe), [])
        if not candidates:
            return None
        wanted = corpus_hashes(recipe)
        for path in candidates:
            info = _info(path)
            if "start" in info and recipe.train.start_from is None:
                continue  # its recipe does not give the steps of its trunk's warm-up
            stored = info["identity"]
            if all(stored.get(key) == value for key, value in wanted.items()):
                return path
        return None


def recipe_hash(recipe: Recipe) -> str:
    """Hash of the settings that decide a run's numbers, without the corpus."""
    return _recipe_hash(identity(recipe))


def recipe_hash_0_1(recipe: Recipe) -> str:
    """The same from the keys' names in version 0.1, as its sweep.json has it."""
    return _recipe_hash(old_names(identity(recipe)))


def corpus_hashes(recipe: Recipe) -> dict[str, str]:
    """The corpus' part of a run's identity. Raises DataError if the corpus is missing."""
    return open_corpus(recipe.data).identity()


def check_own_folder(recipe: Recipe, folder: RunFolder) -> None:
    """Raise RunError if the run's folder holds a run that the recipe could not resume."""
    info = folder.read_info()
    if info is None:
        return
    stored, wanted = dict(info.get("identity", {})), identity(recipe)
    differing = [key for key in differing_keys(stored, wanted) if not key.startswith("corpus.")]
    if differing:
        key = differing[0]
        raise RunError(
            f"{folder.path} holds a run with other settings (`{key}` {stored.get(key)!r} → "
            f"{wanted.get(key)!r}); give the changed sweep another folder, `out`"
        )


def kept_steps(folder: RunFolder) -> set[int]:
    """Steps of the checkpoints that have optimizer state, from which other runs can start."""
    kinds = ("last", "permanent", "kept")  # version 0.1 wrote kept-<step>
    paths = [path for kind in kinds for path in folder.checkpoints.glob(f"{kind}-*")]
    steps = (path.name.rpartition("-")[2] for path in paths)
    return {int(step) for step in steps if step.isdigit()}


def needs_evaluation(record: RunRecord) -> bool:
    """Whether the best checkpoint has not been evaluated yet."""
    result = record.evaluation("best")
    best = (record.info.get("best") or {}).get("step")
    return result is None or (best is not None and result.step != best)


def _recipe_hash(values: dict[str, Any]) -> str:
    return files.sha256_json(
        {key: value for key, value in values.items() if not key.startswith("corpus.")}
    )


def _info(path: Path) -> dict[str, Any]:
    try:
        return RunFolder(path).read_info() or {}
    except (RunError, OSError):
        return {}

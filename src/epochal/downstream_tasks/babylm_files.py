"""The minimal pairs of the BabyLM evaluation, from files in its layout.

The layout and what is scored are those of babylm/evaluation-pipeline-2025: a folder of data holds
one folder per task, with .jsonl files. Each line becomes an item: its texts, the right one first,
and how many characters at the end of each are scored.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epochal.errors import DataError

DOCS = "docs/babylm.md"


@dataclass(frozen=True, slots=True)
class Item:
    """One question: which of `texts` is likeliest."""

    texts: tuple[str, ...]
    """The right one first."""
    scored: tuple[int, ...]
    """Characters at the end of each text whose tokens are scored."""
    subtask: str
    """Its accuracy is one of those that are averaged."""
    groups: dict[str, str] = field(default_factory=dict)
    """Other partitions of the items: name → part."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a file."""

    path: Path
    line: int
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """The text under `key`."""
        value = self._value(key)
        if not isinstance(value, str) or not value:
            raise self._odd(key, "a text")
        return value

    def texts(self, key: str) -> list[str]:
        """The list of two or more texts under `key`."""
        value = self._value(key)
        if (
            not isinstance(value, list)
            or len(value) < 2
            or not all(isinstance(one, str) and one for one in value)
        ):
            raise self._odd(key, "a list of two or more texts")
        return value

    def number(self, key: str) -> int:
        """The whole number under `key`."""
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._odd(key, "a whole number")
        return value

    def stem(self, known: Sequence[str]) -> str:
        """The one of `known` that the file's name begins with, the longest."""
        fitting = [name for name in known if self.path.stem.startswith(name)]
        if not fitting:
            raise DataError(
                f"{self.path} is none of the task's files: their names begin with "
                f"{', '.join(known)}"
            )
        return max(fitting, key=len)

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise DataError(f"{self.path}, line {self.line} has no {key}")
        return self.values[key]

    def _odd(self, key: str, wanted: str) -> DataError:
        return DataError(
            f"{self.path}, line {self.line} has {key} = {self.values[key]!r:.60}, which is not "
            f"{wanted}"
        )


def _sentences(row: _Row) -> Item:
    """BLiMP and its supplement: whole sentences."""
    texts = row.text("sentence_good"), row.text("sentence_bad")
    lengths = tuple(map(len, texts))
    if "field" not in row.values:
        return Item(texts, lengths, row.path.stem)
    area = row.text("field").replace("syntax_semantics", "syntax/semantics")
    groups = {"field": area, "linguistics_term": row.text("linguistics_term")}
    return Item(texts, lengths, row.text("UID"), groups)


def _ewok(row: _Row) -> Item:
    """The targets after the first context, with the space before them."""
    targets = row.text("Target1"), row.text("Target2")
    texts = tuple(f"{row.text('Context1')} {target}" for target in targets)
    keys = {
        "context_type": "ContextType",
        "context_contrast": "ContextDiff",
        "target_contrast": "TargetDiff",
    }
    groups = {name: row.text(key) for name, key in keys.items()}
    return Item(texts, tuple(len(one) + 1 for one in targets), row.text("Domain"), groups)


_SPLITS = ("regular", "ambiref", "move_contents")


def _entities(row: _Row) -> Item:
    """The options after the prefix."""
    options, prefix = row.texts("options"), row.text("input_prefix")
    row.stem(_SPLITS)
    subtask = f"{row.path.stem}_{row.number('numops')}_ops"
    return Item(tuple(prefix + one for one in options), tuple(map(len, options)), subtask)


_COMPS = {
    "comps_base": "base",
    "comps_wugs": "wugs",
    "comps_wugs_dist-before": "wugs_dist_before",
    "comps_wugs_dist-in-between": "wugs_dist_in_between",
}


def _comps(row: _Row) -> Item:
    """The same property after two prefixes."""
    said = row.text("property_phrase")
    before = row.text("prefix_acceptable"), row.text("prefix_unacceptable")
    texts = tuple(f"{one} {said}" for one in before)
    return Item(texts, (len(said), len(said)), _COMPS[row.stem(tuple(_COMPS))])


@dataclass(frozen=True, slots=True)
class BabyLMTask:
    """One task of the evaluation."""

    name: str
    folders: tuple[str, ...]
    """Where it lies in the folder of data; the first that is there is read."""
    item: Callable[[_Row], Item]
    splits: tuple[str, ...] = ()
    """Beginnings of subtasks that are averaged by themselves before the average over them."""

    def weights(self, subtasks: Sequence[str]) -> dict[str, float]:
        """The weight of each subtask's accuracy in the macro average."""
        parts: dict[str, list[str]] = defaultdict(list)
        for subtask in subtasks:
            found = [split for split in self.splits if subtask.startswith(split)]
            parts[found[0] if found else subtask].append(subtask)
        return {subtask: 1 / len(parts) / len(part) for part in parts.values() for subtask in part}


TASKS = (
    BabyLMTask("babylm_blimp", ("blimp_filtered", "blimp_fast", "blimp"), _sentences),
    BabyLMTask(
        "babylm_supplement", ("supplement_filtered", "supplement_fast", "supplement"), _sentences
    ),
    BabyLMTask("babylm_ewok", ("ewok_filtered", "ewok_fast", "ewok"), _ewok),
    BabyLMTask(
        "babylm_entity_tracking", ("entity_tracking", "entity_tracking_fast"), _entities, _SPLITS
    ),
    BabyLMTask("babylm_comps", ("comps",), _comps),
)


def read_tasks(data: Path, limit: int | None = None) -> list[tuple[BabyLMTask, str, list[Item]]]:
    """(task, its folder's name, its items) of those tasks that `data` has a folder of.

    `limit` keeps the first items of each subtask. Raises DataError if there is no task's folder,
    or naming the file, line and key that is missing or odd.
    """
    found = []
    for task in TASKS:
        name = next((name for name in task.folders if (data / name).is_dir()), None)
        if name is not None:
            items = [task.item(row) for path in _files(data / name) for row in _rows(path)]
            found.append((task, name, _first(items, limit)))
    if not found:
        inside = [name for name in ("full_eval", "fast_eval") if (data / name).is_dir()]
        hint = f"; it has {' and '.join(inside)}, so give one of them" if inside else ""
        wanted = ", ".join(task.folders[0] for task in TASKS)
        raise DataError(f"{data} holds none of the folders {wanted}{hint} ({DOCS})")
    return found


def _files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DataError(f"{folder} holds no .jsonl file ({DOCS})")
    return paths


def _rows(path: Path) -> Iterator[_Row]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                values = json.loads(line)  # of UTF-8
                if not isinstance(values, dict):
                    raise ValueError("it is no object")
                yield _Row(path, number, values)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are among them
        raise DataError(f"{path}, line {number} is not a JSON object ({error})") from error
    if not number:
        raise DataError(f"{path} is empty, so there is nothing to score")


def _first(items: list[Item], limit: int | None) -> list[Item]:
    if limit is None:
        return items
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for item in items:
        seen[item.subtask] += 1
        if seen[item.subtask] <= limit:
            kept.append(item)
    return kept

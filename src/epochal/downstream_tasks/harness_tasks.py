"""Tasks of lm-evaluation-harness: by name, from local files, or a folder of your own.

Local files are TASK/SPLIT.jsonl in a data folder and have the columns of the task's
dataset. For each task a small YAML file is written that includes the harness's own definition
and changes where the rows come from, so prompts and metrics are the harness's.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from epochal import files
from epochal.downstream_tasks.paper_tasks import PAPER_TASKS
from epochal.errors import DataError, NamedOption, OptionError, UserError, nearest

DOCS = "docs/downstream.md"
_TIMEOUT = 5.0
"""Seconds for the hub to answer a connection."""
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def require_harness() -> None:
    """Raise UserError if the harness is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError(
            "downstream tasks need lm-evaluation-harness, which is not installed: run "
            "`pip install 'epochal[downstream]'`"
        )


def task_names(spec: str) -> tuple[list[str], Path | None]:
    """`paper`, `name,name` or a folder of YAML tasks → names, and the folder if it is one.

    Raises UserError for an empty list or a folder without tasks.
    """
    folder = Path(spec)
    if spec == "paper":
        return list(PAPER_TASKS), None
    if folder.is_dir():
        lines = [re.search(r"(?m)^task:\s*(\S+)\s*$", _text(path)) for path in _yaml_files(folder)]
        names = [line[1].strip("\"'") for line in lines if line]
        if not names:
            raise UserError(
                f"the folder {spec} holds no task: it needs YAML files with a line `task: NAME` "
                f"({DOCS}); rows of known tasks are given with ",
                NamedOption("data"),
            )
        return names, folder
    names = [name.strip() for name in spec.split(",") if name.strip()]
    if not names:
        raise OptionError("tasks", spec, "give `paper` or names like sciq,piqa")
    return list(dict.fromkeys(names)), None


def load_tasks(
    names: Sequence[str], own: Path | None, data: Path | None, work: Path
) -> tuple[Any, list[Any]]:
    """The harness's `TaskManager`, and the task and group objects in the order of `names`.

    `own` is a folder of YAML tasks, `data` one of local rows, `work` an empty folder for
    temporary files. Raises UserError for an unknown task, one that must be
    downloaded and cannot be, and local files that do not fit.
    """
    from lm_eval.tasks import TaskManager

    stock = {} if own is not None else {name: _stock_file(name) for name in names}
    for name, path in stock.items():
        if path is not None:
            _write_task(name, path, data, work)
    # The index of all stock tasks takes ten seconds; only groups of tasks need it.
    groups = any(path is None for path in stock.values())
    manager = TaskManager(include_path=str(own or work), include_defaults=groups)
    for name in names:
        if name not in manager.all_tasks:
            raise _unknown(name, manager.all_tasks) if own is None else _unread(name, own)
    return manager, [task for name in names for task in _load_one(manager, name, own, data)]


def check_names(names: Sequence[str]) -> None:
    """Raise UserError for a name that no definition of the harness has, within a second or two.

    Its own index takes ten seconds to make.
    """
    others = [name for name in names if name not in PAPER_TASKS]
    if not others:
        return
    texts = _stock_texts()
    for name in others:
        word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        if not any(name in text and word.search(text) for text in texts):
            named = re.compile(r"(?m)^(?:task|group|tag):[ \t]*[\"']?([\w.-]+)")
            raise _unknown(name, sorted({one for text in texts for one in named.findall(text)}))


def _unknown(name: str, known: Sequence[str]) -> UserError:
    hint = nearest(name, [*PAPER_TASKS, *known])
    return UserError(
        f"lm-eval has no task {name!r}.{hint} `lm_eval ls tasks` lists all; the paper's are "
        f"{', '.join(PAPER_TASKS)}"
    )


def go_offline_without_hub() -> None:
    """Set HF_HUB_OFFLINE for this process, before `datasets` is imported, if no hub answers.

    Then what was downloaded before is found at once; the libraries would first try for half a
    minute. A proxy stands for what is behind it. For the command line: a library's user sets it.
    """
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
    target = urlsplit(proxy) if proxy else address
    port = target.port or (80 if target.scheme == "http" else 443)
    if target.hostname is not None and not _answers(target.hostname, port):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _TIMEOUT).close()
    except OSError:
        return False
    return True


def _unread(name: str, own: Path) -> DataError:
    """Why the harness does not see a task that a file of the folder names."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in _yaml_files(own):
        try:
            load_yaml(path, resolve_func=False)
        except Exception as error:  # of the YAML library, and of a file that is included
            reason = " ".join(str(error).split())[:200]
            return DataError(f"{path} cannot be read as a task's YAML file: {reason}")
    return DataError(f"the harness finds no task {name} in {own}; {DOCS} says what it needs")


def _load_one(manager: Any, name: str, own: Path | None, data: Path | None) -> list[Any]:
    try:
        loaded = manager.load([name])
    except Exception as error:  # datasets raises many kinds, from several libraries
        if own is not None:
            raise DataError(f"cannot load the task {name} of {own}: {_reason(error)}") from error
        if data is not None and (data / name).is_dir():
            raise DataError(f"cannot read {data}/{name}: {_reason(error)}") from error
        raise UserError(
            f"cannot download the rows of the task {name} ({_reason(error)}); go online once, or "
            f"put them into FOLDER/{name}/SPLIT.jsonl and give ",
            NamedOption("data", "FOLDER"),
            f" ({DOCS})",
        ) from error
    group = loaded["groups"].get(name)
    return list(loaded["tasks"].values()) if group is None else [group]


def _write_task(name: str, stock: Path, data: Path | None, work: Path) -> None:
    """A YAML file that is the stock task, with rows from `data` if it has them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    content: dict[str, Any] = {"include": str(stock), "task": name}
    folder = data / name if data is not None else None
    if folder is not None and folder.is_dir():
        config = load_yaml(stock, resolve_func=False)
        splits = {key: config.get(key) for key in _SPLITS if config.get(key)}
        rows = {s: folder / f"{s}.jsonl" for s in dict.fromkeys(splits.values())}
        rows = {split: path for split, path in rows.items() if path.is_file()}
        _check_rows(name, folder, splits, rows)
        content |= {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: str(path.resolve()) for split, path in rows.items()},
                "cache_dir": str(work / "cache"),
            },
        }
        content |= {key: split if split in rows else None for key, split in splits.items()}
    # JSON is YAML, and nothing has to be quoted by hand.
    files.write_json(work / f"{name}.yaml", content)


def _check_rows(name: str, folder: Path, splits: dict[str, str], rows: dict[str, Path]) -> None:
    """Raise DataError unless a split can be scored and its first row has the task's columns."""
    scored = [splits[key] for key in ("test_split", "validation_split") if key in splits]
    usable = [split for split in scored if split in rows]
    if not usable:
        wanted = " or ".join(f"{split}.jsonl" for split in scored)
        raise DataError(f"{folder} has no rows to score: {name} needs {wanted}")
    path = rows[usable[0]]
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    if not line:
        raise DataError(f"{path} is empty, so there is nothing to score")
    try:
        row = json.loads(line)
        columns = PAPER_TASKS[name].columns if name in PAPER_TASKS else ()
        missing = [column for column in columns if column not in row]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}, line 1 is not a JSON object ({error})") from error
    if missing:
        raise DataError(
            f"{path}, line 1 has no {', '.join(missing)}; rows of {name} need {', '.join(columns)}"
        )


def _stock_file(name: str) -> Path | None:
    """The harness's own definition of a task; None for a group or an unknown name."""
    folder = _stock_folder()
    if name in PAPER_TASKS:
        return folder / PAPER_TASKS[name].file
    wanted = re.compile(rf"(?m)^task:\s*[\"']?{re.escape(name)}[\"']?\s*$")
    return next((path for path in _yaml_files(folder) if wanted.search(_text(path))), None)


def _stock_folder() -> Path:
    """Where the harness keeps its definitions; found without importing it, which takes seconds."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


@lru_cache(maxsize=1)
def _stock_texts() -> list[str]:
    return [_text(path) for path in _yaml_files(_stock_folder())]


def _yaml_files(folder: Path) -> list[Path]:
    return sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _reason(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return first[:160] or type(error).__name__

"""Bring the paper's data here: its published token stores, GPT-2's tokenizer, C4 and SlimPajama.

What is published as tokens becomes a corpus folder as `prepare` makes it. Everything else comes as
text, document by document in the source's order, in packed JSON lines of some thousand documents
each, with the place to go on from beside them.
"""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data import hub
from epochal.data.folder import TOKENIZER, TRAIN, VALIDATION, PreparedCorpus
from epochal.data.names import NAMED_SETS, TOKENS_PER_DOCUMENT, named_set
from epochal.data.store import suffixed
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError, nearest
from epochal.progress import bar, say

QUICKSTART = "ZahlenReal/diffusion_data_constraint_quickstart"
"""The paper's 100M tokens of C4 and C4's validation set, as token stores."""
GPT2 = "openai-community/gpt2"
_GPT2_FILES = ("vocab.json", "merges.txt")
_TRAIN, _VALIDATION = "gpt2tok_c4_100_text_document", "gpt2tok_c4_val_text_document"
_TEXTS = {"c4": ("allenai/c4", "en"), "slimpajama": ("cerebras/SlimPajama-627B", None)}
OTHERS = ("gpt2", "c4-validation", "slimpajama-validation", "c4", "slimpajama")
PART = 10_000
"""Documents in a file of text."""
_STATE = "download.json"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What came, and where it lies."""

    name: str
    folder: Path
    what: str
    """tokenizer, corpus, store or text."""
    source: str
    documents: int | None = None
    unique_tokens: int | None = None
    already_there: bool = False

    @property
    def next(self) -> str:
        """What to do with it."""
        if self.what == "corpus":
            return f"epochal data inspect {self.folder}"
        if self.what == "store":
            return f"a recipe's data.validation={self.folder}/{VALIDATION}"
        if self.what == "tokenizer":
            return f"epochal data prepare TEXT --out corpus --tokenizer {self.folder}"
        return f"epochal data prepare {self.folder} --out {self.folder}-corpus --tokenizer gpt2"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "what": self.what,
            "source": self.source,
            "documents": self.documents,
            "unique_tokens": self.unique_tokens,
            "already_there": self.already_there,
        }


def download(
    name: str,
    out: str | Path,
    *,
    documents: int | None = None,
    unique_tokens: int | None = None,
    text: bool = False,
    repo: str | None = None,
) -> Downloaded:
    """Bring the data set `name` to the folder `out`; the same call goes on where one ended.

    `gpt2`, a tokenizer's folder; `c4:100M`, a corpus of the published stores (`text` for the text
    instead); `c4-validation`, a store; any other name of the paper, or `c4` and `slimpajama` with
    `documents` or `unique_tokens`, as text. `repo` names another repository, or a folder with a
    data set. Files are checked against the hub's sums. Raises DataError with what to do where
    there is no network.
    """
    folder = Path(out)
    try:
        if name == "gpt2":
            return _tokenizer(folder, repo)
        if name == "c4-validation" and not text:
            return _stores(name, folder, {VALIDATION: _VALIDATION}, repo)
        if name.lower() == "c4:100m" and not text and documents is None and unique_tokens is None:
            stores = {TRAIN: _TRAIN, VALIDATION: _VALIDATION}
            return _stores("c4:100M", folder, stores, repo)
        source, split, count = _wanted(name, documents, unique_tokens)
        return _text(name, folder, source, split, count, repo)
    except DataError as error:
        if error.__cause__ is None:
            raise
        raise DataError(f"{error}. {_elsewhere(name, folder)}") from error


def _wanted(
    name: str, documents: int | None, unique_tokens: int | None
) -> tuple[str, str, int | None]:
    """(source, split, documents; None for all) of a text."""
    if documents is not None and unique_tokens is not None:
        raise DataError("`documents` and `unique_tokens` both say how much; give one")
    if name.endswith("-validation") and name.removesuffix("-validation") in _TEXTS:
        return name.removesuffix("-validation"), "validation", documents
    if name in _TEXTS:
        if unique_tokens is not None:
            # A tenth more than its mean says, for an exact cut afterwards.
            documents = math.ceil(1.1 * unique_tokens / TOKENS_PER_DOCUMENT[name])
        if documents is None:
            raise DataError(
                f"all of {name} is hundreds of GB; say how much with --documents or "
                "--unique-tokens, or name one of the paper's sets (`epochal data names`)"
            )
        return name, "train", documents
    if ":" not in name:
        hint = nearest(name, [*OTHERS, *NAMED_SETS]) or f" Known are {', '.join(OTHERS)} and names "
        hint += "" if "Did" in hint else "like c4:100M (`epochal data names`)."
        raise DataError(f"there is nothing to download by the name {name!r}.{hint}")
    found = named_set(name)
    return found.source, "train", found.documents if documents is None else documents


def _tokenizer(folder: Path, repo: str | None) -> Downloaded:
    source = repo or GPT2
    _fetch(source, "model", {name: folder / name for name in _GPT2_FILES}, folder)
    load_tokenizer(folder)
    return Downloaded("gpt2", folder, "tokenizer", source)


def _stores(name: str, folder: Path, stores: dict[str, str], repo: str | None) -> Downloaded:
    source = repo or QUICKSTART
    wanted = {
        f"{theirs}{suffix}": suffixed(folder / ours, suffix)
        for ours, theirs in stores.items()
        for suffix in (".bin", ".idx")  # the index last: it says that the store is there
    }
    if not (folder / TOKENIZER).is_file():
        place = folder / ".gpt2"
        _fetch(GPT2, "model", {one: place / one for one in _GPT2_FILES}, place)
        with files.atomic_path(folder / TOKENIZER) as temporary:
            load_tokenizer(place).save(temporary)
        shutil.rmtree(place)
    there = _fetch(source, "dataset", wanted, folder)
    if TRAIN not in stores:
        return Downloaded(name, folder, "store", source, already_there=there)
    train = PreparedCorpus.open(folder).train
    return Downloaded(name, folder, "corpus", source, train.documents, train.unique_tokens, there)


def _fetch(source: str, kind: str, wanted: dict[str, Path], folder: Path) -> bool:
    """Bring files to their places; whether all were there. A file is fetched under another name
    and moved once its sum is right."""
    if _noted(folder, source) and all(path.is_file() for path in wanted.values()):
        return True
    found = hub.repository(source, kind, tuple(wanted))
    pending = folder / ".download"
    total = sum(found.files[name].bytes for name in wanted)
    done = 0
    with files.storage_errors(folder), bar(f"Fetching {source}", total) as progress:
        pending.mkdir(parents=True, exist_ok=True)
        for name, path in wanted.items():
            if not found.files[name].fits(path):
                found.fetch(name, pending).replace(path)
            done += found.files[name].bytes
            progress.update(done, name)
        shutil.rmtree(pending)
    sums = {
        name: {"bytes": found.files[name].bytes, "sha256": files.sha256(path)}
        for name, path in wanted.items()
    }
    note = {"source": source, "revision": found.revision, "files": sums}
    files.write_json(folder / _STATE, note)
    return False


def _noted(folder: Path, source: str) -> bool:
    return bool(_read_state(folder).get("source") == source)


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state


def _text(
    name: str, folder: Path, source: str, split: str, count: int | None, repo: str | None
) -> Downloaded:
    """The first `count` documents as part-00000.jsonl.gz and so on; the state is written after each
    part, so that a part is whole or made again."""
    path, config = (repo, None) if repo else _TEXTS[source]
    what = {"source": path, "split": split, "documents": count}
    state = _read_state(folder)
    if state and {key: state.get(key) for key in what} != what:
        raise DataError(
            f"{folder} holds another download ({state.get('source')}, "
            f"{state.get('documents')} documents); choose another folder"
        )
    if state.get("done") is not None and state.get("complete"):
        return Downloaded(name, folder, "text", path, state["done"], already_there=True)
    done, parts = int(state.get("done", 0)), int(state.get("parts", 0))
    if done:
        say(f"going on after document {done:,}")
    stream = hub.documents(path, config, split, state.get("stream"))
    with bar(f"Fetching {name}", count or 0) as progress:
        for batch, place in _batches(stream, None if count is None else count - done):
            _write_part(folder / f"part-{parts:05d}.jsonl.gz", batch)
            done, parts = done + len(batch), parts + 1
            files.write_json(
                folder / _STATE, what | {"done": done, "parts": parts, "stream": place}
            )
            progress.update(done, f"{parts} files")
    if count is not None and done < count:
        raise DataError(
            f"{path} ended after {done:,} documents, but {name} needs {count:,}; is it the right "
            "repository?"
        )
    files.write_json(folder / _STATE, what | {"done": done, "parts": parts, "complete": True})
    return Downloaded(name, folder, "text", path, done)


def _batches(
    stream: Iterator[tuple[str, Callable[[], hub.State]]], count: int | None
) -> Iterator[tuple[list[str], hub.State]]:
    """Up to PART documents at a time, `count` in all, with the state after each batch."""
    batch: list[str] = []
    for taken, (text, place) in enumerate(stream if count != 0 else (), start=1):
        batch.append(text)
        if len(batch) == PART or taken == count:
            yield batch, place()
            batch = []
        if taken == count:
            return
    if batch:
        yield batch, place()


def _write_part(path: Path, texts: list[str]) -> None:
    with files.atomic_path(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def _elsewhere(name: str, folder: Path) -> str:
    """What to do without a network."""
    again = f"`epochal data download {name} --out {folder}`"
    by_hand = ""
    if name == "gpt2":
        by_hand = f" (or vocab.json and merges.txt of https://huggingface.co/{GPT2})"
    elif name.lower() in ("c4:100m", "c4-validation"):
        by_hand = f" (or the files of https://huggingface.co/datasets/{QUICKSTART})"
    return (
        f"Run {again} again once there is a network: it goes on where it ended. Or run it on "
        f"another machine and copy the folder {folder} here{by_hand}; if the data has moved, name "
        "its new place with --repo"
    )

"""Download the paper's data: its published token stores, GPT-2's tokenizer, C4 and SlimPajama.

What is published as tokens becomes a corpus folder as `prepare` makes it. Everything else comes as
text, document by document in the source's order, in packed JSON lines of 10,000 documents each; the
position to resume from is kept beside them. All calls of `huggingface_hub` and `datasets` are here.
Both are optional and imported late.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from epochal import files
from epochal.data.corpus import TOKENIZER, TRAIN, VALIDATION, Corpus
from epochal.data.hub import network, require
from epochal.data.options import DownloadOptions
from epochal.data.paper_sets import PAPER_SETS, TOKENS_PER_DOCUMENT, paper_set
from epochal.data.store import suffixed
from epochal.data.tokenizer_sources import load_tokenizer, quiet
from epochal.errors import DataError, NamedOption, nearest
from epochal.progress import bar, say

QUICKSTART = "ZahlenReal/diffusion_data_constraint_quickstart"
"""The paper's 100M tokens of C4 and C4's validation set, as token stores."""
GPT2 = "openai-community/gpt2"
_OTHERS = ("gpt2", "c4-validation", "slimpajama-validation", "c4", "slimpajama")
"""Names besides those of `PAPER_SETS`."""
PART = 10_000
"""Documents in a file of text."""
_GPT2_FILES = ("vocab.json", "merges.txt")
_TRAIN, _VALIDATION = "gpt2tok_c4_100_text_document", "gpt2tok_c4_val_text_document"
_TEXTS = {"c4": ("allenai/c4", "en"), "slimpajama": ("cerebras/SlimPajama-627B", None)}
_STATE = "download.json"

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was downloaded, and where it is."""

    name: str
    folder: Path
    kind: Literal["tokenizer", "corpus", "store", "text"]
    source: str
    """Repository on the hub."""
    documents: int | None = None
    unique_tokens: int | None = None
    already_existed: bool = False


def download(name: str, out: str | Path, options: DownloadOptions | None = None) -> Downloaded:
    """Download the data set `name` to the folder `out`; the same call resumes where one ended.

    `gpt2`, a tokenizer's folder; `c4:100M`, a corpus of the published stores (`text` for the text
    instead); `c4-validation`, a store; any other name of the paper, or `c4` and `slimpajama` with
    `documents` or `unique_tokens`, as text. Files are checked against the hub's hashes. Raises
    DataError with what to do where there is no network.
    """
    options = options or DownloadOptions()
    folder, repo = Path(out), options.repo
    all_of_it = not options.text and options.documents is None and options.unique_tokens is None
    try:
        if name == "gpt2":
            return _tokenizer(folder, repo)
        if name == "c4-validation" and not options.text:
            return _stores(name, folder, {VALIDATION: _VALIDATION}, repo)
        if name.lower() == "c4:100m" and all_of_it:
            return _stores("c4:100M", folder, {TRAIN: _TRAIN, VALIDATION: _VALIDATION}, repo)
        source, split, count = _wanted(name, options)
        return _text(name, folder, source, split, count, repo)
    except DataError as error:
        if error.__cause__ is None:
            raise
        raise DataError(
            f"{error}. {_without_network(name, folder)} (", NamedOption("repo"), ")"
        ) from error


def _wanted(name: str, options: DownloadOptions) -> tuple[str, str, int | None]:
    """(source, split, documents; None for all) of a text."""
    documents = options.documents
    if name.endswith("-validation") and name.removesuffix("-validation") in _TEXTS:
        return name.removesuffix("-validation"), "validation", documents
    if name in _TEXTS:
        if options.unique_tokens is not None:
            # A tenth more than its mean says, for an exact cut afterwards.
            documents = math.ceil(1.1 * options.unique_tokens / TOKENS_PER_DOCUMENT[name])
        if documents is None:
            raise DataError(
                f"all of {name} is hundreds of GB; give ",
                NamedOption("documents"),
                " or ",
                NamedOption("unique_tokens"),
                ", or name one of the paper's sets (`epochal data names`)",
            )
        return name, "train", documents
    if ":" not in name:
        hint = nearest(name, [*_OTHERS, *PAPER_SETS]) or (
            f" Known are {', '.join(_OTHERS)} and names like c4:100M (`epochal data names`)."
        )
        raise DataError(f"nothing to download has the name {name!r}.{hint}")
    wanted = paper_set(name)
    return wanted.source, "train", wanted.documents if documents is None else documents


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
        for suffix in (".bin", ".idx")  # the index last: a store exists when its index does
    }
    if not (folder / TOKENIZER).is_file():
        scratch = folder / ".gpt2"
        _fetch(GPT2, "model", {file: scratch / file for file in _GPT2_FILES}, scratch)
        with files.atomic_path(folder / TOKENIZER) as temporary:
            load_tokenizer(scratch).save(temporary)
        shutil.rmtree(scratch)
    existed = _fetch(source, "dataset", wanted, folder)
    if TRAIN not in stores:
        return Downloaded(name, folder, "store", source, already_existed=existed)
    train = Corpus.open(folder).train
    counts = train.documents, train.unique_tokens
    return Downloaded(name, folder, "corpus", source, *counts, existed)


def _fetch(source: str, kind: str, wanted: dict[str, Path], folder: Path) -> bool:
    """Download files to their places; whether all existed. A file is fetched under another name
    and moved once its hash is right."""
    noted = _read_state(folder).get("source") == source
    if noted and all(path.is_file() for path in wanted.values()):
        return True
    repository = _repository(source, kind, tuple(wanted))
    pending = folder / ".download"
    total = sum(repository.files[name].bytes for name in wanted)
    done = 0
    with files.storage_errors(folder), bar(f"Fetching {source}", total) as progress:
        pending.mkdir(parents=True, exist_ok=True)
        for name, path in wanted.items():
            if not repository.files[name].fits(path):
                repository.fetch(name, pending).replace(path)
            done += repository.files[name].bytes
            progress.update(done, name)
        shutil.rmtree(pending)
    sums = {
        name: {"bytes": repository.files[name].bytes, "sha256": files.sha256(path)}
        for name, path in wanted.items()
    }
    state = {"source": source, "revision": repository.revision, "files": sums}
    files.write_json(folder / _STATE, state)
    return False


def _read_state(folder: Path) -> State:
    try:
        state: State = json.loads((folder / _STATE).read_text(encoding="utf-8"))
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
        return Downloaded(name, folder, "text", path, state["done"], already_existed=True)
    done, parts = int(state.get("done", 0)), int(state.get("parts", 0))
    if done:
        say(f"resuming after document {done:,}")
    stream = _stream_documents(path, config, split, state.get("stream"))
    with bar(f"Fetching {name}", count or 0) as progress:
        for batch, position in _batches(stream, None if count is None else count - done):
            _write_part(folder / f"part-{parts:05d}.jsonl.gz", batch)
            done, parts = done + len(batch), parts + 1
            files.write_json(
                folder / _STATE, what | {"done": done, "parts": parts, "stream": position}
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
    stream: Iterator[tuple[str, Callable[[], State]]], count: int | None
) -> Iterator[tuple[list[str], State]]:
    """Up to PART documents at a time, `count` in all, with the state after each batch."""
    batch: list[str] = []
    for taken, (text, state) in enumerate(stream if count != 0 else (), start=1):
        batch.append(text)
        if len(batch) == PART or taken == count:
            yield batch, state()
            batch = []
        if taken == count:
            return
    if batch:
        yield batch, state()


def _write_part(path: Path, texts: list[str]) -> None:
    with files.atomic_path(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def _without_network(name: str, folder: Path) -> str:
    """What to do without a network."""
    command = f"`epochal data download {name} --out {folder}`"
    by_hand = ""
    if name == "gpt2":
        by_hand = f" (or vocab.json and merges.txt of https://huggingface.co/{GPT2})"
    elif name.lower() in ("c4:100m", "c4-validation"):
        by_hand = f" (or the files of https://huggingface.co/datasets/{QUICKSTART})"
    return (
        f"Run {command} again once there is a network: it resumes where it ended. Or run it on "
        f"another machine and copy the folder {folder} here{by_hand}; if the data has moved, name "
        "its new repository"
    )


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    """A file of a repository, and its hash."""

    name: str
    bytes: int
    sha256: str | None
    """Of large files, which the hub stores by it."""
    git_sha1: str
    """Of small ones: SHA-1 of git's blob."""

    def fits(self, path: Path) -> bool:
        """Whether the file at `path` is this one, by size and hash."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        with path.open("rb") as file:
            if self.sha256 is not None:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
            header = f"blob {self.bytes}\0".encode()
            return hashlib.sha1(header + file.read()).hexdigest() == self.git_sha1


@dataclass(frozen=True, slots=True)
class _Repository:
    """Files of a repository at one commit."""

    name: str
    kind: str
    """dataset or model."""
    revision: str
    files: dict[str, _RemoteFile]

    def fetch(self, name: str, folder: Path) -> Path:
        """Download a file to `folder`, resuming an interrupted copy, and check it.

        Raises DataError if it cannot be downloaded or its hash is wrong twice.
        """
        import huggingface_hub

        for force in (False, True):
            with network(self.name), quiet("huggingface_hub"):
                path = Path(
                    huggingface_hub.hf_hub_download(
                        self.name,
                        name,
                        repo_type=self.kind,
                        revision=self.revision,
                        local_dir=folder,
                        force_download=force,
                    )
                )
            if self.files[name].fits(path):
                return path
        raise DataError(
            f"{name} of {self.name} has other content than the hub lists; try again later"
        )


def _repository(name: str, kind: str, wanted: tuple[str, ...]) -> _Repository:
    """The repository's current commit and its files `wanted`. Raises DataError."""
    require("huggingface_hub")
    import huggingface_hub

    api = huggingface_hub.HfApi()
    with network(name), quiet("huggingface_hub"):
        info = api.dataset_info(name) if kind == "dataset" else api.model_info(name)
        revision = str(info.sha)
        paths = api.get_paths_info(name, list(wanted), repo_type=kind, revision=revision)
    remote = {}
    for entry in paths:
        if isinstance(entry, huggingface_hub.hf_api.RepoFile):
            sha256 = entry.lfs.sha256 if entry.lfs else None
            remote[entry.path] = _RemoteFile(entry.path, entry.size, sha256, entry.blob_id)
    if missing := [path for path in wanted if path not in remote]:
        raise DataError(
            f"the repository {name} has no file {missing[0]}; it was changed or moved, name "
            "another one (",
            NamedOption("repo"),
            ")",
        )
    return _Repository(name, kind, revision, remote)


def _stream_documents(
    name: str, config: str | None, split: str, state: State | None
) -> Iterator[tuple[str, Callable[[], State]]]:
    """(text, function that returns the state after it) of each document of a data set, in order.

    Streamed: only the part being read is fetched. `state` continues after the document that it
    belongs to; it is computed only on request, since that takes longer than a short document.
    `name` may be a local folder. Raises DataError.
    """
    require("datasets")
    import datasets

    if not Path(name).is_dir():
        import huggingface_hub

        with network(name), quiet("huggingface_hub"):
            # Asked once: `load_dataset` tries for minutes where there is no network.
            huggingface_hub.HfApi().dataset_info(name)
    with network(name):
        stream = datasets.load_dataset(name, config, split=split, streaming=True)
        if state is not None:
            stream.load_state_dict(state)
        for row in stream:
            if "text" not in row:
                raise DataError(f"the data set {name} has no column `text`, but {', '.join(row)}")
            yield row["text"], stream.state_dict

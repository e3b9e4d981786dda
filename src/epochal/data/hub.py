"""The Hugging Face hub, as far as data is concerned: files with their sums, documents in order.

All calls of `huggingface_hub` and `datasets` are here. Both are optional and imported late.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal.data.tokenizer import quiet, reason
from epochal.errors import DataError

State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository, and what tells whether a copy is whole."""

    name: str
    bytes: int
    sha256: str | None
    """Of large files, which the hub keeps by it."""
    git_sha1: str
    """Of small ones: SHA-1 of git's blob."""

    def fits(self, path: Path) -> bool:
        """Whether the file at `path` is this one, by size and sum."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        with path.open("rb") as file:
            if self.sha256 is not None:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
            header = f"blob {self.bytes}\0".encode()
            return hashlib.sha1(header + file.read()).hexdigest() == self.git_sha1


@dataclass(frozen=True, slots=True)
class Repository:
    """Files of a repository at one commit."""

    name: str
    kind: str
    """dataset or model."""
    revision: str
    files: dict[str, RemoteFile]

    def fetch(self, name: str, folder: Path) -> Path:
        """Bring a file to `folder`, going on with a copy that was broken off, and check it.

        Raises DataError if it cannot be had or its sum is wrong twice.
        """
        import huggingface_hub

        wanted = self.files[name]
        for force in (False, True):
            with _network(self.name), quiet("huggingface_hub"):
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
            if wanted.fits(path):
                return path
        raise DataError(
            f"{name} of {self.name} came with another content than the hub lists; try again later"
        )


def repository(name: str, kind: str, wanted: tuple[str, ...]) -> Repository:
    """The repository's current commit and its files `wanted`. Raises DataError."""
    require("huggingface_hub")
    import huggingface_hub

    api = huggingface_hub.HfApi()
    with _network(name), quiet("huggingface_hub"):
        info = api.dataset_info(name) if kind == "dataset" else api.model_info(name)
        revision = str(info.sha)
        found = api.get_paths_info(name, list(wanted), repo_type=kind, revision=revision)
    files = {}
    for one in found:
        if isinstance(one, huggingface_hub.hf_api.RepoFile):
            sha256 = one.lfs.sha256 if one.lfs else None
            files[one.path] = RemoteFile(one.path, one.size, sha256, one.blob_id)
    if missing := [one for one in wanted if one not in files]:
        raise DataError(
            f"the repository {name} has no file {missing[0]}; it was changed or moved, name "
            "another one with --repo"
        )
    return Repository(name, kind, revision, files)


def documents(
    name: str, config: str | None, split: str, state: State | None
) -> Iterator[tuple[str, Callable[[], State]]]:
    """(text, what tells the state after it) of each document of a data set, in its own order.

    Streamed: nothing but the part being read is fetched. `state` goes on after the document
    that it came with; it is asked for only where it is wanted, since it takes longer than a
    short document. `name` may be a local folder. Raises DataError.
    """
    require("datasets")
    import datasets

    with _network(name):
        stream = datasets.load_dataset(name, config, split=split, streaming=True)
        if state is not None:
            stream.load_state_dict(state)
        for row in stream:
            if "text" not in row:
                raise DataError(f"the data set {name} has no column `text`, but {', '.join(row)}")
            yield row["text"], stream.state_dict


def require(library: str) -> None:
    """Raise DataError, with what to type, if `library` is not installed."""
    import importlib.util

    if importlib.util.find_spec(library) is None:
        raise DataError(
            f"downloading needs {library}, which is not installed: run `pip install 'epochal[hub]'`"
        )


@contextmanager
def _network(name: str) -> Iterator[None]:
    """What goes wrong on the way → DataError. The libraries raise many kinds of errors."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} could not be reached ({reason(error)})") from error

"""Data sets of the Hugging Face hub as inputs: files read where they are, at one commit."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from epochal.data.tokenizer_sources import quiet, reason
from epochal.errors import DataError, not_installed

HUB = "hf://"
_URL = re.compile(r"hf://(?:datasets/)?([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")
_BLOCK = 1 << 23  # bytes fetched at a time
_ASKED = 500  # paths that one request asks for


def require(library: str) -> None:
    """Raise DataError, with what to type, if `library` is not installed."""
    if importlib.util.find_spec(library) is None:
        raise DataError(not_installed("the hub needs", library, "hub"))


@contextmanager
def network(name: str) -> Iterator[None]:
    """Any error on the way → DataError. The libraries raise many kinds."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} could not be reached ({reason(error)})") from error


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a data set at one commit; used like a Path that is only read."""

    url: str
    """hf://OWNER/NAME@COMMIT/PATH."""
    size: int
    """Bytes."""
    sha256: str | None
    """As the hub lists it; it does so for large files only."""

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.url.rpartition("/")[2]

    def open(self, mode: str, buffering: int = -1) -> io.RawIOBase:
        """Its content as bytes, unbuffered; `mode` and `buffering` are those of Path.open."""
        import huggingface_hub

        with network(self.url), quiet("huggingface_hub"):
            place = "datasets/" + self.url.removeprefix(HUB)
            return _Remote(
                huggingface_hub.HfFileSystem().open(place, mode, block_size=_BLOCK), self.url
            )


class _Remote(io.RawIOBase):
    """A file of the hub whose faults are those of the network."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with network(self._url), quiet("huggingface_hub"):  # it would log each try
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def hub_files(url: str) -> list[HubFile]:
    """The files of `hf://OWNER/NAME[@REVISION][/PATH]`, in order.

    PATH is a file or a folder of the repository, else [CONFIGURATION/]SPLIT of the data set (the
    split `train` if it is left out). Without a revision it is the current commit of `main`. Raises
    DataError for what is not there, and with what to do where there is no network.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise DataError(
            f"{url} names no data set of the hub; write hf://OWNER/NAME, hf://OWNER/NAME/PATH or "
            "hf://OWNER/NAME@REVISION/CONFIGURATION/SPLIT"
        )
    name, revision, path = found[1], found[2], (found[3] or "").strip("/")
    require("huggingface_hub")
    import huggingface_hub

    with network(name), quiet("huggingface_hub"):
        api = huggingface_hub.HfApi()
        commit = str(api.dataset_info(name, revision=revision).sha)
        listed = _entries(api, name, commit, [path] if path else [])
    if not listed:
        paths = _files_of_split(name, commit, path)
        with network(name):
            listed = _entries(api, name, commit, paths)
    return [
        HubFile(f"{HUB}{name}@{commit}/{one.path}", one.size, one.lfs and one.lfs.sha256)
        for one in listed
    ]


def _entries(api: Any, name: str, commit: str, paths: list[str]) -> list[Any]:
    """The files at `paths` in their order, those of folders by name; what is not there is not."""
    where = {"repo_type": "dataset", "revision": commit}
    found: dict[str, Any] = {}
    for first in range(0, len(paths), _ASKED):
        listed = api.get_paths_info(name, paths[first : first + _ASKED], **where)
        found |= {entry.path: entry for entry in listed}
    entries = [found[path] for path in paths if path in found]
    if len(entries) == 1 and not hasattr(entries[0], "size"):  # a folder
        inside = api.list_repo_tree(name, paths[0], recursive=True, **where)
        entries = sorted(
            (entry for entry in inside if hasattr(entry, "size")), key=lambda entry: entry.path
        )
    return entries


def _files_of_split(name: str, commit: str, path: str) -> list[str]:
    """The data files of `path`, which is [configuration/]split."""
    require("datasets")
    import datasets

    config, _, split = path.rpartition("/")
    with network(f"{name}/{path}" if path else name):
        if path and path in datasets.get_dataset_config_names(name, revision=commit):
            config, split = path, ""
        builder = datasets.load_dataset_builder(name, config or None, revision=commit)
    splits = {str(split): files for split, files in (builder.config.data_files or {}).items()}
    if (split := split or "train") not in splits:
        raise DataError(
            f"the data set {name} has neither a file nor a split {path or split!r}; its splits are "
            f"{', '.join(splits) or 'not known'}"
        )
    return [file.partition(f"@{commit}/")[2] for file in map(str, splits[split])]

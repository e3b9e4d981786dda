"""Checkpoints of runs on many processes: each writes its part, in the background.

    checkpoints/last-00000120/shards/   what torch.distributed.checkpoint writes
                              state.json, manifest.json

The tensors are copied to host memory; then training continues while a thread writes them with a
process group of its own (on the run's own group the exchanges of both got mixed up). The
folder has a temporary name until every part and the SHA-256 sums of all are on the disk.

A tensor has one name and its full shape, whoever holds the parts, so any number of processes
reads it with any sharding, and one process without a process group.
"""

from __future__ import annotations

import pickle
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from epochal import files
from epochal.errors import CheckpointError, StorageError
from epochal.runs.checkpoints import SHARDS
from epochal.training.parallel.world import World


class Pending:
    """A checkpoint that is being written."""

    def __init__(self, target: Path, written: Future[Any], commit: Callable[[], None]) -> None:
        self._target, self._written, self._commit = target, written, commit
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._finish, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether writing is known to have failed."""
        return self._error is not None

    def wait(self) -> None:
        """Return when it is complete. Raises StorageError if it could not be written."""
        self._thread.join()
        if self._error is not None:
            raise _storage_error(self._target, self._error) from self._error

    def _finish(self) -> None:
        try:
            self._written.result()
            self._commit()
        except BaseException as error:
            self._error = error


def begin(
    target: Path,
    temporary: Path,
    tensors: Mapping[str, Tensor],
    world: World,
    commit: Callable[[], None],
) -> Pending:
    """Start to write `tensors` into `temporary`; rank 0 calls `commit` when all parts are on the
    disk. Called by all processes together."""

    def make() -> None:
        with files.storage_errors(target):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

    world.run_on_rank_zero(make)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own use of deprecated parts of torch
        written = async_save(
            dict(tensors),
            storage_writer=_Writer(temporary / SHARDS, sync_files=True),
            process_group=world.saver,
        )
    if not isinstance(written, Future):
        raise TypeError(f"async_save gave {type(written)}")
    return Pending(target, written, commit if world.main else lambda: None)


def read(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read the checkpoint's parts into `tensors`, which may be sharded in any way. Raises
    CheckpointError for a damaged one."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Each process reads what it needs, so no exchange is needed.
            load(dict(tensors), storage_reader=_Reader(path / SHARDS), no_dist=True)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise CheckpointError(f"cannot read {path}: {_cause(error)}") from None


def saved_shapes(path: Path) -> dict[str, list[int]]:
    """Name → shape of the tensors in a checkpoint. Raises CheckpointError for a damaged one."""
    try:
        saved = _Reader(path / SHARDS).read_metadata().state_dict_metadata
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read {path}: {_cause(error)}") from None
    return {name: list(tensor.size) for name, tensor in saved.items() if hasattr(tensor, "size")}


def _root(error: BaseException) -> BaseException:
    """The error behind those that torch wraps around it."""
    while isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return error


def _cause(error: BaseException) -> str:
    root = _root(error)
    return (str(root).splitlines() or [type(root).__name__])[0]


def _storage_error(target: Path, error: BaseException) -> StorageError:
    root = _root(error)
    if isinstance(root, StorageError):
        return root
    try:
        with files.storage_errors(target):
            raise root
    except StorageError as known:
        return known
    except BaseException:
        return StorageError(f"cannot write {target}: {_cause(root)}")


class _Writer(FileSystemWriter):
    """A writer that raises the operating system's error.

    Where a disk is full, closing torch's own archive fails, too, and hides the reason.
    """

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        """Write this process's part. Raises OSError."""
        try:
            return super().write_data(*args, **kwargs)
        except RuntimeError as error:
            reason: BaseException | None = error
            while reason is not None and not isinstance(reason, OSError):
                reason = reason.__cause__ or reason.__context__
            raise reason or error from None


class _Reader(FileSystemReader):
    """A reader that runs no code from the file, whose table of contents is a pickle."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Contents(file).load()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Contents(pickle.Unpickler):
    """Loads only the classes that a table of contents is made of."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of that name. Raises UnpicklingError for anything else."""
        if not any(re.fullmatch(pattern, f"{module}.{name}") for pattern in _ALLOWED):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return super().find_class(module, name)


_ALLOWED = (
    r"torch\.distributed\.checkpoint\.metadata\.\w+(\.\w+)?",
    r"torch\.distributed\.checkpoint\.filesystem\._StorageInfo",
    r"torch\.serialization\._get_layout",
    r"torch\.(Size|float16|bfloat16|float32|float64|int32|int64)",
    r"pathlib\.(PosixPath|WindowsPath|Path)",
    r"collections\.OrderedDict",
)

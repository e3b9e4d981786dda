"""A torch.save file from a stranger → plain values and tensors, without running their code.

A pickle is a program: it may name any function and call it. Here a name never leads to an
import. A few harmless ones (ordered dictionaries, argparse's namespace, tensors and their
types) have replacements of our own; every other name becomes an inert `StandIn` that
remembers how it was called. So the arguments of a training run can be read where neither
Megatron nor DeepSpeed is installed, and a malicious file does nothing.

Only the zip form that torch.save has written since version 1.6 is read.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from epochal.errors import CheckpointError

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Namespace:
    """Stands for argparse.Namespace: named values."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})


class StandIn:
    """Stands for whatever else a pickle names; keeps what it was given and does nothing."""

    name = ""
    """Module and name in the pickle."""

    def __init__(self, *given: object, **named: object) -> None:
        self.given = given
        self.named = named
        self.state: object = None
        self.items: list[object] = []

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))

    def append(self, value: object) -> None:
        """Keep an item of a list-like object."""
        self.items.append(value)

    def extend(self, values: list[object]) -> None:
        """Keep items of a list-like object."""
        self.items.extend(values)

    def add(self, value: object) -> None:
        """Keep an item of a set-like object."""
        self.items.append(value)


def read_pickle(path: Path) -> Any:
    """What torch.save put into `path`, with every unknown object replaced by a `StandIn`.

    Raises CheckpointError if the file is missing, truncated or not of torch.save.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = [
                n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")
            ]
            folder = name.removesuffix("data.pkl")
            with archive.open(name) as file:
                return _Reader(file, archive, folder).load()
    except FileNotFoundError:
        raise CheckpointError(f"the file {path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is truncated or was not written by torch.save ({error}); copy it again"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); copy it again"
        ) from error


class _Reader(pickle.Unpickler):
    """An unpickler in which names lead to the stand-ins above and to nothing else."""

    def __init__(self, file: BinaryIO | Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; nothing is ever imported."""
        if module in ("builtins", "__builtin__") and name == "set":
            return set
        if module in ("builtins", "__builtin__") and name == "frozenset":
            return frozenset
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("argparse", "Namespace"):
            # A class of its own for each file, so that no file can change another's.
            return type("Namespace", (Namespace,), {})
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch", "Size")):
            return _rebuild if name == "_rebuild_tensor_v2" else tuple
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        return type("StandIn", (StandIn,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat tensor of a storage: ("storage", type, key, device, elements)."""
        _, dtype, key, _, elements = pid
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"a tensor of the unknown type {dtype}")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = (
                torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage) < int(elements):
            raise ValueError(f"data/{key} has {len(storage)} elements instead of {elements}")
        return storage


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_more: object
) -> Tensor:
    """A tensor over a storage, as torch rebuilds it; torch refuses one that goes beyond it."""
    return torch.as_strided(storage, size, stride, offset)


def _first(value: object, *_more: object) -> object:
    """A parameter is its tensor."""
    return value

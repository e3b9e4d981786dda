"""What this machine has for Epochal, measured where that takes a moment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from epochal._version import __version__
from epochal.data.parallel import cores
from epochal.device import Machine, find_device, free_memory, has_compiler
from epochal.errors import OptionError, StorageError
from epochal.files import write_bytes
from epochal.training.threads import restored_threads

_PRODUCT = 512
"""Rows and columns of the matrices whose product is timed."""
_WRITTEN = 32 * 2**20
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)""")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """Versions, speeds and sizes of this machine."""

    epochal: str
    python: str
    torch: str
    system: str
    cores: int
    """CPU cores that this process may use."""
    load: float | None
    """Processes that wanted a core over the last minute, on average; None on Windows."""
    flops: dict[str, float]
    """"1 thread", "N threads" and "bf16" → FLOP/s of a matrix product of 512 × 512."""
    compiler: bool
    """Whether torch.compile finds a C++ compiler."""
    device: str
    """What a run takes: a GPU's name, mps or CPU."""
    gpus: dict[str, int]
    """Name of each GPU → bytes of memory."""
    memory: int | None
    """Bytes of memory that are free; None where the system does not say."""
    disk: int
    """Bytes that are free in the folder."""
    written: float | None
    """Bytes a second of a file that is written there safely; None if it cannot be written."""
    missing: dict[str, list[str]]
    """Extra → its packages that are not installed, where there are any."""


def doctor(folder: str | Path = ".") -> Doctor:
    """Look at the machine; `folder` is where runs would go. Takes a second or a few.

    Raises OptionError where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise OptionError("folder", folder, "no such folder; make it, or give one that exists")
    device = find_device()
    gpus = {
        f"{number}: {torch.cuda.get_device_name(number)}": int(
            torch.cuda.get_device_properties(number).total_memory
        )
        for number in range(torch.cuda.device_count())
    }
    return Doctor(
        epochal=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
        cores=cores(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        flops=_flops(),
        compiler=has_compiler(),
        device=torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        gpus=gpus,
        memory=free_memory(torch.device("cpu")),
        disk=shutil.disk_usage(folder).free,
        written=_written(Path(folder)),
        missing=_missing(),
    )


def _flops() -> dict[str, float]:
    """Of one thread, of all, and of all in bf16."""
    cpu, every = torch.device("cpu"), cores()
    measured = (("1 thread", 1, False), (f"{every} threads", every, False), ("bf16", every, True))
    found = {}
    with restored_threads():
        for name, threads, bf16 in measured:
            torch.set_num_threads(threads)
            found[name] = Machine(cpu, bf16, compiled=False).product_flops(_PRODUCT)
    return found


def _written(folder: Path) -> float | None:
    try:
        with TemporaryDirectory(dir=folder, prefix=".epochal-") as place:
            began = time.perf_counter()
            write_bytes(Path(place) / "written", bytes(_WRITTEN))
            return _WRITTEN / (time.perf_counter() - began)
    except (OSError, StorageError):
        return None


def _missing() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("epochal") or []:
        extra, name = _EXTRA.search(line), _NAME.match(line)
        if extra is None or name is None or name[0] == "epochal" or extra[1] in ("dev", "docs"):
            continue
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            packages = found.setdefault(extra[1], [])
            if name[0] not in packages:
                packages.append(name[0])
    return found

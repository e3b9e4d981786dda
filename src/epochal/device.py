"""Device, precision and compilation of a run, peak FLOP/s and peak memory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from epochal.errors import RecipeError
from epochal.progress import say_once
from epochal.recipe.schema import Train
from epochal.sizes import find_gpu

_COMPILERS = {
    "cpu": "C++ compiler (g++ or clang++)",
    "cuda": "C compiler (gcc or clang)",
}
_MEMORY, _CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_CPU_PRODUCT = 1024
"""Rows of the matrices whose product on a CPU is timed."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Device of a run, and how it computes there."""

    device: torch.device
    bf16: bool
    compiled: bool

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 autocast, or nothing in fp32."""
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @property
    def precision(self) -> str:
        """bf16 or fp32."""
        return "bf16" if self.bf16 else "fp32"

    @property
    def title(self) -> str:
        """Name of the device, for the run record."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        if self.device.type == "cpu":
            return f"CPU, {torch.get_num_threads()} threads"
        return str(self.device)

    def peak_memory(self) -> int | None:
        """Bytes: peak memory of this process, on the GPU or else in host memory.

        None where the system does not report it.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii")
        except OSError:
            return None
        lines = dict(line.split(":", 1) for line in status.splitlines())
        return 1024 * int(lines["VmHWM"].split()[0]) if "VmHWM" in lines else None

    def peak_flops(self) -> tuple[float, str]:
        """Peak FLOP/s for MFU, and its source ("data sheet" or "measured").

        For a device that is not in the table, and for a CPU, one matrix product in the run's
        precision is timed.
        """
        if self.device.type == "cuda" and self.bf16 and (gpu := find_gpu(self.title)):
            return gpu.peak, "data sheet"
        return self.product_flops(_CPU_PRODUCT if self.device.type == "cpu" else 8192), "measured"

    def product_flops(self, size: int) -> float:
        """FLOP/s of a product of two matrices of `size` rows and columns.

        The best of five, of fewer where they would take longer than half a second.
        """
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        a = torch.ones(size, size, dtype=dtype, device=self.device)
        best, left = float("inf"), 0.5
        for _ in range(5):
            start = time.perf_counter()
            product = a @ a
            product[0, 0].item()  # waits for the device
            took = time.perf_counter() - start
            best, left = min(best, took), left - took
            if left < 0:
                break
        return 2 * size**3 / best


def find_machine(settings: Train) -> Machine:
    """The machine for `train.device`, `train.precision` and `train.compile`.

    Raises RecipeError for a device that does not exist, and for compiling without a compiler.
    """
    # On Linux a CPU run spends a tenth of its time on page faults of newly allocated tensors; huge
    # pages avoid most of that. Torch reads the variable once, at the process's first allocation on
    # the CPU, so this comes too late where the caller has made a tensor before.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    device = find_device(settings.device)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and _has_bf16(device))
    if settings.compile == "on" and device.type != "mps" and not has_compiler(device.type):
        raise RecipeError(
            f'`train.compile` = "on" needs a {_COMPILERS[device.type]} on this machine; '
            'install one or set train.compile="off"'
        )
    compiled = settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda")
    if compiled and not has_compiler(device.type):
        say_once(f"there is no {_COMPILERS[device.type]}: steps are not compiled, and slower")
        compiled = False
    return Machine(device=device, bf16=bf16, compiled=compiled)


def _has_bf16(device: torch.device) -> bool:
    """Whether it is a GPU that computes in bf16 itself; others imitate it slowly."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def find_device(name: str = "auto") -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` → a device that works, or RecipeError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise RecipeError(
            f'the device "{name}" (`train.device`) cannot be used: {first}; "auto" takes one that '
            "exists"
        ) from None
    return device


def has_compiler(kind: str = "cpu") -> bool:
    """Whether torch.compile finds what it needs for a `cpu` (C++) or `cuda` (C, by Triton)."""
    variable, *names = ("CC", "gcc", "clang") if kind == "cuda" else ("CXX", "g++", "clang++")
    return bool(os.environ.get(variable) or any(map(shutil.which, names)))


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, or in host memory within the limit of a container; None where
    the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [1024 * int(line.split()[1]) for line in _lines(_MEMORY) if "MemAvailable:" in line]
    limit, used = _lines(_CONTAINER / "memory.max"), _lines(_CONTAINER / "memory.current")
    if found and limit and used and limit[0].isdigit():
        found.append(int(limit[0]) - int(used[0]))
    return min(found, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Use only deterministic kernels inside the block, if `wanted`."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)

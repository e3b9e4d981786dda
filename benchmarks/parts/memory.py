"""Peak memory of a training step, each variant in a process of its own.

On a CPU: the most resident memory during later steps, less what Python, torch and the
compiler had before the model was built. So weights, gradients, moments, activations and
logits count, and the libraries do not. On CUDA: torch's own count of allocated memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from epochal import progress
from epochal.errors import UserError
from parts.options import Options, Setting
from parts.steps import compilable, make_step, variants
from parts.timing import Row

_MEGABYTE = 1e6
_STEPS = 3


def measure(options: Options) -> list[Row]:
    """Peak memory of each variant, and ours as a share of the peer's."""
    if not can_measure():
        progress.say("this system does not report the peak memory of a process")
        return []
    setting, peak = compilable(options.setting), {}
    for name in variants():
        progress.say(f"peak memory: {name}")
        peak[name] = peak_memory(name, setting)
    rows = [Row("memory", name, mb, "MB", mb, mb) for name, mb in peak.items()]
    for ours, peer in (("ours ar", "nanogpt-style"), ("ours mdm", "smdm-style")):
        share = peak[ours] / peak[peer]
        rows.append(Row("memory", f"{ours} of {peer}", share, "×", share, share))
    return rows


def peak_memory(name: str, setting: Setting) -> float:
    """Peak of the variant `name` in MB. Raises UserError if measuring fails."""
    command = [sys.executable, "-m", "parts.memory", name, json.dumps(asdict(setting))]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"measuring the memory of {name} failed: {last}")
    return float(done.stdout.split()[-1])


def can_measure() -> bool:
    """Whether this system reports the peak: CUDA and Linux do."""
    return torch.cuda.is_available() or Path("/proc/self/clear_refs").exists()


def _measure(name: str, setting: Setting) -> float:
    cuda = torch.cuda.is_available()
    if setting.compiled:  # the compiler's own memory is not the step's
        small = torch.compile(lambda x: (x * 2).relu().sum())
        small(torch.ones(8, 8, requires_grad=True)).backward()
    before = _status("VmRSS")
    step = make_step(name, setting)
    for number in range(_STEPS):
        step(number)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        # Compiling has its own peak, in the first step; this forgets it.
        Path("/proc/self/clear_refs").write_text("5")
    for number in range(_STEPS, 2 * _STEPS):
        step(number)
    if cuda:
        return torch.cuda.max_memory_allocated() / _MEGABYTE
    return _status("VmHWM") - before


def _status(key: str) -> float:
    """A line of the kernel's report on this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * float(line.split()[1]) / _MEGABYTE
    raise KeyError(key)


if __name__ == "__main__":
    sys.stdout.write(f"{_measure(sys.argv[1], Setting(**json.loads(sys.argv[2])))}\n")

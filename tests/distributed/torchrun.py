"""Starting processes with torchrun, as users do, or without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from processes import together

HERE = Path(__file__).parent


def command(processes, *arguments, restarts=0):
    """torchrun on this machine, on a free port."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "--max-restarts", str(restarts)),
        *arguments,
    ]


def run(processes, *arguments, restarts=0, timeout=400, path=""):
    """Run to the end; returns what subprocess.run does."""
    before = os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        command(processes, *arguments, restarts=restarts),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{path}:{before}".strip(":")},
    )


def many(processes, jobs, folder):
    """Train `jobs`, a list of overrides, one after the other in the same processes; what they said
    to standard error."""
    file = folder / f"jobs-{processes}.json"
    file.write_text(json.dumps(jobs))
    _, said = together(processes, ["python", str(HERE / "many_runs.py"), str(file)], folder)
    return said

"""Runs of many processes, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

from processes import together


def many(processes, jobs, folder):
    """Train `jobs`, a list of overrides, one after the other in the same processes; what they said
    to standard error."""
    file = folder / f"jobs-{processes}.json"
    file.write_text(json.dumps(jobs))
    _, said = together(
        processes, ["python", str(Path(__file__).with_name("many_runs.py")), str(file)], folder
    )
    return said

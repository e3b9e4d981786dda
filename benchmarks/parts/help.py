"""`epochal --help` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from parts.options import Options
from parts.timing import Row, take_turns, time_rows


def measure(options: Options) -> list[Row]:
    """Its time."""

    def work() -> None:
        command = [sys.executable, "-m", "epochal", "--help"]
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))

    return time_rows("help", take_turns("help", {"epochal --help": work}, options.rounds))

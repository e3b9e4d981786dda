"""A trace of a few steps, for `chrome://tracing` or Perfetto, and a table of what took longest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from epochal import files
from epochal.progress import say
from epochal.training.step import Stepper, StepResult

WARM = 3
"""Steps before the trace, so that compiling and first allocations are not in it."""
RECORDED = 3


class ProfiledStepper(Stepper):
    """A stepper that records steps WARM to WARM + RECORDED of this session.

    The steps themselves are the same, bit for bit.
    """

    folder: Path
    """Folder of `trace-step-N.json.gz` and `table-step-N.txt`."""
    _made = 0
    _trace: Any = None

    def __call__(self, step: int, lr: float) -> StepResult:
        """Make step number `step`, and record it if its turn has come."""
        if self._made == WARM:
            kinds = [ProfilerActivity.CPU]
            kinds += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._trace = profile(activities=kinds, profile_memory=True, record_shapes=True)
            self._trace.__enter__()
        self._made += 1
        try:
            result = super().__call__(step, lr)
        except BaseException:
            self._stop()
            raise
        if self._made == WARM + RECORDED:
            self._write(step)
        return result

    def report(self) -> None:
        """At the end of a session, print whether it was too short for a trace."""
        if self._made < WARM + RECORDED:
            say(f"no trace: it takes {WARM + RECORDED} steps, but only {self._made} were made")

    def _stop(self) -> Any:
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.__exit__(None, None, None)
        return trace

    def _write(self, step: int) -> None:
        trace = self._stop()
        path = self.folder / f"trace-step-{step - RECORDED + 1}.json.gz"
        with files.storage_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(str(path))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = trace.key_averages().table(sort_by=by, row_limit=30)
        files.write_text(path.with_name(f"table-step-{step - RECORDED + 1}.txt"), table)
        say(f"a trace of {RECORDED} steps is in {path}")

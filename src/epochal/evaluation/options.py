"""Options of `eval`, checked before torch is imported, so that a wrong one is refused at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from epochal.errors import OptionError, UserError
from epochal.generation.config import Order, SamplingOptions
from epochal.options import option
from epochal.runs import RunRecord, parse_run_checkpoint
from epochal.units import parse_counts

Estimator = Literal["stratified", "paper", "masked"]


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How runs are scored. Raises OptionError for draws, a tolerance or an estimator that make no
    sense, UserError for both of the first."""

    checkpoint: str | None = option(None, metavar="NAME")
    """best, last, ema or a step.  [default: best]"""
    draws: int | None = None
    """Mask draws per row where the NLL is a bound.  [default: 8; 32 for the paper's]"""
    tolerance: float | None = option(None, metavar="NATS")
    """Make as many draws as bring the error from them down to this, for example 0.01."""
    estimator: Estimator = "stratified"
    """paper: the original's (independent noise, 32 draws, windows of L+1 tokens). masked: the
    bound over random orders, also of a family whose NLL is exact, if it learns them (dual,
    anyorder)."""
    corpus: Path | None = None
    """Another corpus folder, prepared with the same tokenizer; the result is not stored."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        draws, tolerance = self.draws, self.tolerance
        if self.estimator not in get_args(Estimator):
            known = " or ".join(get_args(Estimator))
            raise OptionError("estimator", self.estimator, f"it is not {known}")
        if draws is not None and tolerance is not None:
            raise UserError("give either the number of draws or the tolerance, not both")
        if draws is not None and draws < 2:
            raise OptionError(
                "draws",
                draws,
                "at least 2 are needed, since the error bar comes from comparing them",
            )
        if tolerance is not None and not 0 < tolerance < math.inf:
            raise OptionError("tolerance", tolerance, "give a positive number of nats per token")


def check_runs(runs: Sequence[str | Path]) -> None:
    """Raise RunError for a path that is not a run; `RUN@CHECKPOINT` is one, too."""
    for run in runs:
        RunRecord(parse_run_checkpoint(str(run))[0])


@dataclass(frozen=True, kw_only=True)
class QualityOptions(SamplingOptions):
    """Which texts are written and judged."""

    steps: tuple[int, ...] | None = option(None, metavar="N,N,…", parse=parse_counts)
    """MDM: forward passes per text.  [default: powers of two up to the tokens]"""
    order: Order | None = None
    """MDM: order in which tokens are unmasked.  [default: confidence]"""
    tokens: int | None = None
    """Tokens per text, at most.  [default: up to 64]"""
    samples: int = 64
    """Texts per number of steps."""
    checkpoint: str | None = option(None, metavar="NAME")
    """best, last, ema or a step.  [default: best]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

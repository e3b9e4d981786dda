"""Options of `study`. Light, so that the command line's help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.errors import OptionError
from epochal.families import named_families
from epochal.options import option
from epochal.units import parse_number, parse_seconds

LEAST_BUDGET = 120.0
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How long a study may take, and what it plans for."""

    budget: float = option(1200.0, metavar="TIME", parse=parse_seconds)
    """Wall time over all sessions: 20min, 2h, 600s; in Python seconds."""
    out: Path = Path("study")
    """Folder for everything that is made."""
    families: tuple[str, ...] = option((), metavar="LIST|all", parse=named_families)
    """Two families or more, as ar,dual; those trained by default if not given."""
    flops: float | None = option(None, metavar="C", parse=parse_number)
    """Compute to plan for.  [default: that of the check]"""
    jobs: int | None = None
    """Runs at a time.  [default: 2 on a CPU, one per GPU]"""
    tokenizer: str | None = None
    """Tokenizer, as for data prepare.  [default: bpe, larger for larger texts]"""
    effective: bool = False
    """Take U_effective, the tokens that are not repeated, for the unique tokens of the text and of
    each part of it that is trained on."""

    def __post_init__(self) -> None:
        if not self.budget >= LEAST_BUDGET:
            raise OptionError(
                "budget", f"{self.budget:.0f}s", f"too small; give at least {LEAST_BUDGET:.0f}s"
            )
        if len(set(self.families)) == 1:
            raise OptionError("families", self.families[0], "give two or more, or leave it out")
        if self.jobs is not None and self.jobs < 1:
            raise OptionError("jobs", self.jobs, "should be at least 1")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How families are compared."""

    out: Path | None = None
    """Folder for the runs; runs/<recipe's name> if not given."""
    families: tuple[str, ...] = option(
        (), metavar="LIST|all", parse=named_families, renamed=["--family"]
    )
    """Families to train, as ar,dual; those trained by default if not given."""
    pairs: Path | None = option(None, metavar="FOLDER")
    """Score each family on the minimal pairs there, in the layout of BabyLM's evaluation."""
    draws: int | None = None
    """Mask draws per row where the NLL is a bound; 8 if not given."""
    restart: bool = False
    """Start over; existing runs are renamed to NAME.old-N."""
    jobs: int | None = None
    """Runs at a time on this machine.  [default: one per GPU, else per CPU core, at most 8]"""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise OptionError("jobs", self.jobs, "should be at least 1")

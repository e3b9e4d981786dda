"""Options of `memorise`; no torch, so that the command line can read them at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.errors import OptionError
from epochal.options import option
from epochal.units import parse_count, parse_counts

_LEAST = {"length": 1, "num_prefixes": 1, "max_tokens": 1, "draws": 2, "references": 16}
DRAWS = 8
"""Mask draws if no number is given."""


@dataclass(frozen=True, kw_only=True)
class MemoriseOptions:
    """How much is measured. Raises OptionError for what cannot be measured."""

    out: Path = option(Path("memorise"), metavar="FOLDER")
    """Folder for the plot and the results."""
    prefix_lengths: tuple[int, ...] = option(
        (8, 16, 32), metavar="N,N,…", parse=parse_counts, renamed=["--prefixes"]
    )
    """Tokens of the prefixes from which continuations are generated."""
    length: int = 16
    """Tokens to generate after each prefix."""
    num_prefixes: int = option(200, renamed=["--places"])
    """Prefixes tried in the training text, and in the validation text."""
    max_tokens: int = option(50_000, metavar="N", parse=parse_count)
    """Tokens of each set, at most, for the gap."""
    draws: int | None = None
    """Mask draws per window or secret, where the NLL is a bound.  [default: 8]"""
    canaries: Path | None = option(None, metavar="FILE")
    """Key made by `epochal data canaries`: canaries.json or its folder."""
    references: int = 256
    """Unseen secrets per canary."""
    checkpoints: int | None = option(None, metavar="N")
    """Checkpoints per run, evenly spaced, best and last included.  [default: all]"""
    seed: int = 0
    """Decides the prefixes, the masks and the unseen secrets."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(name, value, f"give at least {least}")
        if not self.prefix_lengths or min(self.prefix_lengths) < 1:
            raise OptionError(
                "prefix_lengths", self.prefix_lengths, "give lengths of at least 1 token"
            )
        if self.checkpoints is not None and self.checkpoints < 2:
            raise OptionError(
                "checkpoints", self.checkpoints, "give at least 2, the best and the last"
            )

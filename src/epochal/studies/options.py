"""Options of the studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.options import option


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How families are compared."""

    out: Path | None = None
    """Folder for the runs; runs/<recipe's name> if not given."""
    families: tuple[str, ...] = option((), flag="--family", metavar="NAME")
    """A family to train, repeatable; all of them if not given."""
    draws: int | None = None
    """Mask draws per row where the NLL is a bound; 8 if not given."""
    restart: bool = False
    """Start over; existing runs are renamed to NAME.old-N."""

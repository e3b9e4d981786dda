"""What a fit returns: laws with intervals, minima, checks, and the runs that were left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from epochal.estimates import Floats
from epochal.results import Note
from epochal.scaling.choose import Choice
from epochal.scaling.extrapolation import HeldOutCheck
from epochal.scaling.intervals import Interval
from epochal.scaling.isoflop import IsoFlop
from epochal.scaling.law import ScalingLaw
from epochal.scaling.law_files import write_laws
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Dropped, Points


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FamilyFit(ScalingLaw):
    """A law fitted to one family's points."""

    objective: float
    """Σ of Huber terms."""
    intervals: dict[str, Interval]
    """95 %; an upper end of None is open, and both None: not identified."""
    constant_status: dict[str, Note]
    """Constants that are fixed, open on one side or not identified."""
    minima: list[dict[str, float]]
    """Every minimum within 1 % of the lowest objective: its constants and `objective`."""
    profiles: dict[str, list[tuple[float, float]]] = field(metadata={"json": False})
    """(value, objective) of half-lives fixed there, all others fitted again."""
    points: Points
    """The points of the fit."""
    predicted: Floats
    """[points], nats per token."""
    residuals: Floats
    """[points], log predicted − log seen."""
    dropped: list[Dropped]
    """Runs that were left out, and why."""
    r2: float
    """R² of the loss; NaN if all losses are the same."""
    condition: float
    """Of the scaled gradient in centred variables: 1 is best, above 1e3 constants trade off."""
    held_out: HeldOutCheck | None
    """None if too few runs are left to fit."""
    tied_exponents: bool
    """Whether beta = alpha."""
    fixed: list[str]
    """Constants that were not fitted."""
    isoflop: IsoFlop | None
    """None if no compute budget has three sizes."""
    notes: list[Note]
    """Warnings about the numbers."""
    choice: Choice | None = None
    """Why it is this law, if `law` was "auto"."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitReport:
    """Fits of all families of a set of points."""

    law: str
    """As asked for; with "auto" each family has its own."""
    families: dict[str, FamilyFit]
    """Family → its law; only those that could be fitted."""
    refused: dict[str, str]
    """Families whose points cannot determine the law, and the error."""
    options: FitOptions
    """As given."""
    notes: list[Note] = field(default_factory=list)
    """What to know about the points."""

    def save(self, path: str | Path) -> None:
        """Write the laws, with their resamples, to a .toml or .json file for `epochal plan`.

        Raises UserError for another suffix.
        """
        write_laws(path, list(self.families.values()), self.options)

"""Options of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from epochal.options import option
from epochal.units import parse_number


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What is fitted and planned for the page, and what is written beside it."""

    law: str | None = None
    """Law to fit to families with five runs or more; auto: chosen by its error on held-out runs.
    By default the law of the study in the folder, or data-constrained."""
    flops: float | None = option(None, metavar="COUNT", parse=parse_number)
    """Budget to plan for. By default the largest compute of any run."""
    figures: tuple[Literal["pdf", "svg", "png"], ...] = option((), metavar="FORMAT")
    """Also write each figure in this format (pdf, svg or png), and its numbers as CSV, into a
    folder beside the page; can be repeated."""

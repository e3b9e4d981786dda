"""Options of `epochal.fit` and `epochal.plan`; the commands' options are made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from epochal.errors import OptionError
from epochal.options import option

At = Literal["final", "best"]
Residual = Literal["log", "loss"]

HUBER_DELTA = 1e-3
"""δ of Hoffmann et al. 2022, kept by all later fits."""
OVERFIT_SHARE = 0.03
"""A run counts as overfitted if its loss is higher by this share than that of a shorter run with
the same size and tokens."""


def _law_names() -> tuple[str, ...]:
    """What `law` may be: "auto", or a form's name."""
    from epochal.scaling.forms import FORMS  # not at the top: options are read without numpy

    return ("auto", *FORMS)


def check_law(law: str) -> str:
    """`law` itself. Raises OptionError that lists what it may be."""
    if law not in _law_names():
        raise OptionError("law", law, f"unknown law; choose one of {', '.join(_law_names())}")
    return law


LIMIT_LAWS = ("tuned-size", "ensemble")
"""Laws in one thing that grows, the rest at its best: limits.py."""


def _fit_names() -> tuple[str, ...]:
    return (*_law_names(), *LIMIT_LAWS)


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How points are read and a law is fitted to them."""

    law: str = option("data-constrained", choices=_fit_names)
    """Form of the law; auto chooses one per family by its error on held-out runs. tuned-size and
    ensemble: the loss in N of each size's best run, in the number of an ensemble's members."""
    fix: str | Path | Mapping[str, Any] | None = option(None, metavar="FILE", renamed=["--hold"])
    """TOML or JSON file with constants that are not fitted."""
    two_stage: bool = False
    """Fit A, B, E and the exponents to runs of up to 2.5 epochs, fix them, then fit the rest."""
    tie_exponents: bool = option(False, renamed=["--tie"])
    """One exponent: beta = alpha."""
    share_floor: bool = False
    """One E for all families, and whether the runs support that."""
    at: At = "final"
    """Evaluation of a run that is its point (run folders only)."""
    keep_overfitted: bool = False
    """Fit overfitted runs even if the law is monotone in epochs."""
    all_settings: bool = False
    """Keep runs with every dropout, weight decay, …, not only the best at each point."""
    overfit_threshold: float = option(OVERFIT_SHARE, renamed=["--rise"])
    """Share by which the loss of an overfitted run is above that of a shorter one."""
    max_epochs: float | None = None
    """Drop runs with more epochs."""
    huber: float = HUBER_DELTA
    """Huber's delta; inf for least squares."""
    residual: Residual = "log"
    """Fit the logarithm of the loss, or the loss itself."""
    bootstraps: int = 500
    """Resamples for intervals; 0 for none."""
    seed: int = 0
    """Seed of the resamples."""
    columns: Mapping[str, str] = option(
        default_factory=dict, flag="--column", metavar="NAME=COLUMN"
    )
    """The CSV's own name for a column; repeatable."""
    where: Mapping[str, str] = option(default_factory=dict, metavar="COLUMN=TEXT")
    """Only rows of the CSV with that text in that column; repeatable."""
    force: bool = False
    """Fit run folders with several corpora, tokenizers or sequence lengths."""

    def __post_init__(self) -> None:
        if self.law not in LIMIT_LAWS:
            check_law(self.law)
        for name in ("overfit_threshold", "max_epochs", "huber"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(name, value, "give a positive number")
        for name in ("bootstraps", "seed"):
            if (value := getattr(self, name)) < 0:
                raise OptionError(name, value, "give 0 or more")


def _split_sizes(text: str) -> tuple[str, ...]:
    """`44M, 106M` → ("44M", "106M")."""
    return tuple(size.strip() for size in text.split(",") if size.strip())


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The budget in GPU hours, the laws, and what can be trained."""

    gpus: str | None = option(None, metavar="KxGPU")
    """GPUs instead of FLOPs, for example 8xH100."""
    hours: float | None = None
    """Hours on these GPUs."""
    mfu: float | None = None
    """Share of the GPUs' peak that is reached; 0.4 if not given."""
    laws: str | Path | Any = option("paper", metavar="NAME|FILE")
    """paper or paper-grid (AR and MDM), muennighoff (AR), quokka (MDM), or a file of `epochal fit
    --out`."""
    sizes: Sequence[str] = option((), metavar="A,B,…", parse=_split_sizes)
    """Sizes to choose from: names of the ladder or numbers of parameters."""
    corpus: str | Path | None = option(None, metavar="FOLDER")
    """Take the unique tokens and the vocabulary from this corpus."""
    effective: bool = False
    """Plan for the corpus' U_effective, its tokens that are not repeated, measured if need be."""
    vocabulary: int | None = None
    """Vocabulary that parameters are counted with; the laws' if not given."""

    def __post_init__(self) -> None:
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise OptionError("mfu", self.mfu, "give a share above 0, up to 1")
        if self.hours is not None and not self.hours > 0:
            raise OptionError("hours", self.hours, "give a number above 0")
        if self.vocabulary is not None and self.vocabulary < 2:
            raise OptionError("vocabulary", self.vocabulary, "give 2 or more")
        if self.effective and self.corpus is None:
            raise OptionError("effective", True, "it needs a corpus, whose tokens are measured")

"""What `memorise` returns: the gap, verbatim extraction, canary exposure, and advice.

Gap: NLL of the validation set minus that of the training set, nats per token; what a model
knows of its training text beyond the language.

Extraction rate at prefix length k: the share of prefixes of k tokens after which the model
generates the next tokens verbatim. On validation documents the same share is what can be
generated without having seen the text: common phrases, boilerplate, chance.

Exposure of a canary (Carlini et al., arXiv 1802.08232, §4): log₂(m + 1) − log₂(rank) of its
secret's NLL among m secrets that were not put in, in bits. Unseen secrets have log₂ e = 1.44
bits on average, and log₂(m + 1) is the most that m references can show; beyond, it is
−log₂ P(reference ≤ secret) of a skew-normal distribution fitted to the references (§4.3 there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from epochal.results import Note, NoteCode

CHANCE_EXPOSURE = math.log2(math.e)
"""Mean exposure of unseen secrets, bits."""


class ExtractionVerdict(StrEnum):
    """Whether text came back more often than it does without having been seen."""

    NO_CONTROL = "no_control"
    """No validation document is long enough."""
    NOT_ABOVE_CONTROL = "not_above_control"
    NOT_SIGNIFICANT = "not_significant"
    SIGNIFICANT = "significant"
    """By Fisher's exact test, one-sided, 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """How often continuations were generated verbatim, from one prefix length."""

    prefix: int
    train_rate: float
    train_interval: tuple[float, float]
    """Wilson's 95 % interval."""
    validation_rate: float | None
    """None where no validation document is long enough."""
    validation_interval: tuple[float, float] | None
    train_prefixes: int
    validation_prefixes: int
    tokens_before_error: float
    """Mean share of the continuation's tokens, in training text, before the first wrong one."""
    p_value: float | None
    """How often two texts that are equally extractable would differ by as much (Fisher's exact
    test, one-sided); None without a control."""
    verdict: ExtractionVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryExposure:
    """How much better than chance a model knows one canary's secret."""

    canary: int
    seen: int
    """How often the canary occurs in the training tokens: 0 is a control."""
    copies: int = 0
    """How often it was made to be put in."""
    excluded: int = 0
    """How often it occurs in the training store after the run's `data.unique_tokens`."""
    rank: int
    """1 is best, among the references and itself; a reference that ties comes before it."""
    exposure: float
    """By rank, bits."""
    exposure_fitted: float
    """By the fitted distribution, bits."""
    extracted: bool = False
    """The model generates the secret greedily, given the sentence before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesExposure:
    """Canaries that occur about equally often in the training tokens."""

    min_copies: int
    max_copies: int
    canaries: int
    extracted: int
    """How many of them are generated, given the sentence before the secret."""
    mean: float
    """Of the fitted exposures, bits."""
    highest: float


@dataclass(frozen=True, kw_only=True)
class CheckpointResult:
    """What one checkpoint of one run remembers."""

    run: str
    family: str
    step: int
    epochs: float
    train_nll: float
    train_error: float
    """Standard error, as `validation_error`."""
    validation_nll: float
    validation_error: float
    extraction: list[Extraction]
    """One per prefix length, shortest first."""
    canaries: list[CanaryExposure]
    gap: float = field(init=False)
    """NLL of validation minus training, nats per token."""
    gap_error: float = field(init=False)
    extraction_rate: float | None = field(init=False)
    """At the longest prefix; None if none was measured."""
    exposure_by_copies: list[CopiesExposure] = field(init=False)
    """Fewest copies first: never, once, 2 to 3 times, 4 to 7, and so on by powers of two."""
    gives_text_back: bool = field(init=False)
    """At some prefix length significantly more of the training than of the validation text is
    generated verbatim (without a control: any), or a canary in the training text is."""

    def __post_init__(self) -> None:
        derived = {
            "gap": self.validation_nll - self.train_nll,
            "gap_error": math.hypot(self.train_error, self.validation_error),
            "extraction_rate": self.extraction[-1].train_rate if self.extraction else None,
            "exposure_by_copies": _by_copies(self.canaries),
            "gives_text_back": any(canary.extracted and canary.seen for canary in self.canaries)
            or any(
                each.verdict is ExtractionVerdict.SIGNIFICANT
                or (each.verdict is ExtractionVerdict.NO_CONTROL and each.train_rate > 0)
                for each in self.extraction
            ),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtEqualLoss:
    """A run's results where its validation NLL was that of the others."""

    run: str
    family: str
    validation_nll: float
    epochs: float
    gap: float
    extraction_rate: float | None
    exposures: list[tuple[int, int, float]]
    """(fewest copies, most copies, mean exposure in bits), grouped as `exposure_by_copies`."""


class Publish(StrEnum):
    """Which checkpoint of a run may be published if the text is private."""

    BEST = "best"
    """The one of the lowest validation NLL gives no text back."""
    OTHER = "other"
    """The best gives text back, another does not."""
    NONE = "none"
    """All give text back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do about one run."""

    run: str
    publish: Publish
    step: int
    """Of the checkpoint to publish; if none, of the one that gives back least."""
    nll_above_best: float
    """Its validation NLL minus the lowest."""
    unsafe_from_step: int | None
    """First later checkpoint that gives text back."""
    exposure_rises_with_copies: bool
    """By at least `CLEAR_RISE` bits at the last checkpoint."""


class MemorisationNote(NoteCode):
    """Why runs have no results at equal loss."""

    DIFFERENT_CONDITIONS = "different_conditions"
    """`mismatch`: the condition that two runs do not share."""
    NO_CHECKPOINT_ABOVE = "no_checkpoint_above"
    """`run` has no checkpoint up to its best with a validation NLL of `level` or more, the lowest
    that `other` reached; its `highest` is below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation:
    """All that was measured, and what follows from it."""

    checkpoints: list[CheckpointResult]
    at_equal_loss: list[AtEqualLoss]
    """Empty for a single run, and where `not_compared` has a reason."""
    not_compared: Note | None
    advice: list[Advice]
    """One per run."""
    logged_gaps: dict[str, list[tuple[float, float]]]
    """Run → (epochs, gap) from its training log; rougher, but along the whole run."""
    continuation_tokens: int


def _by_copies(canaries: Sequence[CanaryExposure]) -> list[CopiesExposure]:
    groups: dict[int, list[CanaryExposure]] = {}
    for canary in canaries:
        groups.setdefault(canary.seen.bit_length(), []).append(canary)
    return [
        CopiesExposure(
            min_copies=min(canary.seen for canary in group),
            max_copies=max(canary.seen for canary in group),
            canaries=len(group),
            extracted=sum(canary.extracted for canary in group),
            mean=float(np.mean([canary.exposure_fitted for canary in group])),
            highest=max(canary.exposure_fitted for canary in group),
        )
        for _, group in sorted(groups.items())
    ]

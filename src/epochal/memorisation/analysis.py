"""What repeating a text hundreds of times leaves in a model: the figures (`memorised_words` says
what they mean).

Gap: NLL of the validation set minus that of the training set, nats per token; what a model
knows of its training text beyond the language.

Extraction rate at prefix length k: the share of places in a text at which the model, given the
k tokens before, writes the next tokens word for word. On validation documents the same share
is what can be written without having seen the text: common phrases, boilerplate, chance.

Exposure of a canary (Carlini et al., arXiv 1802.08232, §4): log₂(m + 1) − log₂(rank) of its
secret's NLL among m secrets that were not put in, in bits. Unseen secrets have log₂ e = 1.44
bits on average, and log₂(m + 1) is the most that m references can show; beyond, it is
−log₂ P(reference ≤ secret) of a skew-normal distribution fitted to the references (§4.3 there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.data.canaries import DIGITS
from epochal.families import get_family
from epochal.runs import RunRecord

Floats = NDArray[np.float64]

CHANCE_EXPOSURE = math.log2(math.e)
SPACE_BITS = DIGITS * math.log2(10)
"""No secret can be more exposed: then it is known outright."""
CONFIDENCE = 1.96
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """How often continuations came back word for word, from one prefix length."""

    prefix: int
    train: float
    train_interval: tuple[float, float]
    """Wilson's 95 % interval."""
    validation: float | None
    """None where no validation document is long enough."""
    validation_interval: tuple[float, float] | None
    train_places: int
    validation_places: int
    train_tokens: float
    """Mean share of the continuation's tokens that were written before the first wrong one."""

    @property
    def chance(self) -> float:
        """p of Fisher's exact test, one-sided: how often texts that are given back alike would
        differ by so much; NaN without a control."""
        from scipy.stats import fisher_exact

        if self.validation is None:
            return math.nan
        table = []
        for share, places in (
            (self.train, self.train_places),
            (self.validation, self.validation_places),
        ):
            hits = round(share * places)
            table.append([hits, places - hits])
        return float(fisher_exact(table, alternative="greater").pvalue)


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryExposure:
    """How much better than chance a model knows one canary's secret."""

    canary: int
    seen: int
    """How often the canary stands in the training text: 0 is a control."""
    copies: int = 0
    """How often it was made to be put in."""
    beyond: int = 0
    """How often it stands in the training store after the run's `data.unique_tokens`."""
    rank: int
    """1 is best, among the references and itself; a reference that ties stands before it."""
    exposure: float
    """By rank, bits."""
    exposure_fitted: float
    """By the fitted distribution, bits."""
    extracted: bool = False
    """The model writes the secret greedily, given the sentence before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesExposure:
    """Canaries that stand about equally often in the training text: least to most times."""

    least: int
    most: int
    canaries: int
    extracted: int
    """How many of them are written out, given the sentence before the secret."""
    mean: float
    """Of the fitted exposures, bits."""
    highest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One checkpoint of one run."""

    run: str
    family: str
    step: int
    epochs: float
    train_nll: float
    train_error: float
    validation_nll: float
    validation_error: float
    extraction: list[Extraction]
    canaries: list[CanaryExposure]

    @property
    def gap(self) -> float:
        """NLL of validation minus training, nats per token."""
        return self.validation_nll - self.train_nll

    @property
    def extraction_rate(self) -> float:
        """At the longest prefix; NaN if none was measured."""
        return self.extraction[-1].train if self.extraction else math.nan

    @property
    def exposures(self) -> list[CopiesExposure]:
        """By how often canaries stand in the training text, fewest first: never, once, 2 to 3
        times, 4 to 7, and so on by powers of two."""
        groups: dict[int, list[CanaryExposure]] = {}
        for canary in self.canaries:
            groups.setdefault(canary.seen.bit_length(), []).append(canary)
        return [
            CopiesExposure(
                least=min(one.seen for one in group),
                most=max(one.seen for one in group),
                canaries=len(group),
                extracted=sum(one.extracted for one in group),
                mean=float(np.mean([one.exposure_fitted for one in group])),
                highest=max(one.exposure_fitted for one in group),
            )
            for _, group in sorted(groups.items())
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; NaN as None."""
        rate = self.extraction_rate
        return asdict(self) | {
            "gap": self.gap,
            "extraction_rate": None if math.isnan(rate) else rate,
            "exposure_by_copies": [asdict(one) for one in self.exposures],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AtEqualLoss:
    """A run's figures where its validation NLL was that of the others."""

    run: str
    family: str
    validation_nll: float
    epochs: float
    gap: float
    extraction_rate: float | None
    exposures: list[tuple[int, int, float]]
    """(least copies, most copies, mean exposure in bits) as in `Measured.exposures`."""


def wilson(hits: int, places: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    z2 = CONFIDENCE**2
    centre = (hits + z2 / 2) / (places + z2)
    spread = hits * (places - hits) / places + z2 / 4
    half = CONFIDENCE * math.sqrt(spread) / (places + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def extraction(prefix: int, train: NDArray[np.bool_], validation: NDArray[np.bool_]) -> Extraction:
    """From [places, tokens] which tokens were written right, for both texts."""
    hits, control = (int(right.all(axis=1).sum()) for right in (train, validation))
    before_wrong = np.cumprod(train, axis=1).mean()
    return Extraction(
        prefix=prefix,
        train=hits / len(train),
        train_interval=wilson(hits, len(train)),
        validation=control / len(validation) if len(validation) else None,
        validation_interval=wilson(control, len(validation)) if len(validation) else None,
        train_places=len(train),
        validation_places=len(validation),
        train_tokens=float(before_wrong),
    )


def exposure(
    canary: int,
    seen: int,
    nll: float,
    references: Floats,
    copies: int = 0,
    beyond: int = 0,
    extracted: bool = False,
) -> CanaryExposure:
    """Of a secret's NLL among those of secrets that were not put in.

    Ties count against the secret: a model that finds all alike knows none.
    """
    rank = 1 + int((references <= nll).sum())
    return CanaryExposure(
        canary=canary,
        seen=seen,
        copies=copies,
        beyond=beyond,
        rank=rank,
        exposure=math.log2(len(references) + 1) - math.log2(rank),
        exposure_fitted=_fitted_exposure(nll, references),
        extracted=extracted,
    )


def _fitted_exposure(nll: float, references: Floats) -> float:
    """−log₂ P(reference ≤ nll) of a skew-normal fitted by moments."""
    from scipy.stats import skewnorm

    mean, deviation = float(references.mean()), float(references.std(ddof=1))
    if deviation == 0:
        return 0.0 if nll >= mean else SPACE_BITS
    skewness = float(np.mean(((references - mean) / references.std()) ** 3))
    skewness = float(np.clip(skewness, -0.99, 0.99))  # the most that a skew-normal has is 0.995
    power = abs(skewness) ** (2 / 3)
    delta = math.sqrt(math.pi / 2 * power / (power + ((4 - math.pi) / 2) ** (2 / 3)))
    delta = math.copysign(min(delta, 0.999), skewness)
    scale = deviation / math.sqrt(1 - 2 * delta**2 / math.pi)
    place = mean - scale * delta * math.sqrt(2 / math.pi)
    shape = delta / math.sqrt(1 - delta**2)
    bits = float(-skewnorm.logcdf(nll, shape, loc=place, scale=scale) / math.log(2))
    return min(bits, SPACE_BITS)


def at_equal_loss(measured: Sequence[Measured]) -> list[AtEqualLoss]:
    """Each run's figures at the lowest validation NLL that all of them reached.

    Between a run's checkpoints, up to its best, figures are interpolated linearly in the
    validation NLL. Empty for a single run, and where some run has no checkpoint above that NLL
    (keep more of them with `checkpoint.keep_every`).
    """
    if len(by_run(measured)) < 2 or no_equal_loss(measured) is not None:
        return []
    falling = _falling(measured)
    level = max(checkpoints[-1].validation_nll for checkpoints in falling.values())
    found = []
    for run, checkpoints in falling.items():
        nll = np.array([one.validation_nll for one in checkpoints])
        # The last crossing of the level, should the curve not fall all the way.
        after = int(np.flatnonzero(nll >= level)[-1])
        pair = checkpoints[after : after + 2]
        drop = nll[after] - nll[after + 1] if len(pair) == 2 else 0.0
        part = float((nll[after] - level) / drop) if drop else 0.0

        def between(values: Sequence[float], part: float = part) -> float:
            return values[0] + part * (values[-1] - values[0])

        rate = between([one.extraction_rate for one in pair])
        groups = zip(*(one.exposures for one in pair), strict=True)
        found.append(
            AtEqualLoss(
                run=run,
                family=checkpoints[0].family,
                validation_nll=level,
                epochs=between([one.epochs for one in pair]),
                gap=between([one.gap for one in pair]),
                extraction_rate=None if math.isnan(rate) else rate,
                exposures=[
                    (group[0].least, group[0].most, between([one.mean for one in group]))
                    for group in groups
                ],
            )
        )
    return found


def no_equal_loss(measured: Sequence[Measured]) -> str | None:
    """Why several runs have no figures at an equal loss, in one sentence; None if they have."""
    falling = _falling(measured)
    worst = max(falling.values(), key=lambda checkpoints: checkpoints[-1].validation_nll)[-1]
    for run, checkpoints in falling.items():
        highest = max(one.validation_nll for one in checkpoints)
        if highest < worst.validation_nll:
            return (
                f"{run} has no checkpoint before its best with a validation NLL of "
                f"{worst.validation_nll:.3f} or more, the lowest that {worst.run} reached (its "
                f"highest is {highest:.3f}); train {run} with `checkpoint.keep_every` to have some"
            )
    return None


def _falling(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Each run's checkpoints up to its best."""
    falling = {}
    for run, checkpoints in by_run(measured).items():
        falling[run] = checkpoints[: checkpoints.index(best_of(checkpoints)) + 1]
    return falling


def logged_gaps(record: RunRecord) -> list[tuple[float, float]]:
    """(epochs, validation NLL − mean training loss since the validation before) of a run's log.

    Empty where the training loss is no NLL (ablations that change it). The loss is of the rows
    as they came, at the weights of that time and with dropout, so it lags behind the model.
    """
    if not get_family(record.family).loss_is_nll(record.recipe.options):
        return []
    train, found, before = record.metrics("train"), [], 0
    for line in record.metrics("eval"):
        losses = [one["loss"] for one in train if before < one["step"] <= line["step"]]
        if losses:
            gap = line["nll_nats_per_token"] - float(np.mean(losses))
            found.append((float(line["epochs"]), gap))
        before = line["step"]
    return found


def best_of(checkpoints: Sequence[Measured]) -> Measured:
    """The one with the lowest validation NLL, the earliest of equals."""
    return min(checkpoints, key=lambda one: one.validation_nll)


def by_run(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Each run's checkpoints, earliest first."""
    runs: dict[str, list[Measured]] = {}
    for one in measured:
        runs.setdefault(one.run, []).append(one)
    return {run: sorted(all_, key=lambda one: one.step) for run, all_ in runs.items()}

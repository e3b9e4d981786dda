"""Predicting a longer run of a size from shorter runs of that size.

The runs of a ladder are each twice as long as the one before and have a learning-rate schedule of
their own. If the loss falls as a power of the tokens, L = E + A·D^−β, each doubling brings r = 2^−β
of the drop before, so that after two more the loss is L − d·(r + r²), d the last drop. Three
or four losses with the noise of their seeds say little about r. So r has a prior, near published
exponents of 0.2 to 0.4 (arXiv 2001.08361, 2203.15556), and all ladders of a family have one r.
Repeated tokens count as D' of arXiv 2305.16264, eq. 5.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms.form import effective
from epochal.scaling.law import ScalingLaw
from epochal.scaling.plan import read_preset
from epochal.scaling.points import Points

PRIOR_EXPONENT, PRIOR_SPREAD = 0.45, 0.35
"""Median of β, and standard deviation of its logarithm: 90 % of it lie between 0.25 and 0.8, r
between 0.57 and 0.84. Between the published 0.2 to 0.4 and what ladders of small models showed on
the built-in text and on Python's source code, 0.5."""
NOISE = 0.02
"""Standard deviation of a run's loss over seeds, in nats per token; measured: 0.01 to 0.02."""
AGEING = 1.4
"""How much less a run counts per doubling before the last one, as a factor of its standard
deviation: small models bend away from a power law at first. Chosen by us."""
TESTS_ASSUMED = 2.0
"""Weight of the stated error against those measured by predicting runs that were left out."""
LEVEL = 0.90
"""Of the intervals."""
DEFAULT_HALF_LIFE = 15.0
"""R*_D where neither a law nor the paper gives one: arXiv 2305.16264 has 15.4 for AR."""
_EXPONENTS = np.geomspace(0.03, 3.0, 93)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Runs of one size on the whole text."""

    params: float
    tokens: Floats
    """D, ascending."""
    loss: Floats
    """Nats per token."""

    def without(self, last: int) -> Ladder:
        """The ladder without its `last` longest runs."""
        return Ladder(self.params, self.tokens[:-last], self.loss[:-last])


@dataclass(frozen=True, slots=True)
class Prediction:
    """A loss, and the interval that has it with the probability LEVEL."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Ladders:
    """All ladders of one family of two runs or more."""

    ladders: Sequence[Ladder]
    unique_tokens: float
    half_life: float = DEFAULT_HALF_LIFE
    """R*_D."""

    @cached_property
    def weights(self) -> Floats:
        """Probability of each exponent, given prior and runs."""
        log = -0.5 * (np.log(_EXPONENTS / PRIOR_EXPONENT) / PRIOR_SPREAD) ** 2
        for ladder in self.ladders:
            log = log + self._lines(ladder).evidence
        weights: Floats = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
        return weights

    @property
    def ratio(self) -> float:
        """r, the drop of a doubling over that of the doubling before: its mean."""
        return float(self.weights @ 2.0**-_EXPONENTS)

    @property
    def weight_of_data(self) -> float:
        """Share of the prior's variance of log β that the runs removed, 0 to 1."""
        log = np.log(_EXPONENTS)
        variance = float(self.weights @ (log - self.weights @ log) ** 2)
        return max(0.0, 1 - variance / PRIOR_SPREAD**2)

    @cached_property
    def inflation(self) -> float:
        """Errors of predicting each ladder's last run, over those stated; 1 or more.

        From the runs before, without the last (two doublings ahead where four runs or more are
        left), and with the exponents that the family has without it.
        """
        squares = []
        for i, ladder in enumerate(self.ladders):
            for gap in (1, 2):
                if len(ladder.loss) - gap < 2:
                    continue
                shorter = [*self.ladders[:i], ladder.without(gap), *self.ladders[i + 1 :]]
                others = Ladders(shorter, self.unique_tokens, self.half_life)
                mean, sd = others._moments(shorter[i], ladder.tokens[-1])
                squares.append(((float(ladder.loss[-1]) - mean) / sd) ** 2)
        mean_square: float = (TESTS_ASSUMED + sum(squares)) / (TESTS_ASSUMED + len(squares))
        return math.sqrt(max(1.0, mean_square))

    def predict(self, params: float, tokens: float) -> Prediction | None:
        """Loss of a new run of a size on `tokens`; None for a size without a ladder."""
        for ladder in self.ladders:
            if abs(ladder.params / params - 1) < 1e-6:
                mean, sd = self._moments(ladder, tokens)
                half = NormalDist().inv_cdf((1 + LEVEL) / 2) * sd * self.inflation
                return Prediction(mean, mean - half, mean + half)
        return None

    def _moments(self, ladder: Ladder, tokens: float) -> tuple[float, float]:
        """Mean and standard deviation of the loss of a run, over exponents, lines and seeds."""
        lines = self._lines(ladder)
        at = np.stack([np.ones(len(_EXPONENTS)), self._shape(ladder, np.array([tokens]))[:, 0]], 1)
        means = (at * lines.values).sum(1)
        variances = np.einsum("bi,bij,bj->b", at, lines.covariance, at) + NOISE**2
        mean = float(self.weights @ means)
        return mean, math.sqrt(float(self.weights @ (variances + (means - mean) ** 2)))

    def _lines(self, ladder: Ladder) -> _Lines:
        """Least squares of (last loss, last drop) with each exponent, flat priors."""
        places = np.log2(self._effective(ladder.tokens))
        weight = 1 / (NOISE * AGEING ** (places[-1] - places))
        shape = self._shape(ladder, ladder.tokens)
        design = np.stack([np.ones_like(shape), shape], axis=2) * weight[:, None]
        covariance: Floats = np.linalg.inv(design.transpose(0, 2, 1) @ design)
        loss = ladder.loss * weight
        values: Floats = (covariance @ design.transpose(0, 2, 1) @ loss[:, None])[..., 0]
        misfit = ((loss - (design @ values[..., None])[..., 0]) ** 2).sum(1)
        evidence: Floats = 0.5 * (np.linalg.slogdet(covariance)[1] - misfit)
        return _Lines(values, covariance, evidence)

    def _shape(self, ladder: Ladder, tokens: Floats) -> Floats:
        """What the last drop is multiplied with, [exponents, tokens]: 0 at the last run, 1 at the
        one before."""
        before, last = np.log(self._effective(ladder.tokens[-2:]))
        beta = _EXPONENTS[:, None]
        rise: Floats = np.expm1(-beta * (np.log(self._effective(tokens)) - last))
        shape: Floats = rise / np.expm1(-beta * (before - last))
        return shape

    def _effective(self, tokens: Floats) -> Floats:
        return effective_tokens(tokens, self.unique_tokens, self.half_life)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines through a ladder, one per exponent."""

    values: Floats
    """Last loss and last drop, [exponents, 2]."""
    covariance: Floats
    """[exponents, 2, 2]."""
    evidence: Floats
    """Logarithm of the evidence for the exponent, up to a constant."""


def half_life_of(family: str, law: ScalingLaw | None = None) -> float:
    """R*_D by `law`, else by the paper's law of the family (arXiv 2507.15857), else the default."""
    known = [] if law is None else [law]
    known += [one for name, one in read_preset("paper").items() if name == family]
    values = [one.constants.get("R_D") for one in known]
    return next((value for value in values if value), DEFAULT_HALF_LIFE)


def effective_tokens(tokens: Floats, unique: float, half_life: float) -> Floats:
    """D' = U + U·R*·(1 − e^(−(D/U − 1)/R*)) of tokens D, D itself below U."""
    repeats = np.maximum(0.0, tokens / unique - 1)
    fresh = np.log(np.minimum(tokens, unique))
    result: Floats = np.exp(effective(fresh, repeats, np.log(half_life))[0])
    return result


def ladders_of(points: Points, family: str, half_life: float) -> Ladders:
    """The ladders of a family on the whole text, of `points` that have one run per length.

    Sizes with a single length are left out.
    """
    whole = float(points.unique_tokens.max())
    runs: dict[float, dict[float, float]] = defaultdict(dict)
    for i, own in enumerate(points.family):
        if own == family and points.unique_tokens[i] == whole:
            runs[float(points.params[i])][float(points.tokens[i])] = float(points.loss[i])
    ladders = [
        Ladder(params, *(np.array(part) for part in zip(*sorted(losses.items()), strict=True)))
        for params, losses in sorted(runs.items())
        if len(losses) > 1
    ]
    return Ladders(ladders, whole, half_life)

"""The probe sweep of a study: sizes × lengths, fresh and repeated, all families, within a time.

To predict a longer run on the whole text, a law needs: how the loss falls with tokens seen once,
up to about a quarter of that run's compute; the cost of repetition (R*_D), from few tokens seen
many times; and the cost of a model too large for its tokens (R*_N), from sizes on both sides of
the optimum (arXiv 2305.16264 §5; reference laws in `epochal.scaling`). A run over a part of the
whole text costs as much as a run that repeats fewer tokens, and shows more about the long run, so
the ladder of lengths uses the whole text, and only repetition uses subsets of it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from epochal.errors import UserError
from epochal.families import family_names
from epochal.recipe.load import Tree
from epochal.sizes import LADDER, Architecture, swiglu_width

SMALL_SHAPES = ("32x2x2", "48x2x2", "64x3x2", "96x3x3", "128x4x4", "192x4x6", "256x5x8")
"""width x layers x heads below the ladder's useful range for small vocabularies. Chosen by us."""
WIDTH_OF_FULL_RATE = 128
FULL_RATE, LEAST_RATE = 2e-3, 2e-4
"""Learning rates by width: full up to 128, then falling as 1/width. Chosen by us: a rate good for
width 96 made the loss jump at widths above 256."""
RUNG = 2.0
"""Ratio of neighbouring lengths of the ladder. Chosen by us: a small model first learns how often
each token is, and only runs well beyond that show anything about longer ones."""
LEAST_PARTS = 4
"""Tokens of the whole text over those of the largest subset, at least."""
MOST_EPOCHS = 64.0
"""Epochs of a probe, at most. Chosen by us: small models on few tokens overfit long before."""
TOKENS_PER_PARAM = 10.0
"""Tokens of the longest run per parameter of the middle size. Chosen by us: the sizes then lie
on both sides of the optimum for most of the lengths."""


@dataclass(frozen=True, slots=True)
class Design:
    """Lengths of the probes of each size."""

    rungs: int
    """Lengths on the whole text, each half of the next."""
    repeats: Mapping[int, tuple[float, ...]]
    """n → lengths on a subset of 1/n of the middle size's longest run, as shares of the size's
    longest."""


DESIGNS = (
    Design(4, {64: (1 / 4, 1.0), 16: (1 / 2,)}),
    Design(3, {16: (1 / 2, 1.0)}),
    Design(3, {16: (1.0,)}),
)
"""The fullest first. All repeat a subset 16 times or more at the middle size."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost of training on this machine, measured."""

    seconds_per_token: Mapping[tuple[str, str], float]
    """(family, size) → seconds in one slot per token trained."""
    overhead: float
    """Seconds per run that are not training: start, files."""
    evaluation_tokens: float
    """Cost of evaluating a run, in tokens trained."""
    factor: float = 1.0
    """Seconds measured over seconds expected in the runs so far."""

    def seconds(self, family: str, size: str, tokens: float) -> float:
        """Seconds in one slot for a whole run."""
        per_token = self.seconds_per_token[family, size]
        return self.factor * (self.overhead + per_token * (tokens + self.evaluation_tokens))

    def of(self, probe: Probe) -> float:
        """Seconds in one slot for a probe."""
        return self.seconds(probe.family, probe.size, probe.tokens)


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of the probe sweep."""

    family: str
    size: str
    unique_tokens: int
    epochs: float
    seconds: float = field(default=0.0, compare=False)
    """Expected, in one slot."""

    @property
    def tokens(self) -> int:
        """D, tokens trained on."""
        return round(self.unique_tokens * self.epochs)

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.family}-{self.size}-U{self.unique_tokens}-D{self.tokens}"

    def with_costs(self, costs: Costs) -> Probe:
        """The probe with the seconds of these costs."""
        return replace(self, seconds=costs.of(self))

    def keys(self, changes: Mapping[str, Any]) -> Tree:
        """Recipe keys of the run, with `changes`."""
        shape = _shape_of(self.size)
        rate = max(LEAST_RATE, FULL_RATE * min(1.0, WIDTH_OF_FULL_RATE / shape.d_model))
        return {
            "family": self.family,
            "data.unique_tokens": self.unique_tokens,
            "model.d_model": shape.d_model,
            "model.layers": shape.layers,
            "model.heads": shape.heads,
            "model.head_dim": shape.head_dim,
            "train.lr": rate,
            "train.min_lr": rate / 10,
            "train.tokens": self.tokens,
            **changes,
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """A probe sweep."""

    probes: list[Probe]
    """Cheapest first, the families side by side."""

    @property
    def seconds(self) -> float:
        """Expected, in one slot."""
        return sum(probe.seconds for probe in self.probes)

    @property
    def unique_tokens(self) -> list[int]:
        """The subsets and the whole text, smallest first."""
        return sorted({probe.unique_tokens for probe in self.probes})

    @property
    def sizes(self) -> list[str]:
        """The sizes, smallest first."""
        return list(dict.fromkeys(probe.size for probe in self.probes))


def _shape_of(size: str) -> Architecture:
    """The architecture of a size: a name of the ladder, or width x layers x heads."""
    if size in LADDER:
        return LADDER[size]
    width, layers, heads = map(int, size.split("x"))
    return Architecture(width, layers, heads, width // heads, swiglu_width(width))


def candidate_sizes(vocabulary: int) -> dict[str, int]:
    """Size → parameters, smallest first: the small shapes and the ladder above them."""
    small = {size: _shape_of(size).params(vocabulary) for size in SMALL_SHAPES}
    top = max(_shape_of(size).params_non_embedding for size in SMALL_SHAPES)
    ladder = {
        name: shape.params(vocabulary)
        for name, shape in LADDER.items()
        if shape.params_non_embedding > 1.5 * top
    }
    return small | dict(sorted(ladder.items(), key=lambda item: item[1]))


def lay_out(
    costs: Costs, params: Mapping[str, int], unique_tokens: int, seconds: float, least: int
) -> Layout:
    """The probe sweep for `seconds` of all slots together on a corpus of `unique_tokens`.

    Three neighbouring sizes around the optimum of the longest run, whose longest runs all take the
    same time; `least` is the smallest useful number of tokens. The fullest design is taken
    whose smallest subset is twice that, the last one with just that. Where nothing fits, it is the
    cheapest there is, of more than `seconds`. Raises UserError for a text that is too short.
    """
    if unique_tokens < least * LEAST_PARTS:
        raise UserError(
            f"the text has {unique_tokens:,} unique tokens; a study needs at least "
            f"{least * LEAST_PARTS:,} to compare subsets, so give it more text"
        )
    sweeps = [_Sweep(costs, sizes, unique_tokens, least) for sizes in _triples(costs, params)]
    for design in DESIGNS:
        wanted = least if design is DESIGNS[-1] else min(2 * least, unique_tokens // LEAST_PARTS)
        fitting = []
        for sweep in sweeps:
            longest = sweep.longest(design, seconds, wanted)
            if longest is not None:
                off = abs(math.log(params[sweep.sizes[1]] * TOKENS_PER_PARAM / longest))
                fitting.append((off, sweep.layout(design, longest)))
        if fitting:
            return min(fitting, key=lambda pair: pair[0])[1]
    last = DESIGNS[-1]
    shortest = next(iter(sweeps[0].possible(last, least)), least * max(last.repeats))
    return min((sweep.layout(last, shortest) for sweep in sweeps), key=lambda one: one.seconds)


def _triples(costs: Costs, params: Mapping[str, int]) -> Iterator[list[str]]:
    """Three neighbours of the measured sizes."""
    sizes = [s for s in params if all((f, s) in costs.seconds_per_token for f in family_names())]
    for first in range(len(sizes) - 2):
        yield sizes[first : first + 3]


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Probe sweeps of three sizes on one text."""

    costs: Costs
    sizes: Sequence[str]
    unique_tokens: int
    least: int

    def longest(self, design: Design, seconds: float, smallest: int) -> int | None:
        """The longest run of the middle size, to two digits, that `seconds` allow.

        None if the smallest subset would have less than `smallest` tokens.
        """
        lengths = self.possible(design, smallest)
        within = bisect.bisect_right(
            lengths, seconds, key=lambda length: self.layout(design, length).seconds
        )
        while within and self.layout(design, lengths[within - 1]).seconds > seconds:
            within -= 1  # more rungs for a shorter run: the cost is not quite monotone
        return lengths[within - 1] if within else None

    def possible(self, design: Design, smallest: int) -> list[int]:
        """Longest runs of the middle size, to two digits, with no subset below `smallest`."""
        low = min(design.repeats) * smallest
        lengths = _round_numbers(
            min(low, max(design.repeats) * smallest),
            max(low, int(MOST_EPOCHS * self.unique_tokens)),
        )
        return [n for n in lengths if self.subset(n, max(design.repeats)) >= smallest]

    def subset(self, longest: float, parts: int) -> int:
        """Unique tokens of a subset."""
        return _two_digits(min(longest / parts, self.unique_tokens / LEAST_PARTS))

    def layout(self, design: Design, longest: int) -> Layout:
        """The sweep whose middle size is trained on `longest` tokens at most."""
        order: dict[Probe, float] = {}
        for size in self.sizes:
            for unique, tokens in self.lengths(design, size, longest):
                for family in family_names():
                    seconds = self.costs.seconds(family, size, tokens)
                    probe = Probe(family, size, unique, tokens / unique, seconds)
                    order[probe] = self.costs.seconds(family_names()[0], size, tokens)
        return Layout(sorted(order, key=lambda probe: order[probe]))

    def lengths(self, design: Design, size: str, longest: int) -> list[tuple[int, int]]:
        """(U, D) of the runs of one size, fresh ones first."""
        top = longest * self._per_token(self.sizes[1]) / self._per_token(size)
        top = min(top, MOST_EPOCHS * self.unique_tokens)
        # Down to a quarter of the text: two lengths or more without repetition.
        rungs = design.rungs
        while top / RUNG ** (rungs - 1) > self.unique_tokens / LEAST_PARTS:
            rungs += 1
        fresh = [_two_digits(top / RUNG**rung) for rung in range(rungs)]
        runs = [(self.unique_tokens, tokens) for tokens in fresh if tokens >= self.least]
        before = 0
        for parts, shares in design.repeats.items():
            unique = self.subset(longest, parts)
            if unique < 2 * before:  # of a small text, all subsets are nearly its quarter
                continue
            before = unique
            repeated = [_two_digits(min(top * share, MOST_EPOCHS * unique)) for share in shares]
            runs += [(unique, tokens) for tokens in repeated if tokens > 1.5 * unique]
        return list(dict.fromkeys(runs))

    def _per_token(self, size: str) -> float:
        return sum(self.costs.seconds_per_token[family, size] for family in family_names())


def _two_digits(number: float) -> int:
    """Rounded down to two significant digits, so that names of runs are exact."""
    unit = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return int(number / unit + 1e-9) * unit


def _round_numbers(low: float, high: float) -> list[int]:
    """Numbers of two significant digits from low to high."""
    numbers = (digits * 10**power for power in range(12) for digits in range(10, 100))
    return [number for number in numbers if low <= number <= high]

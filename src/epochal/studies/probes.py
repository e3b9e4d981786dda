"""Laying out a probe sweep that fits a time: sizes × lengths, fresh and repeated, both families.

What a law must know to foretell a longer run on the whole text: how the loss falls with tokens
seen once, up to a quarter or so of that run's compute; what repetition costs (R*_D), from few
tokens seen many times; and what a model too large for its tokens costs (R*_N), from sizes on both
sides of the optimum (arXiv 2305.16264 §5; reference laws in `epochal.scaling`). A run over a
part of the whole text costs what the same tokens repeated cost, and says more of the long run, so
the ladder of lengths is of the whole text, and only repetition is looked at on subsets of it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from epochal.errors import UserError
from epochal.families import family_names
from epochal.sizes import LADDER, Architecture, swiglu_width

SMALL_SHAPES = ("32x2x2", "48x2x2", "64x3x2", "96x3x3", "128x4x4", "192x4x6", "256x5x8")
"""width x layers x heads below the ladder's useful range for small vocabularies. Chosen by us."""
RUNG = 2.0
"""From one length of the ladder to the next. Chosen by us: a small model first learns how often
each token is, and only runs well beyond that say something of longer ones."""
LEAST_PARTS = 4
"""The whole text over the largest subset, at least."""
MOST_EPOCHS = 64.0
"""Of any probe. Chosen by us: small models on few tokens have long turned by then."""
TOKENS_PER_PARAM = 10.0
"""Tokens of the longest run per parameter of the middle size. Chosen by us: the sizes then lie
on both sides of the optimum for most of the lengths."""


@dataclass(frozen=True, slots=True)
class Design:
    """How many probes of each size."""

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
    """What training costs on this machine, measured."""

    seconds_per_token: Mapping[tuple[str, str], float]
    """(family, size) → seconds of one slot per token trained."""
    overhead: float
    """Seconds per run that are not training: starting, writing."""
    evaluation_tokens: float
    """What evaluating a run costs, in tokens trained."""
    factor: float = 1.0
    """Seconds seen over seconds expected in runs so far."""

    def seconds(self, family: str, size: str, tokens: float) -> float:
        """Of one slot, for a whole run."""
        per_token = self.seconds_per_token[family, size]
        return self.factor * (self.overhead + per_token * (tokens + self.evaluation_tokens))


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of the layout."""

    family: str
    size: str
    unique_tokens: int
    epochs: float
    seconds: float = field(compare=False)
    """Expected, of one slot."""

    @property
    def tokens(self) -> int:
        """D."""
        return round(self.unique_tokens * self.epochs)


@dataclass(frozen=True, slots=True)
class Layout:
    """A probe sweep."""

    probes: list[Probe]
    """Cheapest first, the families side by side."""

    @property
    def seconds(self) -> float:
        """Expected, of one slot."""
        return sum(probe.seconds for probe in self.probes)

    @property
    def unique_tokens(self) -> list[int]:
        """The subsets and the whole text, smallest first."""
        return sorted({probe.unique_tokens for probe in self.probes})

    @property
    def sizes(self) -> list[str]:
        """The sizes, smallest first."""
        return list(dict.fromkeys(probe.size for probe in self.probes))


def shape_of(size: str) -> Architecture:
    """The architecture that a size of a sweep names."""
    if size in LADDER:
        return LADDER[size]
    width, layers, heads = map(int, size.split("x"))
    return Architecture(width, layers, heads, width // heads, swiglu_width(width))


def candidate_sizes(vocabulary: int) -> dict[str, int]:
    """Size → parameters, smallest first: the small shapes and the ladder above them."""
    small = {size: shape_of(size).params(vocabulary) for size in SMALL_SHAPES}
    top = max(shape_of(size).params_non_embedding for size in SMALL_SHAPES)
    ladder = {
        name: shape.params(vocabulary)
        for name, shape in LADDER.items()
        if shape.params_non_embedding > 1.5 * top
    }
    return small | dict(sorted(ladder.items(), key=lambda item: item[1]))


class TooShort(UserError):
    """There is not enough time for the smallest sweep."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the probe sweep alone needs {seconds:.0f} seconds of one slot")
        self.seconds = seconds
        """Of one slot, that it needs at least."""


def lay_out(
    costs: Costs, params: Mapping[str, int], unique_tokens: int, seconds: float, least: int
) -> Layout:
    """The probe sweep for `seconds` of all slots together on a corpus of `unique_tokens`.

    Three neighbouring sizes around the optimum of the longest run, whose longest runs all take the
    same time; `least` is the smallest useful number of tokens. The fullest design is taken
    whose smallest subset is twice that, the last one with just that. Raises UserError, with
    the least time that would do, where nothing fits.
    """
    if unique_tokens < least * LEAST_PARTS:
        raise UserError(
            f"the text has {unique_tokens:,} unique tokens; a study needs at least "
            f"{least * LEAST_PARTS:,} to compare subsets, so give it more text"
        )
    sweeps = [_Sweep(costs, sizes, unique_tokens, least) for sizes in _triples(costs, params)]
    for design in DESIGNS:
        wanted = least if design is DESIGNS[-1] else min(2 * least, unique_tokens // LEAST_PARTS)
        found = []
        for sweep in sweeps:
            longest = sweep.longest(design, seconds, wanted)
            if longest is not None:
                off = abs(math.log(params[sweep.sizes[1]] * TOKENS_PER_PARAM / longest))
                found.append((off, sweep.made(design, longest)))
        if found:
            return min(found, key=lambda pair: pair[0])[1]
    last = DESIGNS[-1]
    cheapest = min(sweep.made(last, least * max(last.repeats)).seconds for sweep in sweeps)
    raise TooShort(cheapest)


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
        low = min(design.repeats) * smallest
        lengths = _round_numbers(
            min(low, max(design.repeats) * smallest),
            max(low, int(MOST_EPOCHS * self.unique_tokens)),
        )
        lengths = [n for n in lengths if self.subset(n, max(design.repeats)) >= smallest]
        within = bisect.bisect_right(
            lengths, seconds, key=lambda length: self.made(design, length).seconds
        )
        while within and self.made(design, lengths[within - 1]).seconds > seconds:
            within -= 1  # more rungs for a shorter run: the cost is not quite monotone
        return lengths[within - 1] if within else None

    def subset(self, longest: float, parts: int) -> int:
        """Unique tokens of a subset."""
        return _two_digits(min(longest / parts, self.unique_tokens / LEAST_PARTS))

    def made(self, design: Design, longest: int) -> Layout:
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
        found = [(self.unique_tokens, tokens) for tokens in fresh if tokens >= self.least]
        before = 0
        for parts, shares in design.repeats.items():
            unique = self.subset(longest, parts)
            if unique < 2 * before:  # of a small text, all subsets are nearly its quarter
                continue
            before = unique
            repeated = [_two_digits(min(top * share, MOST_EPOCHS * unique)) for share in shares]
            found += [(unique, tokens) for tokens in repeated if tokens > 1.5 * unique]
        return list(dict.fromkeys(found))

    def _per_token(self, size: str) -> float:
        return sum(self.costs.seconds_per_token[family, size] for family in family_names())


def _two_digits(number: float) -> int:
    """Rounded down to two digits and zeros, so that names of runs are exact."""
    unit = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return int(number / unit + 1e-9) * unit


def _round_numbers(low: float, high: float) -> list[int]:
    """Numbers of two digits and zeros from low to high."""
    found = []
    for power in range(12):
        found += [digits * 10**power for digits in range(10, 100)]
    return [number for number in found if low <= number <= high]

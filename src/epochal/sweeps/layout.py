"""Laying out a probe sweep that fits a time: sizes × epochs on nested subsets, both families.

What a data-constrained law needs: several sizes N, several lengths D, and the same tokens seen
once and many times at two numbers of unique tokens U, so that what repetition costs (R*_D) and
what a model too large for its tokens costs (R*_N) can be told from what few tokens cost
(arXiv 2305.16264 §5; reference laws in `epochal.scaling`).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from epochal.errors import UserError
from epochal.recipe import FAMILIES
from epochal.sizes import LADDER, Architecture, ffn_width

SMALL_SHAPES = ("32x2x2", "48x2x2", "64x3x2", "96x3x3", "128x4x4", "192x4x6", "256x5x8")
"""width x layers x heads below the ladder's useful range for small vocabularies. Chosen by us."""
SUBSETS = (1, 4)
"""Sizes of the nested subsets, relative to the smallest."""
DESIGNS: tuple[Mapping[int, tuple[float, ...]], ...] = (
    {1: (1.0, 4.0, 16.0, 64.0), 4: (1.0, 4.0, 16.0)},
    {1: (1.0, 8.0, 64.0), 4: (1.0, 8.0)},
    {1: (1.0, 16.0), 4: (1.0, 8.0)},
)
"""Subset → epochs, the fullest first. On the larger subset the longest runs would take most of the
time for the least news."""
TOKENS_PER_PARAM = 10.0
"""Tokens of the longest run per parameter of the middle size. Chosen by us: the sizes then lie
on both sides of the optimum for most of the lengths."""
SPACINGS = (2, 1)
"""Places in the list of sizes from one size to the next."""


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
    def tokens(self) -> float:
        """D."""
        return self.unique_tokens * self.epochs


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
        """The subsets, smallest first."""
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
    return Architecture(width, layers, heads, width // heads, ffn_width(width))


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


def lay_out(
    costs: Costs, params: Mapping[str, int], unique_tokens: int, seconds: float, least: int
) -> Layout:
    """The probe sweep for `seconds` of all slots together on a corpus of `unique_tokens`.

    Three sizes around the optimum of the longest run, on two nested subsets; `least` is the
    smallest useful subset. The fullest design is taken whose smallest subset is twice that, the
    last one with just that. Raises UserError, with the least time that would do, where
    nothing fits.
    """
    if unique_tokens < least * max(SUBSETS):
        raise UserError(
            f"the text has {unique_tokens:,} unique tokens; a study needs at least "
            f"{least * max(SUBSETS):,} to compare subsets, so give it more text"
        )
    triples = list(_triples(costs, params))
    for design in DESIGNS:
        last = design is DESIGNS[-1]
        wanted = least if last else min(2 * least, unique_tokens // max(SUBSETS))
        found: list[tuple[float, Layout]] = []
        for sizes, spacing in triples:
            small = _largest_subset(costs, design, sizes, unique_tokens, seconds, wanted)
            if small is not None:
                longest = small * max(share * max(epochs) for share, epochs in design.items())
                off = abs(math.log(params[sizes[1]] * TOKENS_PER_PARAM / longest))
                found.append((off + (spacing == 1), _made(costs, design, sizes, small)))
        if found:
            return min(found, key=lambda pair: pair[0])[1]
    cheapest = min(_made(costs, DESIGNS[-1], sizes, least).seconds for sizes, _ in triples)
    raise UserError(f"the probe sweep alone needs {cheapest:.0f} seconds of one slot")


def _triples(costs: Costs, params: Mapping[str, int]) -> Iterator[tuple[list[str], int]]:
    """Three measured sizes and their spacing."""
    sizes = [s for s in params if all((f, s) in costs.seconds_per_token for f in FAMILIES)]
    for spacing, first in itertools.product(SPACINGS, range(len(sizes))):
        chosen = sizes[first : first + 2 * spacing + 1 : spacing]
        if len(chosen) == 3:
            yield chosen, spacing


def _largest_subset(
    costs: Costs,
    design: Mapping[int, tuple[float, ...]],
    sizes: Sequence[str],
    unique_tokens: int,
    seconds: float,
    least: int,
) -> int | None:
    """The largest first subset, to two digits, whose sweep takes no longer; None if none does."""
    subsets = _round_numbers(least, unique_tokens // max(SUBSETS))
    within = bisect.bisect_right(
        subsets, seconds, key=lambda subset: _made(costs, design, sizes, subset).seconds
    )
    return subsets[within - 1] if within else None


def _round_numbers(low: int, high: int) -> list[int]:
    """Numbers of two digits and zeros from low to high, so that names of runs are exact."""
    found = []
    for power in range(12):
        found += [digits * 10**power for digits in range(10, 100)]
    return [number for number in found if low <= number <= high]


def _made(
    costs: Costs, design: Mapping[int, tuple[float, ...]], sizes: Sequence[str], subset: int
) -> Layout:
    probes = [
        Probe(
            family,
            size,
            share * subset,
            epochs,
            costs.seconds(family, size, share * subset * epochs),
        )
        for share, lengths in design.items()
        for size, epochs, family in itertools.product(sizes, lengths, FAMILIES)
    ]
    order = {probe: costs.seconds("ar", probe.size, probe.tokens) for probe in probes}
    return Layout(sorted(probes, key=lambda probe: order[probe]))

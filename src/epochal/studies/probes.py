"""The probes of a study: sizes × lengths and a repeated subset, all families, within a time.

The ladder: some neighbouring sizes at lengths that double, on the whole text, every run with a
schedule of its own. All sizes take part in the short lengths, and only those that are predicted
best in the longer ones, since larger models fall more steeply and cost more. At a length all sizes
take the same time. Repeating a subset shows the cost of repetition (R*_D, arXiv 2305.16264 §5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from epochal.errors import UserError
from epochal.families import get_family
from epochal.recipe.load import Tree
from epochal.sizes import LADDER, Architecture, swiglu_width
from epochal.sweeps.cell import carried

SMALL_SHAPES = ("32x2x2", "48x2x2", "64x3x2", "96x3x3", "128x4x4", "192x4x6", "256x5x8")
"""width x layers x heads below the ladder's useful range for small vocabularies. Chosen by us."""
WIDTH_OF_FULL_RATE = 64
FULL_RATE = {"adamw": 4e-3, "muon": 1.6e-2}
LEAST_RATE = 2e-4
"""Learning rates by optimizer and width where the search begins: full up to 64, then `carried`.
Chosen by us: searches at these sizes ended at 2e-3 to 8e-3 with AdamW; with Muon see
docs/optimizers.md."""
LEAST_PARTS = 4
"""Tokens of the whole text over those of a subset, at least."""
MOST_EPOCHS = 64.0
"""Epochs of a probe, at most. Chosen by us: small models on few tokens overfit long before."""
REPEATED = 16
"""Epochs of the longest run on a subset. Chosen by us: several times the R*_D of AR training."""
TOKENS_PER_PARAM = 10.0
"""Tokens of the longest run per parameter of the middle size. Chosen by us."""
FARTHEST = 4.0
"""Compute of the check over that of the largest probe, at most: beyond, a law is not reliable."""


@dataclass(frozen=True, slots=True)
class Design:
    """How many runs there are."""

    kept: tuple[int, ...]
    """Sizes at each length of the ladder, the shortest first."""
    repeats: tuple[float, ...]
    """Lengths on a subset at the middle size, as shares of its longest."""
    searched: int
    """Runs of a family's search of the learning rate for which there is time."""


DESIGNS = (
    Design((4, 4, 2, 2), (1 / 2, 1.0), 6),
    Design((3, 3, 2, 1), (1 / 2, 1.0), 4),
    Design((3, 3, 1), (1 / 2, 1.0), 0),
)
"""The fullest first."""
SEARCHED_AT = 1
"""Place of the length of the search in the ladder, from the longest: half of it. Chosen by us."""


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

    @property
    def families(self) -> tuple[str, ...]:
        """Those measured."""
        return tuple(dict.fromkeys(family for family, _ in self.seconds_per_token))

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
    lr: float | None = None
    """Learning rate; that of the size, if not searched."""
    optimizer: str = "muon"

    @property
    def tokens(self) -> int:
        """D, tokens trained on."""
        return round(self.unique_tokens * self.epochs)

    @property
    def name(self) -> str:
        """Name of the run."""
        rate = "" if self.lr is None else f"-lr{self.lr:.3g}"
        return f"{self.family}-{self.size}-U{self.unique_tokens}-D{self.tokens}{rate}"

    @property
    def rate(self) -> float:
        """The learning rate."""
        if self.lr is not None:
            return self.lr
        wider = max(1.0, shape_of(self.size).d_model / WIDTH_OF_FULL_RATE)
        return max(LEAST_RATE, carried(FULL_RATE[self.optimizer], wider, self.optimizer))

    def with_costs(self, costs: Costs) -> Probe:
        """The probe with the seconds of these costs."""
        return replace(self, seconds=costs.of(self))

    def keys(self, changes: Mapping[str, Any]) -> Tree:
        """Recipe keys of the run, with `changes`."""
        shape = shape_of(self.size)
        initial = get_family(self.family).small_model_initial
        if initial is not None:
            initial = float(f"{initial / shape.d_model**0.5:.3g}")
        return {
            "family": self.family,
            "data.unique_tokens": self.unique_tokens,
            "model.d_model": shape.d_model,
            "model.layers": shape.layers,
            "model.heads": shape.heads,
            "model.head_dim": shape.head_dim,
            **({} if initial is None else {"model.init_std": initial}),
            "train.optimizer": self.optimizer,
            "train.lr": self.rate,
            "train.min_lr": self.rate / 10,
            "train.tokens": self.tokens,
            **changes,
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """What the probes are, but for the sizes that are kept."""

    sizes: list[str]
    """Smallest first."""
    rungs: list[dict[str, int]]
    """Size → tokens at each length, the shortest first."""
    kept: list[int]
    """Sizes that take part in each."""
    repeats: list[tuple[int, int]]
    """(unique tokens, tokens) at the middle size."""
    searched: int
    """Runs of a family's search of the learning rate for which there is time."""

    @property
    def middle(self) -> str:
        """The size of the search and of the repeated subsets."""
        return self.sizes[(len(self.sizes) - 1) // 2]

    @property
    def searched_tokens(self) -> int:
        """Length of the search's runs."""
        return self.rungs[-1 - SEARCHED_AT][self.middle]

    def seconds(self, costs: Costs) -> float:
        """Expected, in one slot, for all families; of the sizes kept, the dearest."""
        total = 0.0
        for family in costs.families:
            for lengths, kept in zip(self.rungs, self.kept, strict=True):
                sizes = [costs.seconds(family, size, n) for size, n in lengths.items()]
                total += sum(sorted(sizes)[-kept:])
            total += sum(costs.seconds(family, self.middle, n) for _, n in self.repeats)
            if self.searched:
                each = costs.seconds(family, self.middle, self.searched_tokens)
                total += self.searched * each
        return total


def shape_of(size: str) -> Architecture:
    """The architecture of a size: a name of the ladder, or width x layers x heads."""
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


def lay_out(
    costs: Costs,
    params: Mapping[str, int],
    unique_tokens: int,
    seconds: float,
    check_seconds: float,
    least: int,
) -> Layout:
    """The probes for `seconds` of all slots together on a corpus of `unique_tokens`.

    The fullest design whose longest runs have a fourth of `check_seconds` (those of a family's
    check) or more, around the size that is best for that length; `least` is the smallest useful
    number of tokens. Where nothing fits, it is the cheapest there is, of more than `seconds`.
    Raises UserError for a text that is too short.
    """
    if unique_tokens < least * LEAST_PARTS:
        raise UserError(
            f"the text has {unique_tokens:,} unique tokens; a study needs at least "
            f"{least * LEAST_PARTS:,} to compare subsets, so give it more text"
        )
    for design in DESIGNS:
        wanted = check_seconds / FARTHEST if design is not DESIGNS[-1] else 0.0
        fitting = []
        for sizes in _neighbours(costs, params, max(design.kept)):
            lengths = _possible(costs, sizes, design, unique_tokens, least)
            *_, longest = None, *takewhile(lambda one: one.seconds(costs) <= seconds, lengths)
            if longest is not None and _training(costs, longest) >= wanted:
                top = longest.rungs[-1][longest.middle]
                off = abs(math.log(params[longest.middle] * TOKENS_PER_PARAM / top))
                fitting.append((off, longest))
        if fitting:
            return min(fitting, key=lambda pair: pair[0])[1]
    cheapest = [
        next(_possible(costs, sizes, DESIGNS[-1], unique_tokens, least))
        for sizes in _neighbours(costs, params, max(DESIGNS[-1].kept))
    ]
    return min(cheapest, key=lambda one: one.seconds(costs))


def _training(costs: Costs, layout: Layout) -> float:
    """Seconds that the longest run trains for, without its start and evaluation."""
    return _per_token(costs, layout.middle) * layout.rungs[-1][layout.middle] * costs.factor


def _neighbours(costs: Costs, params: Mapping[str, int], number: int) -> Iterator[list[str]]:
    """So many neighbours of the measured sizes."""
    sizes = [s for s in params if all((f, s) in costs.seconds_per_token for f in costs.families)]
    number = min(number, len(sizes))
    for first in range(len(sizes) - number + 1):
        yield sizes[first : first + number]


def _possible(
    costs: Costs, sizes: Sequence[str], design: Design, unique: int, least: int
) -> Iterator[Layout]:
    """Layouts of a design by the length of the middle size's longest run, to two digits."""
    kept = [min(number, len(sizes)) for number in design.kept]
    middle = sizes[(len(sizes) - 1) // 2]
    doubled = 2 ** (len(kept) - 1)
    dearest = max(_per_token(costs, size) for size in sizes) / _per_token(costs, middle)
    for longest in _round_numbers(doubled * least * dearest, MOST_EPOCHS * unique):
        tops = {s: longest * _per_token(costs, middle) / _per_token(costs, s) for s in sizes}
        tops = {size: min(top, MOST_EPOCHS * unique) for size, top in tops.items()}
        rungs = [
            {size: _two_digits(top * 2.0 ** (place + 1 - len(kept))) for size, top in tops.items()}
            for place in range(len(kept))
        ]
        subset = max(least, _two_digits(min(longest / REPEATED, unique / LEAST_PARTS)))
        repeats = [(subset, _two_digits(longest * share)) for share in design.repeats]
        repeats = [(u, min(d, int(MOST_EPOCHS * u))) for u, d in repeats if d > 1.5 * u]
        yield Layout(list(sizes), rungs, kept, list(dict.fromkeys(repeats)), design.searched)


def _per_token(costs: Costs, size: str) -> float:
    """Seconds per token, the mean over the families."""
    each = [costs.seconds_per_token[family, size] for family in costs.families]
    return sum(each) / len(each)


def _two_digits(number: float) -> int:
    """Rounded down to two significant digits, so that names of runs are exact."""
    unit = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return int(number / unit + 1e-9) * unit


def _round_numbers(low: float, high: float) -> list[int]:
    """Numbers of two significant digits from low to high."""
    numbers = [digits * 10**power for power in range(12) for digits in range(10, 100)]
    low = min(low, high)
    return [number for number in numbers if low <= number <= high] or [_two_digits(high)]

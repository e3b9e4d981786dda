"""Sizes that can be trained, and cheaper ways to nearly the same loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from epochal.errors import UserError
from epochal.recipe.schema import Model
from epochal.scaling.known import KnownLaw
from epochal.scaling.optimum import SMALLEST, least_flops, optima
from epochal.sizes import LADDER, Architecture, swiglu_width
from epochal.units import parse_number

NEARLY = 0.01
"""Nats that "nearly the same loss" may be above the best."""
_FEWER = 40.0  # log of the budget over the smallest one looked at
_FAR = 1.6  # a size whose N differs by more than this factor is not the optimum's neighbour


@dataclass(frozen=True, slots=True)
class LadderChoice:
    """A size that can be trained, with the whole budget."""

    name: str
    params: float
    tokens: float
    epochs: float
    loss: float


@dataclass(frozen=True, slots=True)
class Alternative:
    """A cheaper way to a loss within 0.01 nats of the best."""

    what: Literal["smaller model", "fewer FLOPs"]
    params: float
    tokens: float
    epochs: float
    flops: float
    loss: float


def ladder_sizes(sizes: Sequence[str] | None, vocabulary: int) -> dict[str, float]:
    """Names → N of the sizes to choose from: the whole ladder, or those given.

    A size is a name of the ladder or a number of parameters. Raises UserError.
    """
    ladder = {name: float(shape.params(vocabulary)) for name, shape in LADDER.items()}
    if not sizes:
        return ladder
    chosen = {}
    for text in sizes:
        if text in ladder:
            chosen[text] = ladder[text]
            continue
        try:
            chosen[text] = parse_number(text)
        except UserError:
            raise UserError(
                f"{text!r} is neither a size of the ladder (`epochal sizes`) nor a number of "
                "parameters"
            ) from None
    return chosen


def best_of_sizes(
    law: KnownLaw,
    unique: float,
    flops: float,
    sizes: Mapping[str, float],
    optimum: float,
    only: bool,
) -> LadderChoice | None:
    """The size with the lowest loss for the budget.

    None if all are far from the `optimum`, unless the user asked for these sizes `only`.
    """
    found = []
    for name, params in sizes.items():
        best = optima(law, flops, unique, sizes=(params, params))
        tokens = float(best.tokens[0])
        epochs = tokens / min(tokens, unique)
        found.append(LadderChoice(name, params, tokens, epochs, float(best.loss[0])))
    choice = min(found, key=lambda c: c.loss)
    far = max(choice.params / optimum, optimum / choice.params) > _FAR
    return None if far and not only else choice


def iso_loss(
    law: KnownLaw, unique: float, flops: float, loss: float, params: float
) -> list[Alternative]:
    """The smallest model for the budget, and the least compute, within 0.01 nats of the best."""
    found = []
    target = loss + NEARLY
    low, high = max(np.log(params) - 6.0, np.log(SMALLEST)), np.log(params)
    for _ in range(4):
        grid = np.linspace(low, high, 25)
        losses = np.array([optima(law, flops, unique, sizes=(n, n)).loss[0] for n in np.exp(grid)])
        good = np.flatnonzero(losses <= target)
        at = int(good[0]) if len(good) else len(grid) - 1
        low, high = grid[max(at - 1, 0)], grid[at]
    smaller = optima(law, flops, unique, sizes=(float(np.exp(high)), float(np.exp(high))))
    found.append(_alternative("smaller model", unique, *_numbers(smaller)))
    spent = least_flops(law, unique, target, np.log(flops) - _FEWER, np.log(flops))
    found.append(_alternative("fewer FLOPs", unique, *_numbers(optima(law, spent, unique))))
    return found


def _numbers(best: object) -> tuple[float, float, float]:
    return tuple(float(getattr(best, name)[0]) for name in ("params", "tokens", "loss"))  # type: ignore[return-value]


def _alternative(
    what: Literal["smaller model", "fewer FLOPs"],
    unique: float,
    params: float,
    tokens: float,
    loss: float,
) -> Alternative:
    return Alternative(
        what, params, tokens, tokens / min(tokens, unique), 6 * params * tokens, loss
    )


def model_for(params: float, vocabulary: int) -> Model:
    """A model of about `params` parameters: the nearest of the ladder, or one of our own shape.

    Beyond the ladder's ends and between far rows: width in steps of 32, depth about width/64,
    as the ladder's small rows have it.
    """
    ladder = ladder_sizes(None, vocabulary)
    name = min(ladder, key=lambda n: abs(np.log(ladder[n] / params)))
    if abs(np.log(ladder[name] / params)) < np.log(1.15):
        return Model(size=name)
    shapes = [
        (width, depth)
        for width in range(32, 6144, 32)
        for depth in range(max(1, width // 96), max(3, width // 40) + 1)
    ]
    sizes = {shape: _shape(*shape).params(vocabulary) for shape in shapes}
    width, depth = min(
        sizes, key=lambda s: (round(abs(np.log(sizes[s] / params)), 2), abs(s[1] - s[0] / 64))
    )
    own = sizes[width, depth]
    if abs(np.log(own / params)) > abs(np.log(ladder[name] / params)):
        return Model(size=name)
    heads = _heads(width)
    return replace(Model(), d_model=width, layers=depth, heads=heads)


def _shape(width: int, depth: int) -> Architecture:
    heads = _heads(width)
    return Architecture(
        d_model=width,
        layers=depth,
        heads=heads,
        head_dim=width // heads,
        d_ff=swiglu_width(width),
    )


def _heads(width: int) -> int:
    return width // 64 if width % 64 == 0 and width >= 256 else width // 32

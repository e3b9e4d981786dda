"""The grid search that advice is measured against, declared as a sweep of Epochal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advice_parts.record import GridPoint
from epochal.recipe import Recipe
from epochal.recipe.load import Tree
from epochal.recipe.numbers import RunNumbers
from epochal.studies.probes import Probe
from epochal.sweeps.designs import SweepRun
from epochal.sweeps.file import Sweep, sweep_from_tree
from epochal.sweeps.record import RunState, State


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the grid reaches."""

    sizes: int
    """Sizes per family, around the recommended one."""
    rates: Sequence[float]
    """Learning rates, as multiples of the one that a study gives the size."""
    decays: Sequence[float]
    """Weight decays."""


def around(size: str | None, sizes: Sequence[str], number: int) -> list[str]:
    """`number` neighbours of `sizes` (smallest first) around `size`; the first ones without it.

    At an end they reach to the other side, so that there are always as many.
    """
    at = sizes.index(size) if size in sizes else 0
    first = max(0, min(at - (number - 1) // 2, len(sizes) - number))
    return list(sizes[first : first + number])


def grid_sweep(
    base: Tree,
    flops: float,
    unique_tokens: int,
    params: Mapping[str, int],
    centres: Mapping[str, str],
    extent: Extent,
) -> Sweep:
    """Every size, learning rate and weight decay of each family with the same compute.

    `params` are all sizes with their parameters, smallest first; `centres` family → the size
    recommended. The length follows from the compute C: D = C / (6·N) tokens, D / U epochs.
    """
    runs: list[dict[str, Any]] = []
    for family, centre in centres.items():
        for size in around(centre, list(params), extent.sizes):
            tokens = int(flops / (6 * params[size]))
            probe = Probe(family, size, unique_tokens, tokens / unique_tokens)
            rate = probe.keys({})["train.lr"]
            for factor in extent.rates:
                lr = rate * factor
                changes = {"train.lr": lr, "train.min_lr": lr / 10, "train.tokens": tokens}
                runs.append({"name": f"{family}-{size}-lr{lr:g}", **probe.keys(changes)})
    tree = {
        "sweep": {"design": "list"},
        "runs": runs,
        "grid": {"train.weight_decay": list(extent.decays)},
        "base": base,
    }
    return sweep_from_tree(tree, "grid")


def recommended_runs(recipes: Mapping[str, Recipe]) -> list[SweepRun]:
    """The recommended configuration of each family as a run."""
    return [
        SweepRun(f"recommended-{family}", replace(recipe, run_dir=None))
        for family, recipe in recipes.items()
    ]


def grid_points(
    runs: Sequence[SweepRun], states: Sequence[RunState], numbers: Mapping[str, RunNumbers]
) -> list[GridPoint]:
    """What the runs showed, in their order."""
    by_name = {state.name: state for state in states}
    points = []
    for run in runs:
        state, length = by_name[run.name], numbers[run.name]
        points.append(
            GridPoint(
                family=run.recipe.family,
                size=size_name(run.recipe),
                lr=run.recipe.train.lr,
                weight_decay=run.recipe.train.weight_decay,
                tokens=length.tokens,
                epochs=round(length.epochs, 3),
                nll=state.nll if state.state == State.FINISHED else None,
            )
        )
    return points


def size_name(recipe: Recipe) -> str:
    """Width x layers x heads."""
    shape = recipe.model.architecture()
    return f"{shape.d_model}x{shape.layers}x{shape.heads}"

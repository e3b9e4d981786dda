"""The `[sweep]` section: what is varied, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.units import Count, Quantity

Design = Literal["isoflop", "epochs", "data-value", "grid", "ablation", "trunk", "list"]
DESIGNS: tuple[Design, ...] = get_args(Design)
LENGTHS = ("flops", "epochs", "tokens")
"""Axes that say how long a run is; a part has at most one, but for data-value."""

_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Axes:
    """What is varied. An axis left empty keeps what `[base]` says."""

    design: Design
    """isoflop: every size at every FLOP budget. epochs: every size for every number of epochs.
    data-value: one FLOP budget spent on 1/k of the data for k epochs. grid: every combination.
    ablation: the base and each of `[variants]`. trunk: one long run at a constant rate, and for
    each length a run that starts from it and decays. list: the `[[runs]]` as they stand."""
    families: tuple[str, ...] = ()
    """Names of families."""
    sizes: tuple[str, ...] = ()
    """Names of the ladder, or "96x3x3" for d_model x layers x heads."""
    flops: tuple[Quantity, ...] = ()
    """Budgets in FLOPs, 6·N·D."""
    epochs: tuple[Quantity, ...] = ()
    """Lengths in passes over the unique tokens."""
    tokens: tuple[Count, ...] = ()
    """Lengths in tokens seen."""
    unique_tokens: tuple[Count, ...] = ()
    """Unique tokens U; with data-value the U of each number of epochs, one by one."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Each run once per seed."""
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    """Leave out runs that would repeat their tokens more often."""

    def __post_init__(self) -> None:
        given = [key for key in LENGTHS if getattr(self, key)]
        allowed, needed = _NEEDS[self.design]
        if wrong := [key for key in given if key not in allowed]:
            raise RecipeError(
                f"`sweep.{wrong[0]}` has no place in the design {self.design}; "
                + (f"give `sweep.{allowed[0]}`" if allowed else "each run has its own length")
            )
        if missing := [key for key in needed if not getattr(self, key)]:
            raise RecipeError(
                f"`sweep.{missing[0]}` is missing: the design {self.design} needs "
                + " and ".join(f"`sweep.{key}`" for key in needed)
            )
        if self.design == "list" and (self.families or self.sizes or self.unique_tokens):
            raise RecipeError(
                "only `sweep.seeds` goes with the design list: each run has its own other settings"
            )
        if self.design == "data-value":
            _check_data_value(self)
        elif len(given) > 1:
            raise RecipeError(
                f"`sweep.{given[0]}` and `sweep.{given[1]}` both set the lengths of the runs; "
                "keep one of them"
            )
        elif self.design == "trunk" and not given:
            raise RecipeError(
                "the design trunk needs the lengths of its branches: give `sweep.epochs`, "
                "`sweep.tokens` or `sweep.flops`"
            )


# design → (lengths that it takes, axes that it cannot do without)
_NEEDS: dict[Design, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "isoflop": (("flops",), ("flops", "sizes")),
    "epochs": (("epochs",), ("epochs",)),
    "data-value": (("flops", "epochs"), ("epochs",)),
    "grid": (LENGTHS, ()),
    "ablation": (LENGTHS, ()),
    "trunk": (LENGTHS, ()),
    "list": ((), ()),
}


def _check_data_value(axes: Axes) -> None:
    if axes.unique_tokens and len(axes.unique_tokens) != len(axes.epochs):
        raise RecipeError(
            f"`sweep.unique_tokens` has {len(axes.unique_tokens)} values and `sweep.epochs` "
            f"{len(axes.epochs)}; the design data-value takes them in pairs"
        )
    if not axes.unique_tokens and not axes.flops:
        raise RecipeError(
            "`sweep.flops` is missing: the design data-value spends one budget on 1/k of the "
            "data; or give the `sweep.unique_tokens` of each number of epochs"
        )

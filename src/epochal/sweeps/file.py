"""Sweep files: TOML with a `[sweep]` section and the `[base]` recipe of all its runs.

[sweep]                     what is varied: the fields of Axes
[[part]]                    the same with some keys replaced; the runs of all parts together
[grid]                      lists of values of recipe keys: every combination
[variants.NAME]             named changes of recipe keys, one at a time
[[runs]]                    runs written out, for the design "list"
[base]                      a recipe, without what the design sets
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic.dataclasses
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from epochal.errors import RecipeError, nearest
from epochal.progress import say_renamed
from epochal.recipe import find_recipe, known_keys
from epochal.recipe.load import (
    Tree,
    apply_overrides,
    check_keys,
    flat,
    read_overrides,
    read_toml,
)
from epochal.units import Count, Quantity

_SECTIONS = ("sweep", "part", "grid", "variants", "runs", "base")
_OPTIONS = ("evaluate", "early_stopping")
"""Keys of `[sweep]` about how the runs are run, not about which runs there are."""
_RENAMED = {"stop_hopeless": "early_stopping"}
"""Old key of `[sweep]` → today's."""


Design = Literal["isoflop", "epochs", "data-value", "grid", "ablation", "trunk", "ensemble", "list"]
_LENGTHS = ("flops", "epochs", "tokens")
"""Axes that say how long a run is; a part has at most one, but for data-value."""

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, defer_build=True)


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Axes:
    """What is varied. An axis left empty keeps what `[base]` says."""

    design: Design
    """isoflop: every size at every FLOP budget. epochs: every size for every number of epochs.
    data-value: one FLOP budget spent on 1/k of the data for k epochs. grid: every combination.
    ablation: the base and each of `[variants]`. trunk: one long run at a constant rate, and for
    each length a run that starts from it and decays. ensemble: every combination, longer and with
    less weight decay, once per seed. list: the `[[runs]]` as they stand."""
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
    epochs_factor: Annotated[float, Field(gt=0)] | None = None
    """ensemble: length of a member beside that of the recipe; 2 if not given."""
    decay_factor: Annotated[float, Field(ge=0)] | None = None
    """ensemble: its weight decay beside the recipe's; 0.5 if not given."""

    def __post_init__(self) -> None:
        given = [key for key in _LENGTHS if getattr(self, key)]
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
        factors = ("epochs_factor", "decay_factor")
        if self.design != "ensemble" and any(getattr(self, key) is not None for key in factors):
            raise RecipeError(
                "`sweep.epochs_factor` and `sweep.decay_factor` belong to the design ensemble"
            )
        if self.design == "ensemble" and len(set(self.seeds)) < 2:
            raise RecipeError(
                f"`sweep.seeds` = {list(self.seeds)}: an ensemble has a member per seed; give two "
                "or more"
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
    "grid": (_LENGTHS, ()),
    "ablation": (_LENGTHS, ()),
    "trunk": (_LENGTHS, ()),
    "ensemble": (_LENGTHS, ("seeds",)),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep file as read and checked."""

    name: str
    """The file's name without `.toml`."""
    parts: tuple[Axes, ...]
    """One set of axes per `[[part]]`; just `[sweep]` if there is none."""
    grid: dict[str, list[Any]]
    """Dotted recipe key → its values."""
    variants: dict[str, Tree]
    """Name → dotted recipe key → value."""
    runs: tuple[Tree, ...]
    """Dotted keys of runs written out, `name` among them."""
    base: Tree
    """The recipe of all runs, as nested values."""
    evaluate: bool = True
    """Whether the best checkpoint of each run is evaluated."""
    early_stopping: bool = False
    """Whether runs that cannot become the best are ended early."""


def load_sweep(name: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Sweep:
    """The sweep in a file, or a shipped one by name, with overrides. With overrides of `sweep.` the
    file may be a recipe, the base of all runs.

    `overrides` are like `sweep.flops=[1e15]`, `grid.train.lr=[1e-3, 2e-3]`, or a bare recipe key,
    `train.global_batch_size=32`, which changes `[base]`. Raises RecipeError naming the key, the
    value and what is allowed.
    """
    path = find_recipe(str(name))
    tree = read_toml(path)
    if "sweep" not in tree:
        if not is_sweep(tree, overrides):
            raise RecipeError(
                f"{path} has no [sweep] section, so it is a recipe; `epochal train {name}` trains "
                "it, and sweep.design=… makes a sweep of it"
            )
        tree.pop("run_dir", None)
        tree = {"base": tree}
    return sweep_from_tree(tree, path.stem, overrides)


def is_sweep(tree: Tree, overrides: Sequence[str] | Mapping[str, Any]) -> bool:
    """Whether a file's values are a sweep's, or its overrides make it one."""
    return "sweep" in tree or any(key.startswith("sweep.") for key in read_overrides(overrides))


def sweep_from_tree(
    tree: Tree, name: str, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Sweep:
    """Validate the nested values of a sweep file. Raises RecipeError for the first mistake."""
    for section in tree:
        if section not in _SECTIONS:
            if section in {key.partition(".")[0] for key in known_keys()}:
                raise RecipeError(f"`{section}` is outside of [base]; write `base.{section}`")
            hint = nearest(section, _SECTIONS) or f" Sections are {', '.join(_SECTIONS)}."
            raise RecipeError(f"unknown section `{section}` in a sweep.{hint}")
    changes = read_overrides(overrides)
    if "sweep" in tree:
        tree["sweep"] = {_new_name(key): value for key, value in _section(tree, "sweep").items()}
    _apply(tree, changes)
    settings = _section(tree, "sweep")
    parts = _tables(tree, "part")
    options = {key: settings.pop(key) for key in _OPTIONS if key in settings}
    for key, value in options.items():
        if not isinstance(value, bool):
            raise RecipeError(f"`sweep.{key}` = {value!r} should be true or false")
    sweep = Sweep(
        name=name,
        parts=tuple(_axes(settings | part) for part in parts or [{}]),
        grid=_grid(_section(tree, "grid")),
        variants={
            _named(key, f"the variant {key!r}"): _changes(value, f"variants.{key}")
            for key, value in _section(tree, "variants").items()
        },
        runs=tuple(_run(run, number) for number, run in enumerate(_tables(tree, "runs"), start=1)),
        base=_section(tree, "base"),
        **options,
    )
    _check_base(sweep)
    return sweep


def _apply(tree: Tree, changes: Mapping[str, Any]) -> None:
    """Set overrides. Those of `[sweep]` apply to every part."""
    base: Tree = {}
    for dotted, value in changes.items():
        section, _, rest = dotted.partition(".")
        if section == "sweep" and rest:
            rest = _new_name(rest)
            dotted = f"sweep.{rest}"
            for part in _tables(tree, "part"):
                part.pop(rest, None)
        if section in _SECTIONS and rest:
            if section == "base":
                base[rest] = value
            else:
                apply_overrides(tree, {dotted: value})
        else:
            base[dotted] = value
    apply_overrides(tree.setdefault("base", {}), base)


def _new_name(key: str) -> str:
    """Today's name of a key of `[sweep]`; a notice for an old one."""
    if key in _RENAMED:
        say_renamed("keys of the sweep", {f"sweep.{key}": f"sweep.{_RENAMED[key]}"})
    return _RENAMED.get(key, key)


def _section(tree: Tree, name: str) -> Tree:
    section = tree.get(name, {})
    if not isinstance(section, dict):
        raise RecipeError(f"`{name}` is a section; write [{name}]")
    return dict(section)


def _tables(tree: Tree, name: str) -> list[Tree]:
    tables = tree.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RecipeError(f"`{name}` is a list of sections; write [[{name}]]")
    return tables


def _axes(values: Tree) -> Axes:
    known = [field.name for field in fields(Axes)]
    for key in values:
        if key not in known:
            by_value = f" Keys are {', '.join(known + list(_OPTIONS))}."
            hint = nearest(key, known + list(_OPTIONS)) or by_value
            raise RecipeError(f"unknown key `sweep.{key}`.{hint}")
    # A single value is a list of one.
    single = ("design", "max_epochs", "epochs_factor", "decay_factor")
    lists = {
        key: value if key in single or isinstance(value, list) else [value]
        for key, value in values.items()
    }
    try:
        return TypeAdapter(Axes).validate_python(lists)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        if first["type"] == "missing":
            raise RecipeError(
                f"`sweep.{key}` is missing: one of {', '.join(get_args(Design))}"
            ) from None
        raise RecipeError(f"`sweep.{key}` = {first['input']!r}: {message}") from None


def _changes(tree: Any, where: str) -> Tree:
    """Dotted recipe keys and their values, checked to be recipe keys."""
    if not isinstance(tree, dict):
        raise RecipeError(f"`{where}` is a section of recipe keys")
    # Keys in quotes have dots of their own.
    nested: Tree = {}
    apply_overrides(nested, flat(tree))
    if "run_dir" in nested:
        raise RecipeError(f"`{where}.run_dir` has no place in a sweep: each run has its own folder")
    check_keys(nested)
    return flat(nested)


def _grid(tree: Tree) -> dict[str, list[Any]]:
    grid = _changes(tree, "grid")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise RecipeError(f"`grid.{key}` = {values!r} should be a list of values")
    return grid


def _named(name: Any, what: str) -> str:
    """The name, which becomes a folder's."""
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise RecipeError(f"{what} needs a name without slashes and leading dots, not {name!r}")
    return name


def _run(tree: Tree, number: int) -> Tree:
    rest = dict(tree)
    name = rest.pop("name", None)
    return {"name": _named(name, f"[[runs]] number {number}"), **_changes(rest, f"runs.{name}")}


def _check_base(sweep: Sweep) -> None:
    _changes(sweep.base, "base")
    designs = {part.design for part in sweep.parts}
    if ("list" in designs) != bool(sweep.runs):
        raise RecipeError(
            'the design "list" needs [[runs]]'
            if "list" in designs
            else '[[runs]] belong to the design "list"'
        )
    if "ablation" in designs and not sweep.variants:
        raise RecipeError('the design "ablation" needs at least one [variants.NAME]')

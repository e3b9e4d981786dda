"""Designs: pure functions from a sweep to its named recipes."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from epochal.data.corpus import open_corpus
from epochal.errors import DataError, RecipeError
from epochal.recipe import Recipe
from epochal.recipe.load import Tree, apply_overrides, check_read, recipe_from_tree
from epochal.recipe.numbers import RunNumbers, decay_begin, run_numbers
from epochal.recipe.schema import Data, Train
from epochal.sizes import GPT2_VOCABULARY, LADDER
from epochal.sweeps.file import Axes, Sweep
from epochal.units import format_count

_SHAPE = re.compile(r"([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)")
_CORPUS_KEYS = ("corpus", "train", "validation", "tokenizer")
_SHAPE_KEYS = ("size", "d_model", "layers", "heads", "head_dim", "d_ff")

Changes = dict[str, Any]
Point = tuple[list[str], Changes]
"""(parts of the name, dotted recipe keys)."""


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep: its name, unique in the sweep, and its recipe without a run_dir."""

    name: str
    recipe: Recipe
    after: str | None = None
    """The run of the sweep, the trunk, from whose checkpoint this one starts."""
    start_step: int = 0
    """At which of its steps."""


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What designs need of the corpus; without arguments: one that is not on this disk."""

    vocabulary: int = GPT2_VOCABULARY
    unique_tokens: int | None = None
    """In the whole corpus; None if it is not there, and the vocabulary GPT-2's."""

    @classmethod
    def of(cls, sweep: Sweep) -> CorpusFacts:
        """Facts of the corpus in `[base]`, if it is there."""
        given = sweep.base.get("data", {})
        try:
            corpus = open_corpus(Data(**{key: given[key] for key in _CORPUS_KEYS if key in given}))
        except DataError:
            return cls()
        return cls(corpus.tokenizer.vocabulary, corpus.train.unique_tokens)

    def unique(self, recipe: Recipe) -> int | None:
        """Unique tokens that a run of this recipe has, or None where they are not known."""
        return recipe.data.unique_tokens or self.unique_tokens

    def numbers(self, recipe: Recipe) -> RunNumbers:
        """The run's numbers. Raises RecipeError for a length in epochs of something unknown."""
        unique = self.unique(recipe)
        if unique is None and recipe.train.epochs is not None:
            raise RecipeError(
                f"`train.epochs` = {recipe.train.epochs:g} of a corpus that is not there: give "
                "`base.data.unique_tokens`, or prepare the corpus first"
            )
        # Any number will do where it only says how many epochs the tokens are.
        return run_numbers(recipe, 2**62 if unique is None else unique, self.vocabulary)


def design_runs(sweep: Sweep, facts: CorpusFacts | None = None) -> list[SweepRun]:
    """All runs of a sweep, in the order of the file.

    Without the unique tokens of the corpus, `max_epochs` leaves out no run whose recipe does not
    say them. Raises RecipeError for settings that make no recipe, and where two different runs
    would have one name.
    """
    facts = facts or CorpusFacts()
    runs: dict[str, SweepRun] = {}
    for part in sweep.parts:
        for run in _part_runs(sweep, part, facts):
            if runs.setdefault(run.name, run) != run:
                raise RecipeError(
                    f"two different runs of the sweep are both named {run.name}; give them apart "
                    "by families, sizes, lengths, unique_tokens, seeds or a grid"
                )
    if not runs:
        raise RecipeError(
            "no run is left of this sweep: `sweep.max_epochs` leaves out all; raise it"
        )
    varied = [*sweep.grid, *itertools.chain.from_iterable(sweep.variants.values())]
    check_read(varied, list(dict.fromkeys(run.recipe.family for run in runs.values())))
    return list(runs.values())


def _shape_changes(size: str) -> Changes:
    """Model keys of a ladder name or of "96x3x3"."""
    none: Changes = {f"model.{key}": None for key in _SHAPE_KEYS}
    if match := _SHAPE.fullmatch(size):
        numbers = map(int, match.groups())
        return none | dict(
            zip(("model.d_model", "model.layers", "model.heads"), numbers, strict=True)
        )
    if size not in LADDER:
        raise RecipeError(
            f"`sweep.sizes`: {size!r} is no size; write one of the ladder, which `epochal sizes` "
            'shows, or width x layers x heads, like "96x3x3"'
        )
    return none | {"model.size": size}


def _part_runs(sweep: Sweep, part: Axes, facts: CorpusFacts) -> Iterator[SweepRun]:
    for labels, changes in _points(sweep, part, facts.vocabulary):
        if part.design == "trunk":
            yield from _trunk_runs(sweep, part, (labels, changes), facts)
            continue
        run = SweepRun("-".join(labels), _recipe(sweep.base, changes))
        if part.design == "ensemble":
            run = replace(run, recipe=_member(run.recipe, part))
        if not _too_many_epochs(part, run.recipe, facts):
            yield run


def _member(recipe: Recipe, part: Axes) -> Recipe:
    """A recipe as a member of an ensemble trains it: twice as long with half the weight decay, at
    the same rate, which made better ensembles than a single model's best settings (Kim et al.,
    arXiv 2509.14786)."""
    longer = 2.0 if part.epochs_factor is None else part.epochs_factor
    weaker = 0.5 if part.decay_factor is None else part.decay_factor
    train, key = recipe.train, recipe.train.budget_key()
    length = getattr(train, key) * longer
    if key in ("tokens", "steps"):
        length = round(length)
    decay = train.weight_decay * weaker
    return replace(recipe, train=replace(train, **{key: length, "weight_decay": decay}))


def _trunk_runs(sweep: Sweep, part: Axes, point: Point, facts: CorpusFacts) -> Iterator[SweepRun]:
    """A trunk and its branches, one per length."""
    branches: list[_Branch] = []
    schedule = {"train.schedule": sweep.base.get("train", {}).get("schedule", "wsd")}
    for label, length in _lengths(part):
        recipe = _recipe(sweep.base, schedule | point[1] | length)
        if not _too_many_epochs(part, recipe, facts):
            name = "-".join(point[0] + label)
            branches.append((name, recipe, facts.numbers(recipe)))
    if not branches:
        return
    trunk = "-".join([*point[0], "trunk"])
    recipe, grown = _build_trunk(branches)
    yield SweepRun(trunk, recipe)
    for (name, _, _), (branch, start) in zip(branches, grown, strict=True):
        yield SweepRun(name, branch, trunk, start)


def _recipe(base: Tree, changes: Changes) -> Recipe:
    tree = copy.deepcopy(base)
    apply_overrides(tree, changes)
    recipe = recipe_from_tree(tree)
    recipe.model.architecture()  # else a wrong size would be found only when the run starts
    return recipe


def _too_many_epochs(part: Axes, recipe: Recipe, facts: CorpusFacts) -> bool:
    if part.max_epochs is None or facts.unique(recipe) is None:
        return False
    return facts.numbers(recipe).epochs > part.max_epochs * (1 + 1e-9)


def _points(sweep: Sweep, part: Axes, vocabulary: int) -> Iterator[Point]:
    """Points of a part: its design, times the grid, the variants and the seeds."""
    if part.design == "list":
        inner: Iterable[Point] = (
            ([run["name"]], {key: value for key, value in run.items() if key != "name"})
            for run in sweep.runs
        )
    else:
        inner = _design(sweep, part, vocabulary)
    many_seeds = len({seed for one in sweep.parts for seed in one.seeds}) > 1
    for (labels, changes), varied, variant, seed in itertools.product(
        inner, _combinations(sweep.grid), _variants(sweep, part), part.seeds or [None]
    ):
        name = [*labels, *varied[0], *variant[0]]
        given = changes | varied[1] | variant[1]
        if seed is not None:
            given = given | {"seed": seed}
            name += [f"s{seed}"] if many_seeds else []
        yield name, given


def _design(sweep: Sweep, part: Axes, vocabulary: int) -> Iterator[Point]:
    families = part.families or (sweep.base.get("family", Recipe.family),)
    for family, size in itertools.product(families, part.sizes or [None]):
        labels, changes = [str(family)], {"family": family}
        if size is not None:
            labels.append(size)
            changes |= _shape_changes(size)
        if part.design == "data-value":
            shares = _data_value(sweep.base, part, changes, vocabulary)
        elif part.design == "trunk":  # the lengths are the branches of one point
            shares = iter(_unique(part))
        else:
            shares = itertools.starmap(_joined, itertools.product(_unique(part), _lengths(part)))
        for more_labels, more in shares:
            yield labels + more_labels, changes | more


def _joined(one: Point, other: Point) -> Point:
    return one[0] + other[0], one[1] | other[1]


def _unique(part: Axes) -> list[Point]:
    found: list[Point] = [
        ([f"U{_short(u)}"], {"data.unique_tokens": u}) for u in part.unique_tokens
    ]
    return found or [([], {})]


def _lengths(part: Axes) -> list[Point]:
    """The part's one axis of lengths; `[base]` says the length if there is none."""
    found: list[Point] = [([_short(c)], {"train.flops": c}) for c in part.flops]
    found += [([f"{_short(e)}ep"], {"train.epochs": e}) for e in part.epochs]
    found += [([f"{_short(d)}tok"], {"train.tokens": d}) for d in part.tokens]
    return found or [([], {})]


def _data_value(base: Tree, part: Axes, changes: Changes, vocabulary: int) -> Iterator[Point]:
    """k epochs over U_k, for each k.

    U_k as given, with `train.flops` = C or, without a budget, `train.epochs` = k; or else
    ⌊C / (6·N·k)⌋ with `train.flops` = C. So all runs of a budget spend the same compute (paper
    §3, the sets of its data-value runs).
    """
    for budget in part.flops or (None,):
        label = [] if budget is None else [_short(budget)]
        for number, epochs in enumerate(part.epochs):
            named = [*label, f"{_short(epochs)}ep"]
            if part.unique_tokens:
                unique = part.unique_tokens[number]
                # With a budget, all runs spend the same, though no subset is 1/k to the token.
                length = {"train.epochs": epochs} if budget is None else {"train.flops": budget}
                yield named, {**length, "data.unique_tokens": unique}
            elif budget is not None:
                shape = _recipe(base, changes | {"train.flops": budget}).model.architecture()
                unique = int(budget / shape.flops_per_token(vocabulary) / epochs)
                yield named, {"train.flops": budget, "data.unique_tokens": unique}


def _combinations(grid: dict[str, list[Any]]) -> list[Point]:
    """Every combination of the grid's values; one without any change for an empty grid."""
    names = [key.rpartition(".")[2] for key in grid]
    return [
        (
            [f"{name}{_text(value)}" for name, value in zip(names, values, strict=True)],
            dict(zip(grid, values, strict=True)),
        )
        for values in itertools.product(*grid.values())
    ]


def _variants(sweep: Sweep, part: Axes) -> list[Point]:
    plain: list[Point] = [(["plain"], {})] if part.design == "ablation" else []
    return plain + [([name], changes) for name, changes in sweep.variants.items()] or [([], {})]


def _short(number: float) -> str:
    return format_count(number).replace("+", "")


def _text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text)


_Branch = tuple[str, Recipe, RunNumbers]
"""(name, recipe as a run of its own, its numbers)."""


def _build_trunk(branches: Sequence[_Branch]) -> tuple[Recipe, list[tuple[Recipe, int]]]:
    """(the trunk's recipe, each branch's recipe and the step of the trunk at which it starts).

    With warm-up, stable, decay, the branch of T steps is the trunk's first T·(1 − decay) steps and
    then its own decay, so several token budgets cost one run and their decays (Hägele et al.,
    arXiv 2405.18392).

    The recipes differ in their length only. The trunk ends where the longest branch begins to
    decay, and keeps checkpoints where the others do. It is warmed up over the recipe's share of
    itself; a branch's recipe gets the share that is as many steps, so that a run
    trained alone with it would get the same weights. Raises RecipeError where a
    branch cannot start from a trunk.
    """
    starts = [_start(name, recipe, numbers) for name, recipe, numbers in branches]
    longest = max(starts)
    plain = Train()
    first = branches[0][1]
    trunk = replace(
        first,
        train=replace(
            first.train,
            epochs=None,
            tokens=None,
            flops=None,
            steps=longest,
            schedule="constant",
            decay=plain.decay,
            decay_shape=plain.decay_shape,
        ),
        checkpoint=replace(
            first.checkpoint,
            keep_at=tuple(sorted({*first.checkpoint.keep_at, *starts} - {longest})),
        ),
    )
    warm = first.train.warmup * longest
    grown = []
    for (name, recipe, numbers), start in zip(branches, starts, strict=True):
        if start < math.ceil(warm):
            raise RecipeError(
                f"the branch {name} begins to decay at step {start:,}, before the trunk's warm-up "
                f"of {math.ceil(warm):,} steps is over; lower `base.train.warmup`, a share of the "
                f"trunk's {longest:,} steps, or leave out that length"
            )
        share = warm / numbers.steps
        if recipe.train.lr_progress == "samples":
            share = warm * numbers.global_batch_size / numbers.rows
        grown.append((replace(recipe, train=replace(recipe.train, warmup=share)), start))
    return trunk, grown


def _start(name: str, recipe: Recipe, numbers: RunNumbers) -> int:
    train = recipe.train
    if train.schedule != "wsd":
        raise RecipeError(
            f'`train.schedule` = "{train.schedule}" has no place in the design trunk, which has '
            'the schedule "wsd"; leave it out'
        )
    if train.cycles > 1:
        raise RecipeError(
            f"`train.cycles` = {train.cycles} has no place in the design trunk: each branch decays "
            "once; leave it out"
        )
    if train.start_from is not None:
        raise RecipeError(
            "`train.start_from` has no place in the design trunk: each branch starts from the "
            "trunk that the design makes; leave it out"
        )
    start = int(decay_begin(train, numbers.steps))
    if not 0 < start < numbers.steps:
        raise RecipeError(
            f"the branch {name} of {numbers.steps:,} steps leaves no step for "
            f"{'the trunk' if start == 0 else 'its decay'} with `train.decay` = {train.decay:g}; "
            "change the decay or train longer"
        )
    return start

"""Validation NLL of a model: exact for AR, a Monte-Carlo bound for MDM, by one code path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal.data.rows import ScoredWindows
from epochal.device import Machine
from epochal.errors import DataError
from epochal.estimates import Estimate, Floats, Layout, estimate
from epochal.likelihood.controls import (
    FEATURES,
    History,
    normal_equations,
    scored_unigram_nll,
    slopes,
)
from epochal.likelihood.draws import DrawPlan, EvalShard
from epochal.models import Transformer
from epochal.objectives import Draw, Likelihood, Problem, mean_logit_nll, to_device, token_nll

EVALUATION_SEED = 0
"""One seed for all, so that every checkpoint and every model meets the same masks."""

Report = Callable[[float], None]
Integers = NDArray[np.int64]
Averaging = Literal["probabilities", "logits"]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Several models as one, at each position: the mean of their probabilities, or the softmax of
    the mean of their logits, a geometric mean. For logits their tables have equally many rows."""

    models: tuple[Transformer, ...]
    average: Averaging = "probabilities"
    parts: tuple[Part, ...] = ()
    """What else is scored in the same passes."""


@dataclass(frozen=True, slots=True)
class Part:
    """The mean NLL of groups of an ensemble's models, each group an ensemble of its own."""

    groups: tuple[tuple[int, ...], ...]
    """Which of the models, from 0."""
    average: Averaging = "probabilities"


Models = Transformer | Ensemble


def members(model: Models) -> tuple[Transformer, ...]:
    """The models that it consists of."""
    return model.models if isinstance(model, Ensemble) else (model,)


@dataclass(slots=True)
class _DrawSums:
    """What is kept of a draw. S segments (the part of a document in a row), J features."""

    values: Floats
    """[S] Σ w·NLL."""
    controls: Floats
    """[J, S] Σ (w − 1)·feature."""
    shares: Floats
    """[rows] masked share of the scored tokens."""
    products: Floats
    """[batches, 2, J + 2, J + 2] normal equations of the slopes, per half of the groups. Kept
    by batch, so that they are summed in one order on any number of processes."""
    places: Floats
    """[L − 1] Σ w·NLL over rows, by place in the window."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that go through the model together, made ready ahead of it."""

    part: slice
    counts: bool
    tokens: Integers
    """[B, L − 1] those that are scored."""
    problem: Problem


@dataclass
class Evaluator:
    """Scores one validation set with any model; draws can be added until they are enough."""

    objective: Likelihood
    machine: Machine
    windows: ScoredWindows
    document_starts: Integers
    vocabulary: int
    batch: int
    seed: int = EVALUATION_SEED
    shard: EvalShard = field(default_factory=EvalShard)

    def __post_init__(self) -> None:
        if not len(self.windows):
            raise DataError(
                "the validation set has fewer than two tokens, so there is nothing to score; "
                "prepare the corpus with a larger --validation share"
            )
        self._unigram_nll = scored_unigram_nll(self.windows, self.vocabulary)
        self.rows = len(self.windows)
        self._plan = DrawPlan(self.rows, self.seed, stratified=True)
        self._layout = self._make_layout()
        self.tokens_scored = int(self._layout.tokens.sum())  # in a draw
        self.documents = len(np.unique(self._layout.document))  # that the windows touch
        self._halves = self._layout.group % 2
        self.clear()

    def clear(self) -> None:
        """Forget all draws."""
        self.parts: list[Evaluator] = []
        """One for each of `Ensemble.parts`, once there is a draw."""
        self._draws: list[_DrawSums] = []
        self._history = None if self.objective.exact else History(self.rows, self.windows.stride)

    @property
    def draws(self) -> int:
        """Draws made so far."""
        return len(self._draws)

    def add_draw(self, model: Models, report: Report = lambda done: None) -> None:
        """Score all windows once more, with new masks. `report` hears the share done."""
        for one in members(model):
            one.eval()
        each: list[Evaluator] = scored_together(self, model)
        sums = [one._empty() for one in each]
        launched: tuple[_Batch, list[_TokenNLL]] | None = None

        def add(batch: _Batch, found: list[_TokenNLL]) -> None:
            for one, nll, total in zip(each, found, sums, strict=True):
                one._add(batch, nll, total)
            report(batch.part.stop / self.rows)

        # The next batch is made ready in a thread while the model runs, and the last one's
        # figures are added up after the next has been launched: the device does not wait.
        with ThreadPoolExecutor(1) as pool:
            for batch in _ahead(pool, self._batches(self.draws)):
                now = batch, _launch(model, batch.problem, self.machine)
                if launched is not None:
                    add(*launched)
                launched = now
        if launched is not None:
            add(*launched)
        for evaluator, total in zip(each, sums, strict=True):
            arrays = [getattr(total, one.name) for one in fields(total)]
            evaluator._draws.append(_DrawSums(*self.shard.sums(arrays)))

    def result(self) -> Estimate:
        """The estimate from all draws so far."""
        values = np.stack([draw.values for draw in self._draws])
        if self.objective.exact:
            return estimate(self._layout, values, exact=True)
        return estimate(self._layout, values - self._corrections(), exact=False)

    def plain_values(self) -> Floats:
        """[R, S] sums without the control variates, for tests and benchmarks."""
        return np.stack([draw.values for draw in self._draws])

    def by_place(self) -> Floats:
        """[R, L − 1] mean of w·NLL in each draw, by place in the window (no control variate)."""
        return np.stack([draw.places for draw in self._draws]) / self._rows_with_place()

    def by_level(self) -> tuple[Floats, Floats]:
        """[R, rows] masked share of each row, and its mean NLL per masked token."""
        tokens = np.bincount(self._layout.row, weights=self._layout.tokens)
        sums = [np.bincount(self._layout.row, weights=draw.values) for draw in self._draws]
        return np.stack([draw.shares for draw in self._draws]), np.stack(sums) / tokens

    def nats_missed(self) -> float:
        """Estimate of what noise levels that the objective leaves out would add, nats per token."""
        if (missed := getattr(self.objective, "missed", None)) is None:
            return 0.0
        shares, values = self.by_level()
        return float(missed(values[shares <= np.quantile(shares, 0.02)].mean()))

    @property
    def by_document(self) -> bool:
        """Whether a result's units are documents; if there is one document, they are windows."""
        return self.documents > 1

    def unit_numbers(self) -> Integers:
        """[units] which document or window each unit of a result is."""
        at = self._layout
        units = at.document if self.by_document else at.row
        return np.flatnonzero(np.bincount(units, weights=at.tokens) > 0)

    def _corrections(self) -> Floats:
        """[R, S] slopes times controls, each half of the groups with the other's slopes."""
        products = np.sum([draw.products.sum(axis=0) for draw in self._draws], axis=0)
        rows = np.bincount(self._halves, minlength=2) * self.draws
        of_other = np.stack([slopes(products[1], rows[1]), slopes(products[0], rows[0])])
        mine = of_other[self._halves[self._layout.row]]
        return np.stack([(mine * draw.controls.T).sum(axis=1) for draw in self._draws])

    def _batches(self, number: int) -> Iterator[_Batch]:
        levels, keys = self._plan.levels(number), self._plan.keys(number)
        for part, counts in self.shard.shard_batches(self._parts()):
            rows = self.windows.rows(part.start, part.stop - part.start)
            tokens = torch.from_numpy(rows)
            problem = self.objective.likelihood_problem(
                tokens, scored_positions(tokens), Draw(levels[part], keys[part])
            )
            yield _Batch(part, counts, rows[:, 1:], problem)

    def _parts(self) -> list[slice]:
        """Batches of windows of one length."""
        full = self.windows.full
        parts = [slice(a, min(a + self.batch, full)) for a in range(0, full, self.batch)]
        return [*parts, slice(full, self.rows)] if full < self.rows else parts

    def _add(self, batch: _Batch, found: _TokenNLL, sums: _DrawSums) -> None:
        """Add a batch's weighted sums to their segments."""
        nll = found.positions()
        part, shift = batch.part, self.objective.shift
        if not batch.counts:
            return
        width = batch.tokens.shape[1]
        # Of the scored tokens, in the order of the rows.
        asked = slice(1 - shift, width + 1 - shift)
        weights = batch.problem.weights.numpy()[:, asked].astype(np.float64)
        nll = nll[:, asked]
        weighted = weights * nll
        segments, starts = self._segments_of(part)
        sums.values[segments] = np.add.reduceat(weighted.ravel(), starts)
        sums.places[:width] += weighted.sum(axis=0)
        if batch.problem.mean_one is not None:
            weights = batch.problem.mean_one[:, asked]
        sums.shares[part] = np.count_nonzero(weights, axis=1) / width
        if self._history is None:
            return
        unigram = self._unigram_nll[batch.tokens]
        features = np.stack((unigram, self._history.feature(part, width)))
        controls = ((weights - 1) * features).reshape(FEATURES, -1)
        sums.controls[:, segments] = np.add.reduceat(controls, starts, axis=1)
        products = normal_equations(weights, features, nll)
        for half in (0, 1):
            mine = products[self._halves[part] == half]
            sums.products[self._number[part.start], half] = mine.sum(axis=0)
        self._history.add(part, weights > 0, nll - unigram)

    def _segments_of(self, part: slice) -> tuple[Integers, Integers]:
        """Segments with tokens of some rows, and where each begins among the rows' tokens."""
        first, last = np.searchsorted(self._layout.row, [part.start, part.stop])
        sizes = self._layout.tokens[first:last]
        starts = np.cumsum(sizes) - sizes
        held = sizes > 0
        return np.arange(first, last)[held], starts[held]

    def _empty(self) -> _DrawSums:
        self._number = {part.start: number for number, part in enumerate(self._parts())}
        count = 0 if self.objective.exact else FEATURES
        segments = len(self._layout.row)
        return _DrawSums(
            values=np.zeros(segments),
            controls=np.zeros((count, segments)),
            shares=np.zeros(self.rows),
            products=np.zeros((len(self._number), 2, count + 2, count + 2)),
            places=np.zeros(self.windows.stride),
        )

    def _rows_with_place(self) -> Floats:
        """[L − 1] rows that have a scored token at each place."""
        tokens = np.bincount(self._layout.row, weights=self._layout.tokens)
        return np.asarray(
            (tokens[:, None] > np.arange(self.windows.stride)).sum(axis=0, dtype=float)
        )

    def _make_layout(self) -> Layout:
        places = self.windows.windows * self.windows.stride
        ends = np.minimum(places + self.windows.stride, len(self.windows.tokens) - 1)
        first, last = self._document(places + 1), self._document(ends)
        per_row = last - first + 1
        row = np.repeat(np.arange(self.rows), per_row)
        document = np.arange(len(row)) - (np.cumsum(per_row) - per_row)[row] + first[row]
        start = np.maximum(self.document_starts[document], places[row] + 1)
        end = np.minimum(self.document_starts[document + 1], ends[row] + 1)
        return Layout(row=row, document=document, tokens=end - start, group=self._plan.groups())

    def _document(self, places: Integers) -> Integers:
        return np.searchsorted(self.document_starts, places, side="right") - 1


def scored_positions(like: Tensor) -> Tensor:
    """[B, L] bool: all but the first position."""
    scored = torch.ones(like.shape, dtype=torch.bool)
    scored[:, 0] = False
    return scored


@dataclass(frozen=True, slots=True)
class _TokenNLL:
    """NLL of a problem's weighted positions, perhaps still being computed."""

    values: Tensor
    """[S] on the device."""
    index: Tensor | None
    """[S] positions in B·L; all if None."""
    shape: torch.Size

    def positions(self) -> Floats:
        """[B, L] NLL of each position with a weight, 0 elsewhere. Waits for the device."""
        out = np.zeros(self.shape.numel())
        out[slice(None) if self.index is None else self.index.numpy()] = (
            self.values.double().cpu().numpy()
        )
        return out.reshape(self.shape)


@torch.no_grad()
def _launch(model: Models, problem: Problem, machine: Machine) -> list[_TokenNLL]:
    """Start scoring a problem: with the model, and with each of its parts."""
    device, index = machine.device, problem.scored()
    targets = problem.targets.flatten()
    targets = to_device(targets if index is None else targets[index], device)
    place = None if index is None else to_device(index, device)
    arguments = problem.arguments(device)
    models = members(model)
    parts = [Part((tuple(range(len(models))),))]
    if isinstance(model, Ensemble):
        parts = [Part(parts[0].groups, model.average), *model.parts]
    compiled = machine.compiled
    own = problem.loss.score(index, targets, compiled=compiled) if problem.loss else None
    with machine.autocast():
        hidden = [one(*arguments) for one in models]
        alone = [
            token_nll(states.flatten(0, 1), one.table, targets, place, compiled, own)
            if getattr(one, "scores", True)
            # an earlier stage of a pipeline, whose figures do not count
            else torch.zeros(len(targets), device=device)
            for states, one in zip(hidden, models, strict=True)
        ]
        found: dict[tuple[tuple[int, ...], Averaging], Tensor] = {
            ((number,), average): nll
            for number, nll in enumerate(alone)
            for average in get_args(Averaging)
        }
        wanted = {(group, part.average) for part in parts for group in part.groups} - found.keys()
        if blended := sorted(group for group, average in wanted if average == "logits"):
            states = [one.flatten(0, 1) for one in hidden]
            each = mean_logit_nll(states, [one.table for one in models], targets, blended, place)
            found |= {(group, "logits"): nll for group, nll in zip(blended, each, strict=True)}
    for group, average in wanted - found.keys():
        members_nll = torch.stack([alone[number] for number in group]).double()
        found[group, average] = np.log(len(group)) - torch.logsumexp(-members_nll, dim=0)
    return [
        _TokenNLL(
            _mean([found[group, part.average] for group in part.groups]),
            index,
            problem.targets.shape,
        )
        for part in parts
    ]


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).double().mean(dim=0)


def row_nlls(model: Models, problem: Problem, machine: Machine) -> list[Floats]:
    """[B] Σ weights · NLL of each row, with the model and with each of its parts."""
    weights = problem.weights.double().numpy()
    found = [one.positions() for one in _launch(model, problem, machine)]
    return [np.asarray((weights * nll).sum(axis=1)) for nll in found]


def row_nll(model: Transformer, problem: Problem, machine: Machine) -> Floats:
    """[B] Σ weights · NLL of each row."""
    return row_nlls(model, problem, machine)[0]


def scored_together(evaluator: Any, model: Models) -> list[Any]:
    """The evaluator, and its `parts`, which it gets at the first draw: copies without draws."""
    parts = model.parts if isinstance(model, Ensemble) else ()
    if not evaluator.draws:
        evaluator.parts = [copy.copy(evaluator) for _ in parts]
        for one in evaluator.parts:
            one.clear()
    return [evaluator, *evaluator.parts]


def _ahead(pool: ThreadPoolExecutor, items: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same items, each made in `pool` while the one before it is in use."""
    coming = pool.submit(next, items, None)
    while (item := coming.result()) is not None:
        coming = pool.submit(next, items, None)
        yield item

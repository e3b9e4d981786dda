"""Validation NLL of a model: exact for AR, a Monte-Carlo bound for MDM, by one code path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal.data.windows import ScoredWindows
from epochal.errors import DataError
from epochal.evaluation.plan import DrawPlan
from epochal.models import Transformer
from epochal.objectives import Draw, Objective, Problem, token_nll
from epochal.tally import Estimate, Layout, estimate
from epochal.training.device import Machine

EVALUATION_SEED = 0
"""One seed for all, so that every checkpoint and every model meets the same masks."""

Report = Callable[[float], None]


@dataclass
class Evaluator:
    """Scores one validation set with any model; draws can be added until they are enough."""

    objective: Objective
    machine: Machine
    windows: ScoredWindows
    document_starts: NDArray[np.int64]
    vocabulary: int
    batch: int
    seed: int = EVALUATION_SEED

    def __post_init__(self) -> None:
        if not len(self.windows):
            raise DataError(
                "the validation set has fewer than two tokens, so there is nothing to score; "
                "prepare the corpus with a larger --validation share"
            )
        tokens = self.windows.tokens
        counts = np.bincount(tokens, minlength=self.vocabulary) + 1.0
        # Any function of the token serves as control variate; the set's own frequencies do.
        self._unigram_nll = -np.log(counts / counts.sum())
        self._plan = DrawPlan(len(self.windows), self.seed, stratified=True)
        self._layout = self._make_layout()
        self.clear()

    def clear(self) -> None:
        """Forget all draws."""
        self._values: list[NDArray[np.float64]] = []
        self._controls: list[NDArray[np.float64]] = []
        self._shares: list[NDArray[np.float64]] = []

    @property
    def draws(self) -> int:
        """Draws made so far."""
        return len(self._values)

    @property
    def rows(self) -> int:
        """Windows in a draw."""
        return len(self.windows)

    @property
    def tokens_scored(self) -> int:
        """Tokens scored in a draw."""
        return int(self._layout.tokens.sum())

    @property
    def documents(self) -> int:
        """Documents that the windows touch."""
        return len(np.unique(self._layout.document))

    def add_draw(self, model: Transformer, report: Report = lambda done: None) -> None:
        """Score all windows once more, with new masks. `report` hears the share done."""
        draw = self.draws
        levels, keys = self._plan.levels(draw), self._plan.keys(draw)
        segments = len(self._layout.row)
        values, controls = np.zeros(segments), np.zeros(segments)
        shares = np.zeros(self.rows)
        model.eval()
        first = 0
        while first < self.rows:
            end = min(first + self.batch, self.rows)
            if first < self.windows.full < end:
                end = self.windows.full
            part = slice(first, end)
            tokens, places = self._rows(part)
            problem = self.objective.likelihood_problem(
                tokens, scored_positions(tokens), Draw(levels[part], keys[part])
            )
            nll = problem_token_nll(model, problem, self.machine)
            self._add(problem, nll, part, places, values, controls, shares)
            first = end
            report(first / self.rows)
        self._values.append(values)
        self._controls.append(controls)
        self._shares.append(shares)

    def result(self) -> Estimate:
        """The estimate from all draws so far."""
        values, controls, shares = map(np.stack, (self._values, self._controls, self._shares))
        return estimate(self._layout, values, controls, shares, exact=self.objective.exact)

    def _rows(self, part: slice) -> tuple[Tensor, NDArray[np.int64]]:
        rows = self.windows.rows(part.start, part.stop - part.start)
        return torch.from_numpy(rows.tokens), rows.places

    def _add(
        self,
        problem: Problem,
        nll: NDArray[np.float64],
        part: slice,
        places: NDArray[np.int64],
        values: NDArray[np.float64],
        controls: NDArray[np.float64],
        shares: NDArray[np.float64],
    ) -> None:
        """Add a batch's weighted sums to their segments."""
        weights = problem.weights.numpy().astype(np.float64)
        unigram = self._unigram_nll[problem.targets.numpy()]
        ahead = self.objective.shift
        places = places[:, None] + np.arange(weights.shape[1])[None, :] + ahead
        segment = self._segment(np.arange(part.start, part.stop)[:, None], places)
        scored = scored_positions(torch.from_numpy(weights)).numpy()
        scored = np.roll(scored, -ahead, axis=1)
        size = len(values)
        values += np.bincount(segment[scored], (weights * nll)[scored], size)
        controls += np.bincount(segment[scored], ((weights - 1) * unigram)[scored], size)
        shares[part] = (weights > 0).sum(axis=1) / np.maximum(scored.sum(axis=1), 1)

    def _make_layout(self) -> Layout:
        places = self.windows.windows * self.windows.stride
        ends = np.minimum(places + self.windows.stride, len(self.windows.tokens) - 1)
        first, last = self._document(places + 1), self._document(ends)
        per_row = last - first + 1
        self._row_first_document = first
        self._row_first_segment = np.cumsum(per_row) - per_row
        row = np.repeat(np.arange(self.rows), per_row)
        document = np.arange(len(row)) - self._row_first_segment[row] + first[row]
        start = np.maximum(self.document_starts[document], places[row] + 1)
        end = np.minimum(self.document_starts[document + 1], ends[row] + 1)
        return Layout(row=row, document=document, tokens=end - start, group=self._plan.groups())

    def _document(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.document_starts, places, side="right") - 1

    def _segment(self, row: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = np.minimum(places, len(self.windows.tokens) - 1)
        # Unscored places (a row's first token) may lie in the document before; they are
        # dropped by the caller.
        later = self._document(inside) - self._row_first_document[row]
        segment: NDArray[np.int64] = self._row_first_segment[row] + later
        return segment


def scored_positions(like: Tensor) -> Tensor:
    """[B, L] bool: all but the first position."""
    scored = torch.ones(like.shape, dtype=torch.bool)
    scored[:, 0] = False
    return scored


@torch.no_grad()
def problem_token_nll(
    model: Transformer, problem: Problem, machine: Machine
) -> NDArray[np.float64]:
    """[B, L] NLL of each position with a weight, 0 elsewhere."""
    device, index = machine.device, problem.scored()
    targets = problem.targets.flatten()
    with machine.autocast():
        rule = problem.rule(device)
        positions = None if problem.positions is None else problem.positions.to(device)
        hidden = model(problem.inputs.to(device), rule, positions)
        nll = token_nll(
            hidden.flatten(0, 1),
            model.table,
            (targets if index is None else targets[index]).to(device),
            None if index is None else index.to(device),
        )
    out = np.zeros(problem.targets.numel())
    out[slice(None) if index is None else index.numpy()] = nll.double().cpu().numpy()
    return out.reshape(problem.targets.shape)

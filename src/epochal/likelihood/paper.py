"""The original's validation loss, for comparing with its figures.

Windows of L+1 tokens with stride L; AR scores L targets a window, MDM all L tokens of the
window with one t ~ U(0, 1) a row, independent masks and weight 1/p. The set is gone through
`draws` times (`--num-mc` there, 32 in the paper's runs). The original prints no error; ours
is over draws and, taking windows as the units that were sampled, over windows.
Source: arXiv 2507.15857, EVAL.md and pretrain_diff_gpt.py of its code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from epochal.data.rows import Tokens, circular_windows
from epochal.device import Machine
from epochal.errors import DataError
from epochal.estimates import Estimate, Layout, estimate
from epochal.likelihood.draws import DrawPlan, EvalShard
from epochal.likelihood.nll import (
    EVALUATION_SEED,
    Models,
    Report,
    members,
    row_nlls,
    scored_together,
)
from epochal.objectives import Draw, Objective


@dataclass
class PaperEvaluator:
    """Scores a validation set as the original does; same interface as `Evaluator`."""

    objective: Objective
    machine: Machine
    tokens: Tokens
    sequence_length: int
    batch: int
    seed: int = EVALUATION_SEED
    shard: EvalShard = field(default_factory=EvalShard)

    def __post_init__(self) -> None:
        self.rows = (len(self.tokens) - 1) // self.sequence_length
        if self.rows < 1:
            raise DataError(
                f"the validation set has {len(self.tokens):,} tokens, less than one window of "
                f"`data.sequence_length` = {self.sequence_length}, which the paper's estimator "
                "needs; leave out --estimator paper"
            )
        self.tokens_scored = self.rows * self.sequence_length  # in a draw
        self.documents = self.rows  # the units that were sampled: here, windows
        self._plan = DrawPlan(self.rows, self.seed, stratified=False)
        self.clear()

    def clear(self) -> None:
        """Forget all draws."""
        self.parts: list[PaperEvaluator] = []
        self._values: list[NDArray[np.float64]] = []

    @property
    def draws(self) -> int:
        """Draws made so far."""
        return len(self._values)

    def add_draw(self, model: Models, report: Report = lambda done: None) -> None:
        """Go through the set once more, with new noise."""
        draw = self.draws
        levels, keys = self._plan.levels(draw), self._plan.keys(draw)
        each: list[PaperEvaluator] = scored_together(self, model)
        values = [np.zeros(self.rows) for _ in each]
        for one in members(model):
            one.eval()
        parts = [slice(a, min(a + self.batch, self.rows)) for a in range(0, self.rows, self.batch)]
        for part, counts in self.shard.shard_batches(parts):
            starts = np.arange(part.start, part.stop) * self.sequence_length
            tokens = circular_windows(self.tokens, starts, self.sequence_length + 1)
            problem = self.objective.paper_problem(
                torch.from_numpy(tokens), Draw(levels[part], keys[part])
            )
            found = row_nlls(model, problem, self.machine)
            for total, nll in zip(values, found, strict=True) if counts else ():
                total[part] = nll
            report(part.stop / self.rows)
        for evaluator, total in zip(each, self.shard.sums(values), strict=True):
            evaluator._values.append(total)

    def result(self) -> Estimate:
        """The mean over all draws so far."""
        row = np.arange(self.rows)
        tokens = np.full(self.rows, self.sequence_length)
        layout = Layout(row=row, document=np.zeros_like(row), tokens=tokens, group=row)
        values = np.stack(self._values)
        return estimate(layout, values, exact=self.objective.exact)

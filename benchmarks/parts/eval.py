"""How much of a forward pass's throughput `epochal eval` keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from epochal.data.rows import ScoredWindows
from epochal.device import Machine, find_machine
from epochal.likelihood.draws import DrawPlan
from epochal.likelihood.nll import Evaluator, row_nll, scored_positions
from epochal.models import Transformer
from epochal.objectives import Draw, Problem, objective
from parts.options import Options, new_model
from parts.steps import compilable
from parts.timing import Row, ratio_row, take_turns, time_rows

_BATCHES = 4


def measure(options: Options) -> list[Row]:
    """Time of a draw over the same rows as the bare forward passes and their NLL.

    The bare passes have their problems made ready before and nothing added up after; they are
    what a training step's forward pass computes, without gradients, and compiled where it is.
    """
    setting = compilable(options.setting)
    rows = []
    for family in ("ar", "mdm"):
        recipe = setting.recipe(family)
        machine = find_machine(recipe.train)
        model = new_model(recipe, setting.vocabulary, machine).eval()
        trained: Any = new_model(recipe, setting.vocabulary, machine).eval()
        if machine.compiled:  # a training step as a whole, eval block by block
            trained = torch.compile(trained)
            for block in model.blocks:
                block.compile()
        goal = objective(recipe, setting.vocabulary)
        length, batch = setting.sequence_length, setting.batch
        count = _BATCHES * batch * (length - 1) + 1
        tokens = np.random.default_rng(0).integers(0, setting.vocabulary, count)
        windows = ScoredWindows(tokens, length)
        starts = np.append(np.arange(0, count, 700), count)
        evaluator = Evaluator(goal, machine, windows, starts, setting.vocabulary, batch)
        plan = DrawPlan(len(windows), 0, stratified=True)
        problems = []
        for first in range(0, len(windows), batch):
            ids = torch.from_numpy(windows.rows(first, batch))
            part = slice(first, first + batch)
            draw = Draw(plan.levels(0)[part], plan.keys(0)[part])
            problems.append(goal.likelihood_problem(ids, scored_positions(ids), draw))

        def forward(
            model: Any = trained,
            problems: list[Problem] = problems,
            machine: Machine = machine,
        ) -> float:
            return sum(float(row_nll(model, one, machine).sum()) for one in problems)

        def evaluate(evaluator: Evaluator = evaluator, model: Transformer = model) -> None:
            evaluator.clear()
            evaluator.add_draw(model)

        bare, whole = f"{family}: forward passes", f"{family}: a draw of eval"
        times = take_turns(f"eval {family}", {bare: forward, whole: evaluate}, options.rounds)
        rows += time_rows("eval", times)
        rows.append(ratio_row("eval", times, bare, whole, "share of the throughput"))
    return rows

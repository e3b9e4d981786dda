"""One optimizer step: problems, forward, backward, check, update.

Losses are sums over all micro-batches, divided once by the positions that count in the whole
step, which are counted before the first forward pass. So the result does not depend on how
the step is cut into micro-batches, up to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from epochal import rng
from epochal.data.rows import Order
from epochal.data.text_facts import TextFacts
from epochal.device import Machine
from epochal.models import Transformer, branch_scales
from epochal.objectives import Objective, Problem, Rows, to_device
from epochal.objectives.cross_entropy import linear_loss
from epochal.objectives.distillation import distilled_loss
from epochal.recipe import Recipe
from epochal.recipe.numbers import micro_batch_size, micro_rows
from epochal.training.guard import Fault, find_fault
from epochal.training.optim import WeightAverage, clip, grad_clip_microbatches
from epochal.training.parallel.parallelize import ParallelModel, single_device
from epochal.training.parallel.pipeline import Inputs
from epochal.training.teachers import Teachers

BINS = 10


class NoiseSums:
    """Training loss by noise level: the NLL of masked tokens in ten bins of t.

    The few rows with little noise dominate the weighted loss of masked diffusion; these figures
    show the model's NLL at each level, and cost one pass over the scored positions' NLL. The sums
    over a step's micro-batches are kept on the device until the step is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2 * BINS, device=device)
        """Sums of the NLL of masked tokens with t in each tenth, then their counts."""

    def nll_buffer(self, problem: Problem, index: Tensor | None) -> Tensor | None:
        """[scored positions] buffer for their NLL; None for a problem without noise."""
        if problem.noise is None:
            return None
        count = problem.targets.numel() if index is None else len(index)
        return torch.zeros(count, device=self.sums.device)

    def add(self, problem: Problem, index: Tensor | None, nll: Tensor | None) -> None:
        """Add the NLL that was written to `nll_buffer`."""
        if problem.noise is None or nll is None:
            return
        tenth = torch.from_numpy(np.minimum((problem.noise * BINS).astype(np.int64), BINS - 1))
        places = tenth[:, None].expand(problem.targets.shape).flatten()
        places = to_device(places if index is None else places[index], nll.device)
        self.sums.index_add_(0, places, nll)
        self.sums.index_add_(0, places + BINS, torch.ones_like(nll))

    @staticmethod
    def means(sums: list[float]) -> dict[str, float]:
        """`nll_noise_5` … `nll_noise_95`: mean NLL of masked tokens, by the middle of each tenth of
        t in percent, without empty tenths."""
        totals, counts = sums[:BINS], sums[BINS:]
        return {
            f"nll_noise_{10 * number + 5}": total / count
            for number, (total, count) in enumerate(zip(totals, counts, strict=True))
            if count
        }


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a step."""

    loss: float
    """Training loss, nats per token; of a student, its usual part alone."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    scored: int
    """Positions with a weight, whose logits were computed."""
    fault: Fault | None = None
    """Reason why the update was not made; None if it was."""
    noise_sums: list[float] = field(default_factory=list)
    """Sums by noise level (`NoiseSums`)."""
    data_seconds: float = 0.0
    """Time spent waiting for rows and masks."""
    seconds: float = 0.0
    """Time of the step, up to the update."""
    teacher_kl: float = 0.0
    """T² · KL from the teachers to the student, in nats per token; 0 without teachers."""


class Stepper:
    """Makes steps. All randomness follows from the recipe's seed and the step's number."""

    def __init__(
        self,
        recipe: Recipe,
        model: Transformer,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        order: Order,
        machine: Machine,
        parallel_model: ParallelModel | None = None,
        teachers: Teachers | None = None,
        average: WeightAverage | None = None,
        text: TextFacts | None = None,
    ) -> None:
        """`parallel_model` calls the model on several processes; None for a single one. `teachers`
        are those of a student; `average` follows the weights; `text` is for masks that need it."""
        self.recipe, self.model, self.optimizer = recipe, model, optimizer
        self.objective, self.order, self.machine = objective, order, machine
        self.teachers, self.text = teachers, text
        self.parallel_model = (
            single_device(model, machine) if parallel_model is None else parallel_model
        )
        self.world = self.parallel_model.world
        self.average = average
        self.norm_limit = math.inf
        """Gradient norm above which a step is a spike; set by the loop."""
        self._maker = ThreadPoolExecutor(1) if machine.device.type == "cuda" else None
        """Makes the next step's problems beside a GPU; a CPU's cores are busy with this step."""
        self._ahead: tuple[int, Future[list[Problem]]] | None = None

    def problems(self, step: int) -> list[Problem]:
        """This process's micro-batches of a step, on the CPU; a pure function of (recipe,
        step), whatever the number of processes."""
        batch = self.recipe.train.global_batch_size
        plan = self.world.plan
        mine, micro = batch // plan.data, micro_rows(self.recipe, plan.data, plan.pipeline)
        begin = self.world.data_rank * mine
        step_key = rng.stream_key(self.recipe.seed, "step", step)
        problems = []
        for start in range(begin, begin + mine, micro):
            count = min(micro, begin + mine - start)
            rows = self.order.batch(step * batch + start, count)
            place = np.arange(start, start + count)
            problems.append(
                self.objective.training_problem(
                    torch.from_numpy(rows.tokens),
                    Rows(rows.keys, place, batch, step_key, step, self.text),
                )
            )
        return problems

    def _problems_ahead(self, step: int) -> list[Problem]:
        """As `problems`; on a GPU from the thread, which then makes those of the next step."""
        if self._maker is None:
            return self.problems(step)
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._maker.submit(self.problems, step)
        problems = self._ahead[1].result()
        self._ahead = step + 1, self._maker.submit(self.problems, step + 1)
        return problems

    def __call__(self, step: int, lr: float) -> StepResult:
        """Make step number `step` at rate `lr`.

        A step with a fault (`find_fault`) ends before the update. Raises TrainingDiverged if
        the recipe stops at this fault.
        """
        self.model.train()
        began = time.perf_counter()
        problems = self._problems_ahead(step)
        waited = time.perf_counter() - began
        indices = [problem.scored() for problem in problems]
        denominator, scored = self._count(problems, indices)
        loss, teacher_kl = torch.zeros(2, 1, device=self.machine.device)
        noise_sums = NoiseSums(self.machine.device)

        def part_of(number: int, hidden: Tensor) -> Tensor:
            problem, index = problems[number], indices[number]
            if self.teachers is not None:
                total, each, sums = self._distilled(hidden, problem, index, self.teachers)
                noise_sums.add(problem, index, each)
                loss.add_(sums[0] / denominator)
                teacher_kl.add_(sums[1] / denominator)
                return total / denominator
            buffer = noise_sums.nll_buffer(problem, index)
            part = self._nll(hidden, problem, index, buffer) / denominator
            noise_sums.add(problem, index, buffer)
            loss.add_(part.detach())
            return part

        self._passes(step, problems, part_of)
        limit = self.recipe.train.grad_clip / grad_clip_microbatches(self.recipe)
        norm = clip(list(self.model.parameters()), limit, self.parallel_model.norm)
        # All figures of the step, in one wait for the device.
        figures = torch.cat((loss, teacher_kl, noise_sums.sums))
        sums = self.world.all_reduce_sum_on_device(figures)
        norm_value, mean, kl, *by_level = torch.cat((norm[None].to(sums), sums)).tolist()
        spent = time.perf_counter() - began
        result = StepResult(mean, norm_value, scored, None, by_level, waited, spent, kl)
        if fault := find_fault(self.recipe.train, step + 1, mean, norm_value, self.norm_limit):
            self.optimizer.zero_grad(set_to_none=True)
            return replace(result, fault=fault)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        with self.machine.autocast():  # of Muon's products
            self.optimizer.step()
        if self.average is not None:
            self.average.update(step)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _passes(
        self, step: int, problems: list[Problem], part_of: Callable[[int, Tensor], Tensor]
    ) -> None:
        """Forward and backward passes of all micro-batches; `part_of(number, hidden states)` is a
        micro-batch's part of the loss."""

        def inputs(number: int) -> Inputs:
            scales = self._branch_scales(step, problems, number)
            return (*problems[number].arguments(self.machine.device), scales)

        if self.parallel_model.pipeline is not None:
            self.parallel_model.pipeline.step(len(problems), inputs, part_of)
            return
        for number in range(len(problems)):
            self._seed_dropout(step, number)
            with self.parallel_model.accumulating(last=number == len(problems) - 1):
                with self.machine.autocast():
                    hidden = self.parallel_model.forward(*inputs(number))
                part = part_of(number, hidden)
                (part * self.parallel_model.scale).backward()  # type: ignore[no-untyped-call]

    def _scored(
        self, problem: Problem, index: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Targets and weights of a problem's scored positions, and these, on the device."""
        device, flat = self.machine.device, (problem.targets.flatten(), problem.weights.flatten())
        targets, weights = (to_device(x if index is None else x[index], device) for x in flat)
        return targets, weights, None if index is None else to_device(index, device)

    def _nll(
        self, hidden: Tensor, problem: Problem, index: Tensor | None, each: Tensor | None
    ) -> Tensor:
        """Σ weights · loss of a problem from its hidden states [B, L, E]; `index` are its scored
        positions (None for all), `each` a buffer for the NLL of each of these."""
        targets, weights, place = self._scored(problem, index)
        states, table, compiled = (
            hidden.flatten(0, 1),
            self.model.output_weight,
            self.machine.compiled,
        )
        with self.machine.autocast():
            if problem.loss is not None:
                # Whole on each process, also if tensor parallelism splits it.
                whole = self.model.table
                score = problem.loss.score(index, targets, weights, compiled=compiled)
                return linear_loss(states, whole, weights, place, score, compiled=compiled)
            return self.parallel_model.nll(
                states, table, targets, weights, place, compiled=compiled, each=each
            )

    def _distilled(
        self, hidden: Tensor, problem: Problem, index: Tensor | None, teachers: Teachers
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A student's Σ weights · loss of a problem, the NLL of each scored position, and
        [2] Σ weights · NLL and Σ weights · T² · KL."""
        targets, weights, place = self._scored(problem, index)
        figures = torch.zeros(2, len(targets), device=self.machine.device)
        soft = teachers.soft_targets(problem, place, self.machine)
        with self.machine.autocast():
            total = distilled_loss(
                hidden.flatten(0, 1),
                self.model.output_weight,
                targets,
                weights,
                place,
                soft,
                teachers.settings.share,
                figures=figures,
                compiled=self.machine.compiled,
            )
        return total, figures[0], (figures * weights).sum(dim=1)

    def _count(self, problems: list[Problem], indices: list[Tensor | None]) -> tuple[float, int]:
        """(denominator, scored positions) of the whole step, over all processes."""
        scored = sum(
            problem.targets.numel() if index is None else len(index)
            for problem, index in zip(problems, indices, strict=True)
        )
        denominator = sum(problem.denominator for problem in problems)
        counts = self.world.all_reduce_sum(np.array([denominator, scored], dtype=np.float64))
        # In a very small step no token may be masked; its loss is then 0.
        return max(1, counts[0].item()), int(counts[1])

    def _branch_scales(self, step: int, problems: list[Problem], number: int) -> Tensor | None:
        """Stochastic depth of the rows of problem number `number`; None without it."""
        rate, counts = self.recipe.model.stochastic_depth, [len(one.inputs) for one in problems]
        if not rate:
            return None
        begin = self.world.data_rank * sum(counts) + sum(counts[:number])
        key = rng.stream_key(self.recipe.seed, "depth", step)
        rows = np.arange(begin, begin + counts[number])
        scales = branch_scales(rate, len(self.model.blocks), key, rows)
        return to_device(scales, self.machine.device)

    def _seed_dropout(self, step: int, number: int) -> None:
        """Seed torch's own generator, the only one that dropout inside attention kernels uses."""
        train = self.recipe.train
        if train.attention_dropout or train.hidden_dropout or train.embedding_dropout:
            # Micro-batches are numbered over all processes.
            mine = train.global_batch_size // self.world.plan.data
            number += self.world.data_rank * -(-mine // min(micro_batch_size(self.recipe), mine))
            torch.manual_seed(rng.stream_key(self.recipe.seed, "dropout", step, number) >> 1)

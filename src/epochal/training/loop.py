"""The training loop: steps, and evaluation, logging, saving, stopping and resuming around them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epochal.errors import TrainingDiverged, TrainingStopped
from epochal.models import Transformer
from epochal.progress import Bar, bar, say
from epochal.recipe import RunNumbers
from epochal.recipe.numbers import cycle_ends
from epochal.runs import RunFolder, checkpoints
from epochal.training import checkpoint
from epochal.training.checkpoint import TrainState
from epochal.training.guard import Fault, count_fault, count_taken, norm_limit
from epochal.training.logger import RunLogger
from epochal.training.optim import learning_rate
from epochal.training.parallel.parallelize import evaluating
from epochal.training.parallel.tensor import local_shard
from epochal.training.parallel.world import World
from epochal.training.saver import Saver
from epochal.training.step import NoiseSums, Stepper, StepResult
from epochal.training.stop import StopRequest
from epochal.training.threads import ThreadCount, restored_threads
from epochal.units import Interval

Evaluate = Callable[[Transformer], dict[str, float]]
"""Model → validation figures, among them `nll_nats_per_token`."""
Advise = Callable[[float], str]
"""Seconds spent so far → a few words on the validation curve for the progress line, or ''."""


@dataclass
class Loop:
    """A run in progress. Its state after step n is the same whether or not it was interrupted."""

    numbers: RunNumbers
    stepper: Stepper
    folder: RunFolder
    logger: RunLogger
    evaluate: Evaluate
    start: Callable[[], Path] | None = None
    """Finds the checkpoint of the trunk to branch from; None for a run of its own."""
    advise: Advise | None = None
    """Called after each evaluation, which is in metrics.jsonl by then."""

    def __post_init__(self) -> None:
        stepper = self.stepper
        self.recipe, self.machine = stepper.recipe, stepper.machine
        # Compiled code is made for one number of threads; processes share the cores.
        free = self.machine.device.type == "cpu" and not self.machine.compiled
        alone = free and self.world.size == 1
        self._threads = ThreadCount(torch.get_num_threads()) if alone else None
        trained = (stepper.model, stepper.optimizer, stepper.average)
        self._saver = Saver(
            self.folder.checkpoints,
            self.recipe.family,
            self.recipe.checkpoint.keep,
            self.world,
            *trained,
        )

    @property
    def world(self) -> World:
        """The processes that train this run."""
        return self.stepper.world

    def run(self) -> TrainState:
        """Train from the last checkpoint, if there is one, to the end of the run.

        Raises TrainingStopped or TrainingDiverged after saving a checkpoint; that of a run that
        diverged is of the step before the fault, whose update was not made.
        """
        state = self._resume()
        devices = [self.machine.device] if self.machine.device.type == "cuda" else []
        with (
            StopRequest(self.folder.stop_file, self.world.main).listening() as stop,
            torch.random.fork_rng(devices),
            restored_threads(),
            bar(f"train {self.recipe.family}", self.numbers.steps) as progress,
        ):
            meter = _Meter(self, progress, state.seconds)
            self.logger.status("running")
            try:
                self._steps(state, stop, meter)
            except TrainingDiverged:
                self._saver.wait()
                if self._finite():  # else only earlier checkpoints can be resumed
                    self._saver.save(state, "interrupt")
                    self._saver.wait()
                self.logger.status("diverged", stopped_at_step=state.step)
                raise
        self._saver.save(state)
        self._saver.wait()
        best = {"step": state.best_step, "nll_nats_per_token": state.best_nll}
        self.logger.status("finished", seconds=state.seconds, best=best)
        return state

    def _resume(self) -> TrainState:
        folder = self.folder.checkpoints
        self.world.run_on_rank_zero(lambda: checkpoint.clean(folder))
        path = self.world.run_on_rank_zero(lambda: checkpoints.find(folder, "last", "interrupt"))
        state = TrainState(self.recipe.family)
        if path is not None:
            state = self._saver.load(path)
        elif self.start is not None:
            path = self.world.run_on_rank_zero(self.start)
            trunk = self._saver.load(path)
            state.step, state.norms = trunk.step, trunk.norms
        if path is not None:
            say(f"resuming from step {state.step:,} of {self.numbers.steps:,}")
        self.logger.drop_after(state.step)
        return state

    def _steps(self, state: TrainState, stop: StopRequest, meter: _Meter) -> None:
        settings = self.recipe.train
        saved = time.monotonic()
        while state.step < self.numbers.steps:
            self.world.beat(state.step)
            exit_code, failed = self.world.all_reduce_max(stop.asked(), self._saver.failed)
            if failed:
                self._saver.wait()
            if exit_code:
                self._stop(state, stop.who(exit_code), exit_code)
            lr = learning_rate(settings, state.step, self.numbers)
            self.stepper.norm_limit = norm_limit(settings, state)
            result = self._step(state.step, lr)
            state.step += 1
            if result.fault is None:
                _count_step(state, result)
            else:
                self._handle(state, result, result.fault)
            meter.step(state, result)
            if self._due(self.recipe.log.every, state):
                meter.log(state, result, lr)
            if self._due(self.recipe.eval.every, state):
                self._evaluate(state, meter)
            state.seconds = meter.seconds()
            if self._permanent(state):
                self._saver.save(state, "permanent")
                meter.skip()
            if self._save_due(state, saved):
                self._saver.save(state)
                saved = time.monotonic()
                meter.skip()

    def _step(self, step: int, lr: float) -> StepResult:
        if self._threads is None:
            return self.stepper(step, lr)
        count = self._threads.next()
        torch.set_num_threads(count)
        began = time.perf_counter()
        result = self.stepper(step, lr)
        self._threads.took(count, time.perf_counter() - began)
        return result

    def _handle(self, state: TrainState, result: StepResult, fault: Fault) -> None:
        """Continue after a step whose update was not made, as the recipe says."""
        train = self.recipe.train
        action = train.on_nan if fault == "nan" else train.on_spike
        what = f"step {state.step:,}: the gradient is not finite"
        if fault == "spike":
            what = f"step {state.step:,}: a gradient of norm {result.grad_norm:.3g}"
        figures = {"loss": result.loss, "grad_norm": result.grad_norm}
        finite = {key: value for key, value in figures.items() if math.isfinite(value)}
        self.logger.log("fault", state.step, self._progress(state) | finite)
        count_fault(state, state.step, fault)
        path = None
        if action == "rewind":
            self._saver.wait()
            folder = self.folder.checkpoints
            path = self.world.run_on_rank_zero(lambda: checkpoints.find(folder, "last"))
        if path is None:
            say(f"{what}; the update was skipped")
            return
        saved = self._saver.load(path)
        state.norms = saved.norms
        say(f"{what}; back to the weights of step {saved.step:,}, with the rows after this step")
        self._saver.save(state)

    def _finite(self) -> bool:
        """Whether all weights are finite, in all processes."""
        shards = (local_shard(weight) for weight in self.stepper.model.parameters())
        return not self.world.all_reduce_max(any(not one.isfinite().all() for one in shards))[0]

    def _due(self, every: Interval, state: TrainState) -> bool:
        at = self.numbers.at
        last = state.step == self.numbers.steps
        return last or every.due(at(state.step - 1), at(state.step))

    def _permanent(self, state: TrainState) -> bool:
        """Whether this step has a permanent checkpoint."""
        every, at = self.recipe.checkpoint.keep_every, self.numbers.at
        ends = cycle_ends(self.recipe.train, self.numbers.steps)[:-1]  # the last one stays anyway
        return state.step in (*self.recipe.checkpoint.keep_at, *ends) or (
            every is not None and every.due(at(state.step - 1), at(state.step))
        )

    def _save_due(self, state: TrainState, saved: float) -> bool:
        every = self.recipe.checkpoint.every
        if state.step == self.numbers.steps:
            return False  # saved by run()
        if every.unit == "minutes":
            return bool(self.world.all_reduce_max(time.monotonic() - saved >= 60 * every.amount)[0])
        return self._due(every, state)

    def _evaluate(self, state: TrainState, meter: _Meter) -> None:
        model = self.stepper.model
        average = self.stepper.average if self.recipe.eval.ema else None
        with average.applied() if average is not None else nullcontext():
            with evaluating(model):
                figures = self.evaluate(model)
            meter.skip()
            self.logger.log("eval", state.step, self._progress(state) | figures)
            nll = figures["nll_nats_per_token"]
            meter.validation = nll
            if self.advise is not None:
                meter.advice = self.advise(meter.seconds())
            if state.best_nll is None or nll < state.best_nll:
                state.best_nll, state.best_step = nll, state.step
                self._saver.best(state)

    def _progress(self, state: TrainState) -> dict[str, Any]:
        at = self.numbers.at(state.step)
        return {"tokens": at.tokens, "epochs": at.epochs, "flops": at.flops}

    def _stop(self, state: TrainState, who: str, exit_code: int) -> None:
        # A rewind goes to checkpoints at their due steps only, so that a stop changes nothing; so
        # where a run may rewind, this one, out of turn, is of another kind.
        train = self.recipe.train
        self._saver.save(
            state, "interrupt" if "rewind" in (train.on_nan, train.on_spike) else "last"
        )
        self._saver.wait()
        self.logger.status("stopped", seconds=state.seconds, stopped_at_step=state.step)
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
            exit_code = 0  # torchrun would start it again
        raise TrainingStopped(
            f"by {who} after step {state.step:,} of {self.numbers.steps:,}; the same "
            "command resumes from there",
            exit_code,
        )


class _Meter:
    """Speed and progress, for the progress line and the log."""

    def __init__(self, loop: Loop, progress: Bar, earlier_seconds: float) -> None:
        self._loop, self._bar = loop, progress
        self._peak, peak_source = loop.machine.peak_flops()
        loop.logger.info["peak_flops"] = {"per_second": self._peak, "source": peak_source}
        self._begin = time.monotonic() - earlier_seconds
        self._mark = self._last = time.monotonic()
        self._mark_tokens = self._mark_scored = 0
        self._speed = self._mfu = 0.0
        self._waited = self._worked = 0.0
        self.validation: float | None = None
        self.advice = ""

    def seconds(self) -> float:
        """Time spent on this run, earlier sessions included."""
        return time.monotonic() - self._begin

    def skip(self) -> None:
        """Exclude the time since the last step (an evaluation, a save) from the speed."""
        now = time.monotonic()
        # The steps before it still count: if evaluations come more often than once a second, the
        # speed would otherwise stay that of the first step.
        self._mark += now - self._last
        self._last = now

    def step(self, state: TrainState, result: StepResult) -> None:
        """Count a step and update the progress line."""
        self._mark_tokens += self._loop.numbers.tokens_per_step
        self._mark_scored += result.scored
        self._waited += result.data_seconds
        self._worked += result.seconds
        self._last = time.monotonic()
        elapsed = self._last - self._mark
        if elapsed > 1.0 or not self._speed:
            self._measure(elapsed)
        epochs = self._loop.numbers.at(state.step).epochs
        note = f"loss {result.loss:.3f}"
        note += f" val {self.validation:.3f}" if self.validation is not None else ""
        note += f" epoch {epochs:.2f} {self._speed:,.0f} tok/s MFU {100 * self._mfu:.0f}%"
        self._bar.update(state.step, f"{note} {self.advice}".rstrip())

    def _measure(self, elapsed: float) -> None:
        loop = self._loop
        numbers, shape = loop.numbers, loop.recipe.model.architecture()
        share = self._mark_scored / self._mark_tokens
        cost = shape.matmul_flops_per_token(numbers.vocabulary, numbers.sequence_length, share)
        self._speed = self._mark_tokens / elapsed
        self._mfu = self._speed * cost / (self._peak * loop.world.size)
        self._mark, self._mark_tokens, self._mark_scored = self._last, 0, 0

    def log(self, state: TrainState, result: StepResult, lr: float) -> None:
        """Write a line with the mean loss since the last one."""
        loop = self._loop
        if not state.loss_steps:
            return  # all of these steps had faults
        memory, kl = loop.machine.peak_memory(), state.teacher_kl_sum / state.loss_steps
        values = {
            **loop._progress(state),
            "loss": state.loss_sum / state.loss_steps,
            **({} if loop.stepper.teachers is None else {"teacher_kl": kl}),
            "lr": lr,
            "grad_norm": state.norms[-1] if state.norms else result.grad_norm,
            "tokens_per_second": round(self._speed, 1),
            "mfu": round(self._mfu, 4),
            "data_wait": round(self._waited / self._worked, 4),
            **({} if memory is None else {"peak_memory_bytes": memory}),
            **({} if loop._threads is None else {"threads": torch.get_num_threads()}),
            **NoiseSums.means(state.noise_sums),
        }
        loop.logger.log("train", state.step, values)
        state.loss_sum, state.loss_steps, state.noise_sums = 0.0, 0, []
        state.teacher_kl_sum = 0.0
        self._waited = self._worked = 0.0


def _count_step(state: TrainState, result: StepResult) -> None:
    """Add a step whose update was made to the sums for the log."""
    state.loss_sum += result.loss
    state.teacher_kl_sum += result.teacher_kl
    state.loss_steps += 1
    before = state.noise_sums or [0.0] * len(result.noise_sums)
    state.noise_sums = [a + b for a, b in zip(before, result.noise_sums, strict=True)]
    count_taken(state, result.grad_norm)

"""Score a run on downstream tasks with lm-evaluation-harness, and keep the results with it."""

from __future__ import annotations

import io
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epochal.downstream_tasks.babylm import babylm
from epochal.downstream_tasks.harness_tasks import load_tasks
from epochal.downstream_tasks.options import BABYLM, DownstreamOptions, check_downstream
from epochal.downstream_tasks.paper_tasks import PAPER_TASKS
from epochal.downstream_tasks.results import Score, TaskResult, flip_variance, save
from epochal.evaluation.evaluate import which_checkpoint
from epochal.progress import hidden
from epochal.runs import RunRecord
from epochal.training.parallel.world import is_secondary_rank, report_errors_once

if TYPE_CHECKING:
    from epochal.downstream_tasks.harness_model import HarnessModel

BOOTSTRAPS = 1000
"""For the error of metrics that are not means, such as perplexity."""
FEWSHOT_SEED = 1234
"""The harness's own default."""


@report_errors_once()
def downstream(
    run: str | Path | RunRecord, options: DownstreamOptions | None = None
) -> list[TaskResult]:
    """One result per task, zero-shot unless the task says otherwise, with standard errors.

    Each task is saved in the run's folder as soon as it is done, unless `options.limit` cut it
    short. Under torchrun the questions are split over the processes, and all but the first get an
    empty list. Raises UserError for options that do not go together and for missing tasks or data,
    and what `load` raises.
    """
    options = options or DownstreamOptions()
    record = run if isinstance(run, RunRecord) else RunRecord(run)
    if options.tasks == BABYLM:
        return babylm(record, options)
    names, own = check_downstream(record, options)
    with (
        _quiet_libraries(),
        hidden() if is_secondary_rank() else nullcontext(),
        tempfile.TemporaryDirectory(prefix="epochal-tasks-") as work,
    ):
        from epochal.downstream_tasks.harness_model import HarnessModel

        model = HarnessModel(
            str(record.path),
            options.checkpoint,
            options.mode,
            options.draws,
            options.seed,
            options.pad,
            options.device,
        )
        checkpoint = options.checkpoint or which_checkpoint(record, model.loaded.step)
        try:
            results = []
            with redirect_stderr(io.StringIO()):  # the harness's bars; the model shows its own
                manager, tasks = load_tasks(names, own, options.data, Path(work))
                for task in tasks:
                    for raw in _run(model, task, manager, options.limit):
                        results.append(_result(raw, model, checkpoint, options))
                        if options.limit is None:
                            save(results[-1], record)
        finally:
            model.processes.close()
    return results


@dataclass(frozen=True, slots=True)
class _Raw:
    """What the harness returned for one task."""

    name: str
    metrics: dict[str, Any]
    samples: list[dict[str, Any]]
    errors: dict[tuple[str, str], float]
    truncated: tuple[int, int]
    version: str
    seconds: float


def _run(model: HarnessModel, task: Any, manager: Any, limit: int | None) -> list[_Raw]:
    """Run one task or group; empty on all processes but the first."""
    from lm_eval import __version__, evaluator

    start = time.monotonic()
    model.errors.clear()
    model.truncated_contexts = model.truncated_continuations = 0
    loaded = manager.load([task])
    for each in loaded["tasks"].values():  # what its `simple_evaluate` does before
        if each.get_config("num_fewshot") is None:
            each.set_config(key="num_fewshot", value=0)
        each.set_fewshot_seed(seed=FEWSHOT_SEED)
    outcome = evaluator.evaluate(
        model, loaded, limit=limit, bootstrap_iters=BOOTSTRAPS, log_samples=True
    )
    gathered = model.processes.gather(
        (model.errors, model.truncated_contexts, model.truncated_continuations)
    )
    if outcome is None:
        return []
    errors = {key: value for part, _, _ in gathered for key, value in part.items()}
    truncated = sum(part[1] for part in gathered), sum(part[2] for part in gathered)
    seconds = time.monotonic() - start
    return [
        _Raw(
            name, metrics, outcome["samples"].get(name, []), errors, truncated, __version__, seconds
        )
        for name, metrics in outcome["results"].items()
    ]


def _result(
    raw: _Raw, model: HarnessModel, checkpoint: str, options: DownstreamOptions
) -> TaskResult:
    paper = PAPER_TASKS.get(raw.name)
    family = model.family.name
    local = options.data is not None and (Path(options.data) / raw.name).is_dir()
    return TaskResult(
        task=raw.name,
        family=family,
        checkpoint=checkpoint,
        step=model.loaded.step,
        mode=model.mode,
        draws=model.mask_draws,
        seed=model.seed,
        padded=model.reader.pad_to > 0,
        metrics=_scores(raw, model.mode),
        chance=paper.chance / 100 if paper else None,
        paper=paper.shares(family) if paper else None,
        documents=len(raw.samples) or int(raw.metrics.get("sample_len", 0)),
        truncated_contexts=raw.truncated[0],
        truncated_continuations=raw.truncated[1],
        harness=raw.version,
        data="local" if local else "hub",
        limit=options.limit,
        seconds=raw.seconds,
    )


def _scores(raw: _Raw, mode: str) -> dict[str, Score]:
    """The metrics that the mode can give, without the harness's `,none` for its filter."""
    scores = {}
    choices = bool(raw.samples) and len(raw.samples[0]["resps"]) > 1
    for key, value in raw.metrics.items():
        name, _, rest = key.partition(",")
        if not rest or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or (mode == "nll" and name == "acc" and not choices):
            continue  # perplexity without likelihoods; exact match without generation
        error = raw.metrics.get(f"{name}_stderr,{rest}")
        error = float(error) if isinstance(error, int | float) else math.nan
        label = name if rest == "none" else key
        scores[label] = Score(
            value=float(value),
            standard_error=error if math.isfinite(error) else None,
            standard_error_draws=_error_from_draws(raw) if name == "acc" and choices else None,
        )
    return scores


def _error_from_draws(raw: _Raw) -> float:
    """Standard error of the accuracy that comes from the masks, not from the questions."""
    variance = 0.0
    random = np.random.default_rng(0)
    for sample in raw.samples:
        errors = np.array([raw.errors.get(tuple(pair), 0.0) for pair in sample["arguments"]])
        if not errors.any() or not isinstance(sample["target"], int):
            continue
        values = np.array([resps[0][0] for resps in sample["resps"]])
        variance += flip_variance(values, errors, sample["target"], random)
    return math.sqrt(variance) / len(raw.samples)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Without the log lines, prints and warnings of the libraries."""
    import datasets as datasets  # sets its loggers' levels when it is imported

    names = ("lm_eval", "lm-eval", "datasets", "huggingface_hub", "httpx")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

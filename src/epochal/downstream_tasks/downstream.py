"""Score a run on downstream tasks with lm-evaluation-harness, and keep the results with it."""

from __future__ import annotations

import io
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from epochal import files
from epochal.downstream_tasks.harness_tasks import load_tasks
from epochal.downstream_tasks.options import Mode, check_downstream
from epochal.downstream_tasks.paper_tasks import PAPER_TASKS
from epochal.evaluation.evaluate import which_checkpoint
from epochal.evaluation.load import CheckpointName
from epochal.progress import hidden
from epochal.runs import RunRecord
from epochal.training.parallel.world import one_voice, quiet

if TYPE_CHECKING:
    from epochal.downstream_tasks.harness_model import HarnessModel

BOOTSTRAPS = 1000
"""For the error of metrics that are no mean, such as perplexity."""
RESAMPLINGS = 200
FEWSHOT_SEED = 1234
"""The harness's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one task."""

    value: float
    standard_error: float | None
    """Over the task's documents: how far other questions would move it."""
    standard_error_draws: float | None
    """From the masks drawn: how far other masks would move it; 0 if none were drawn, None for
    metrics other than acc."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What one task says about one checkpoint. Accuracies are shares from 0 to 1."""

    task: str
    family: str
    checkpoint: str
    step: int
    mode: str
    draws: int | None
    """Masks per continuation at most; None where no masks are drawn."""
    seed: int
    padded: bool
    """Whether rows were lengthened with masks to the sequence length."""
    metrics: dict[str, Score]
    chance: float | None
    """Accuracy of a blind guess, where known."""
    paper: dict[str, float] | None
    """The paper's accuracy for this family by unique tokens, where there is one."""
    documents: int
    cut_contexts: int
    """Requests whose context lost its beginning, since it did not fit."""
    cut_continuations: int
    """Requests whose continuation alone did not fit and lost its beginning."""
    harness: str
    """Version of lm-evaluation-harness."""
    data: str
    """local or hub."""
    limit: int | None
    """Only so many first documents were scored."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@one_voice()
def downstream(
    run: str | Path | RunRecord,
    *,
    tasks: str = "paper",
    data: str | Path | None = None,
    mode: Mode | None = None,
    draws: int = 32,
    seed: int = 0,
    pad: bool | None = None,
    checkpoint: CheckpointName | None = None,
    limit: int | None = None,
    device: str = "auto",
) -> list[TaskResult]:
    """One result per task, zero-shot unless the task says otherwise, with standard errors.

    `tasks` is "paper" (its nine), names with commas, or a folder of YAML tasks; `data` a folder
    of local rows, TASK/SPLIT.jsonl. `mode`: exact for AR; for diffusion `mc` (default), `ar`,
    `generate` or `nll`, see docs/downstream.md. `pad` lengthens the rows of a diffusion run with
    masks to its sequence length (the default, unless it was trained on short rows). Each task
    is kept with the run as soon as it is done, unless `limit` cut it short. Under torchrun the
    questions are shared out, and all processes but the first get an empty list. Raises
    UserError for what does not go together or is not there, and what `load` raises.
    """
    record = run if isinstance(run, RunRecord) else RunRecord(run)
    names, own = check_downstream(
        record, tasks=tasks, data=data, mode=mode, draws=draws, limit=limit
    )
    with (
        _quiet(),
        hidden() if quiet() else nullcontext(),
        tempfile.TemporaryDirectory(prefix="epochal-tasks-") as work,
    ):
        from epochal.downstream_tasks.harness_model import HarnessModel

        rows = Path(data) if data is not None else None
        model = HarnessModel(
            str(record.path), checkpoint, mode, draws, seed, pad=pad, device=device
        )
        try:
            manager, found = load_tasks(names, own, rows, Path(work))
            results = []
            for task in found:
                some = _run(model, task, manager, limit)
                name = checkpoint or which_checkpoint(record, model.loaded.step)
                results += [_result(one, model, name, rows, limit, record) for one in some]
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
    cut: tuple[int, int]
    version: str
    seconds: float


def _run(model: HarnessModel, task: Any, manager: Any, limit: int | None) -> list[_Raw]:
    """Run one task or group; empty on all processes but the first."""
    from lm_eval import __version__, evaluator

    start = time.monotonic()
    model.errors.clear()
    model.cut_contexts = model.cut_continuations = 0
    loaded = manager.load([task])
    for one in loaded["tasks"].values():  # what its `simple_evaluate` does before
        if one.get_config("num_fewshot") is None:
            one.set_config(key="num_fewshot", value=0)
        one.set_fewshot_seed(seed=FEWSHOT_SEED)
    found = evaluator.evaluate(
        model, loaded, limit=limit, bootstrap_iters=BOOTSTRAPS, log_samples=True
    )
    told = model.processes.gather((model.errors, model.cut_contexts, model.cut_continuations))
    if found is None:
        return []
    errors = {key: value for part, _, _ in told for key, value in part.items()}
    cut = sum(part[1] for part in told), sum(part[2] for part in told)
    seconds = time.monotonic() - start
    return [
        _Raw(name, metrics, found["samples"].get(name, []), errors, cut, __version__, seconds)
        for name, metrics in found["results"].items()
    ]


def _result(
    raw: _Raw,
    model: HarnessModel,
    checkpoint: str,
    rows: Path | None,
    limit: int | None,
    record: RunRecord,
) -> TaskResult:
    paper = PAPER_TASKS.get(raw.name)
    family = model.loaded.family
    drawn = family != "ar" and model.mode in ("mc", "nll")
    result = TaskResult(
        task=raw.name,
        family=family,
        checkpoint=checkpoint,
        step=model.loaded.step,
        mode=model.mode,
        draws=model.draws if drawn else None,
        seed=model.seed,
        padded=model.reader.pad_to > 0,
        metrics=_scores(raw, model.mode),
        chance=paper.chance / 100 if paper else None,
        paper={k: v / 100 for k, v in paper.figures(family).items()} if paper else None,
        documents=len(raw.samples) or int(raw.metrics.get("sample_len", 0)),
        cut_contexts=raw.cut[0],
        cut_continuations=raw.cut[1],
        harness=raw.version,
        data="local" if rows is not None and (rows / raw.name).is_dir() else "hub",
        limit=limit,
        seconds=raw.seconds,
    )
    if limit is None:
        path = record.folder.downstream_file(raw.name, checkpoint, model.mode)
        files.write_json(path, result.as_dict())
    return result


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
        draws = _error_from_draws(raw) if name == "acc" and choices else None
        scores[label] = Score(
            value=float(value),
            standard_error=error if math.isfinite(error) else None,
            standard_error_draws=draws,
        )
    return scores


def _error_from_draws(raw: _Raw) -> float:
    """Standard error of the accuracy that comes from the masks, not from the questions.

    The likelihoods are jittered by their own standard errors; each question's share p of right
    answers then has the variance p(1 − p). Choices share their masks, which the jitter leaves
    out of account, so the figure is rather too large than too small.
    """
    variance = 0.0
    random = np.random.default_rng(0)
    for sample in raw.samples:
        errors = np.array([raw.errors.get(tuple(pair), 0.0) for pair in sample["arguments"]])
        if not errors.any() or not isinstance(sample["target"], int):
            continue
        values = np.array([resps[0][0] for resps in sample["resps"]])
        jittered = values + errors * random.standard_normal((RESAMPLINGS, len(values)))
        right = (jittered.argmax(axis=1) == sample["target"]).mean()
        variance += right * (1 - right)
    return math.sqrt(variance) / len(raw.samples)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars, log lines, prints and warnings of the libraries."""
    import datasets as datasets  # sets its loggers' levels when it is imported
    import tqdm  # type: ignore[import-untyped]

    names = ("lm_eval", "lm-eval", "datasets", "huggingface_hub", "httpx")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    bars = partialmethod(tqdm.tqdm.__init__, disable=True)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            mock.patch.object(tqdm.tqdm, "__init__", bars),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

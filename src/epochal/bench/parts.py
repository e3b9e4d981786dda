"""The parts of `epochal bench`, each a function that gives rows of the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as HFTokenizer

from epochal import progress
from epochal.bench.downstream import downstream_rows
from epochal.bench.evaluation import evaluation_rows
from epochal.bench.fit import fit_rows
from epochal.bench.generation import generation_rows
from epochal.bench.memory import can_measure, peak_memory
from epochal.bench.steps import VARIANTS, Setting, make_step, new_model
from epochal.bench.timing import Row, ratio_row, take_turns, time_rows
from epochal.data import load_tokenizer, train_bpe
from epochal.data.batches import RowOrder
from epochal.data.builtin import builtin_documents
from epochal.data.fast_bpe import encode_slowly
from epochal.data.windows import ScoredWindows
from epochal.device import find_machine, has_compiler
from epochal.errors import UserError, nearest
from epochal.likelihood.nll import Evaluator
from epochal.likelihood.paper import PaperEvaluator
from epochal.objectives import objective
from epochal.recipe import load_recipe
from epochal.training.optim import make_optimizer
from epochal.training.step import Stepper


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    rounds: int = 9
    tokenizer: str | None = None
    setting: Setting = field(default_factory=Setting)
    memory: bool = True
    estimator_steps: int = 400
    """Training steps of the small model whose bound is estimated."""
    estimator_repeats: int = 48
    """Independent evaluations from which an estimator's variance is taken."""
    fit_starts: int = 30
    """Of the peer's 4500 starts, how many are run per round."""


def bench_step(options: Options) -> list[Row]:
    """Time and peak memory of a step, ours and its peers."""
    setting = options.setting
    if setting.compiled and not (torch.cuda.is_available() or has_compiler()):
        progress.say("no C++ compiler here: the steps are measured uncompiled")
        setting = replace(setting, compiled=False)
    counter = dict.fromkeys(VARIANTS, 0)
    steps = {name: make_step(name, setting) for name in VARIANTS}

    def turn(name: str) -> Callable[[], float]:
        def work() -> float:
            counter[name] += 1
            return steps[name](counter[name])

        return work

    for name in VARIANTS:  # compiled here, not in the first round
        progress.say(f"making ready: {name}")
        steps[name](0)
    times = take_turns("step", {name: turn(name) for name in VARIANTS}, options.rounds)
    rows = time_rows("step", times)
    rows.append(ratio_row("step", times, "nanogpt-style", "ours ar"))
    rows.append(ratio_row("step", times, "nanogpt-style", "ours mdm"))
    rows.append(ratio_row("step", times, "smdm-style", "ours mdm"))
    if options.memory and can_measure():
        rows += _memory_rows(setting)
    return rows


def _memory_rows(setting: Setting) -> list[Row]:
    peak = {}
    for name in VARIANTS:
        progress.say(f"peak memory: {name}")
        peak[name] = peak_memory(name, setting)
    rows = [Row("memory", name, mb, "MB", mb, mb) for name, mb in peak.items()]
    for ours, peer in (("ours ar", "nanogpt-style"), ("ours mdm", "smdm-style")):
        share = peak[ours] / peak[peer]
        rows.append(Row("memory", f"{ours} of {peer}", share, "×", share, share))
    return rows


def bench_tokenizer(options: Options) -> list[Row]:
    """Our path through tiktoken against the library `tokenizers`, one core, equal ids."""
    texts = builtin_documents()
    if options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
    else:
        progress.say("training a BPE of 8,192 tokens on the built-in text")
        tokenizer = train_bpe(texts, 8192)
    if tokenizer.why_slow is not None:
        raise UserError(f"this tokenizer has no fast path here: {tokenizer.why_slow}")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.json"
        tokenizer.save(path)
        slow = HFTokenizer.from_file(str(path))
    slow.encode_special_tokens = True
    if not all(np.array_equal(tokenizer.encode(t), encode_slowly(slow, t)) for t in texts):
        raise UserError("the two ways gave different ids; please report this tokenizer")
    variants = {
        "tiktoken (ours)": lambda: [tokenizer.encode(text) for text in texts],
        "tokenizers": lambda: [encode_slowly(slow, text) for text in texts],
    }
    times = take_turns("tokenizer", variants, options.rounds)
    size = sum(len(text.encode()) for text in texts) / 1e6
    rates = {name: [size / one for one in each] for name, each in times.items()}
    rows = time_rows("tokenizer", rates, "MB/s")
    return [*rows, ratio_row("tokenizer", times, "tokenizers", "tiktoken (ours)")]


def bench_loader(options: Options) -> list[Row]:
    """A batch with its masks, as a share of a training step on this machine."""
    setting = options.setting
    recipe = setting.recipe("mdm")
    order = RowOrder(setting.tokens(), setting.sequence_length, recipe.seed)
    step = make_step("ours mdm", replace(setting, compiled=False))
    number = iter(range(10**9))
    times = take_turns(
        "loader",
        {
            "rows of a step": lambda: order.batch(setting.batch * next(number), setting.batch),
            "step (not compiled)": lambda: step(next(number)),
        },
        options.rounds,
    )
    rows = time_rows("loader", times, "ms", 1e3)
    shares = [
        100 * a / b
        for a, b in zip(times["rows of a step"], times["step (not compiled)"], strict=True)
    ]
    middle = float(np.median(shares))
    return [*rows, Row("loader", "share of a step", middle, "%", min(shares), max(shares))]


def bench_help(options: Options) -> list[Row]:
    """`epochal --help` in a process of its own."""

    def work() -> None:
        command = [sys.executable, "-m", "epochal", "--help"]
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))

    return time_rows("help", take_turns("help", {"epochal --help": work}, options.rounds))


def bench_estimator(options: Options) -> list[Row]:
    """Monte-Carlo variance of our estimate of MDM's bound against the paper's, equal work."""
    ours, papers = _estimates(options)
    variances = {"ours": ours.var(ddof=1), "paper's": papers.var(ddof=1)}
    rows = []
    for name, values in (("ours", ours), ("paper's", papers)):
        note = f"mean {values.mean():.4f} over {len(values)} evaluations of one draw"
        error = float(values.std(ddof=1))
        rows.append(
            Row("estimator", f"{name}: error of one draw", error, "nats", error, error, note)
        )
    # A ratio of two variances follows F: its 90 % interval, for normal errors.
    from scipy.stats import f

    ratio = float(variances["paper's"] / variances["ours"])
    freedom = len(ours) - 1, len(papers) - 1
    low, high = (ratio / float(f.ppf(q, *freedom)) for q in (0.95, 0.05))
    return [*rows, Row("estimator", "draws saved", ratio, "×", low, high, "90 % interval")]


def _estimates(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """One-draw estimates of a briefly trained model's bound, each with its own seed."""
    changes = {
        "family": "mdm",
        "model.d_model": 64,
        "model.layers": 2,
        "model.heads": 2,
        "data.sequence_length": 128,
        "train.global_batch_size": 8,
        "train.steps": max(options.estimator_steps, 1),
        "train.lr": 2e-3,
        "mdm.noise": "stratified",
    }
    recipe = load_recipe(None, changes)
    texts = builtin_documents()
    tokenizer = train_bpe(texts, 512)
    ids = [np.append(tokenizer.encode(t), tokenizer.end_of_document) for t in texts[:160]]
    held = np.concatenate(ids[:20])[:12_800]
    machine = find_machine(recipe.train)
    model = new_model(recipe, tokenizer.vocabulary, machine)
    goal = objective(recipe, tokenizer.mask)
    order = RowOrder(np.concatenate(ids[20:]), 128, recipe.seed)
    stepper = Stepper(recipe, model, make_optimizer(model, recipe.train), goal, order, machine)
    with progress.bar("estimator: training", options.estimator_steps) as shown:
        for number in range(options.estimator_steps):
            stepper(number, recipe.train.lr)
            shown.update(number + 1)
    starts = np.array([0, len(held)])
    ours: list[float] = []
    papers: list[float] = []
    with progress.bar("estimator: evaluations", options.estimator_repeats) as shown:
        for seed in range(options.estimator_repeats):
            windows = ScoredWindows(held, 128)
            mine = Evaluator(goal, machine, windows, starts, tokenizer.vocabulary, 64, seed)
            theirs = PaperEvaluator(goal, machine, held, 128, 64, seed)
            for evaluator, found in ((mine, ours), (theirs, papers)):
                evaluator.add_draw(model)
                found.append(evaluator.result().nll)
            shown.update(seed + 1)
    return np.array(ours), np.array(papers)


PARTS: dict[str, Callable[[Options], list[Row]]] = {
    "help": bench_help,
    "tokenizer": bench_tokenizer,
    "loader": bench_loader,
    "estimator": bench_estimator,
    "eval": lambda options: evaluation_rows(options.setting, options.rounds),
    "fit": lambda options: fit_rows(options.rounds, options.fit_starts),
    "downstream": lambda options: downstream_rows(options.setting, options.rounds),
    "generate": lambda options: generation_rows(options.setting, options.rounds),
    "step": bench_step,
}


def run_parts(names: Sequence[str], options: Options) -> list[Row]:
    """Rows of the parts `names`, all if there are none. Raises UserError for an unknown one."""
    for name in names:
        if name not in PARTS:
            known = ", ".join(PARTS)
            raise UserError(f"there is no benchmark {name!r}.{nearest(name, PARTS)} Known: {known}")
    return [row for name in (names or PARTS) for row in PARTS[name](options)]


def as_json(rows: Sequence[Row]) -> str:
    """All rows, with what they were measured on."""
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return json.dumps({**facts, "rows": [row.as_dict() for row in rows]}, ensure_ascii=False)

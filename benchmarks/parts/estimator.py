"""Error of the MDM bound per forward pass: ours, its parts, and the paper's estimator.

Each evaluation has a seed of its own, so they are independent. The gain is the paper's variance of
one pass over ours per pass: how many times more passes it needs for the same error. "reported"
takes ours from the standard error that each evaluation gives (mean of squares), "seen" from the
scatter of the evaluations, with the 90 % interval of a ratio of two variances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import f

from epochal import progress
from epochal.data.builtin import builtin_documents
from epochal.data.corpus import open_corpus
from epochal.data.rows import RowOrder, ScoredWindows
from epochal.data.tokenizer_sources import train_bpe
from epochal.device import find_machine
from epochal.interop.load import load
from epochal.likelihood.nll import Evaluator
from epochal.likelihood.paper import PaperEvaluator
from epochal.models import Transformer
from epochal.objectives import objective
from epochal.recipe import load_recipe
from epochal.training.optim import make_optimizer
from epochal.training.step import Stepper
from parts.options import Options, new_model
from parts.timing import Row

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

CONTROLS = {"stratified exact counts": 0, "and unigram control": 1, "and earlier draws": 2}
"""Variants of our estimator → how many of its control variates they use."""
_RUN_TOKENS = 6400


@dataclass(frozen=True)
class Subject:
    """A model, and what makes evaluations of it from a seed."""

    model: Transformer
    ours: Callable[[int], Evaluator]
    papers: Callable[[int], PaperEvaluator]


def measure(options: Options) -> list[Row]:
    """Errors of each variant, and the passes that it saves."""
    ours, papers = estimates(options)
    variance, freedom = float(np.var(papers, ddof=1)), len(papers) - 1
    note = f"mean {papers.mean():.4f}"
    rows = [_row("paper's, one pass: error", variance**0.5, "nats", note)]
    for name, pairs in ours.items():
        nll, errors = pairs.T
        reported, seen = float(np.mean(errors**2)), float(np.var(nll, ddof=1))
        note = f"mean {nll.mean():.4f}, {options.draws} draws"
        rows.append(_row(f"ours, {name}: error", seen**0.5, "nats", note))
        if options.draws > 1:  # a single draw has no error of its own
            gain = variance / (reported * options.draws)
            rows.append(_row(f"ours, {name}: passes saved (reported)", gain, "×"))
        gain = variance / (seen * options.draws)
        low, high = (gain / float(f.ppf(q, freedom, len(nll) - 1)) for q in (0.95, 0.05))
        row = Row("estimator", f"ours, {name}: passes saved", gain, "×", low, high, "90 % interval")
        rows.append(row)
    return rows


def _row(name: str, value: float, unit: str, note: str = "") -> Row:
    return Row("estimator", name, value, unit, value, value, note)


def estimates(options: Options) -> tuple[dict[str, Floats], Floats]:
    """([repeats, 2] of NLL and its reported error per variant of ours, [repeats] NLL of the
    paper's)."""
    subject = _trained(options) if options.run is None else _of_run(options)
    variants = {name: kept for name, kept in CONTROLS.items() if kept < 2 or options.draws > 1}
    ours: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    papers = []
    with progress.bar("estimator: evaluations", options.repeats) as shown:
        for seed in range(options.repeats):
            evaluator = subject.ours(seed)
            for _ in range(options.draws):
                evaluator.add_draw(subject.model)
            for name, kept in reversed(variants.items()):
                ours[name].append(_without(evaluator, kept))
            paper = subject.papers(seed)
            paper.add_draw(subject.model)
            papers.append(paper.result().nll)
            shown.update(seed + 1)
    return {name: np.array(pairs) for name, pairs in ours.items()}, np.array(papers)


def _without(evaluator: Evaluator, kept: int) -> tuple[float, float]:
    """(NLL, its error) with only the first `kept` control variates."""
    for draw in evaluator._draws:
        draw.controls[kept:] = 0
        draw.products[:, :, kept:-2] = draw.products[:, :, :, kept:-2] = 0
    result = evaluator.result()
    return result.nll, result.error_draws


def _of_run(options: Options) -> Subject:
    """The best checkpoint of a run, on the first tokens of its validation set."""
    assert options.run is not None
    loaded = load(options.run)
    store = open_corpus(loaded.recipe.data).validation
    tokens = np.asarray(store.tokens[:_RUN_TOKENS])
    starts = store.document_starts
    starts = np.append(starts[starts < len(tokens)], len(tokens))
    length, vocabulary = loaded.sequence_length, loaded.tokenizer.vocabulary
    windows, goal, machine = ScoredWindows(tokens, length), loaded.objective, loaded.machine
    return Subject(
        loaded.model,
        lambda seed: Evaluator(goal, machine, windows, starts, vocabulary, 128, seed),
        lambda seed: PaperEvaluator(goal, machine, tokens, length, 128, seed),
    )


def _trained(options: Options) -> Subject:
    """A model of 64 × 2 layers, trained for a moment on the built-in text."""
    length = 128
    changes = {
        "family": "mdm",
        "model.d_model": 64,
        "model.layers": 2,
        "model.heads": 2,
        "data.sequence_length": length,
        "train.global_batch_size": 8,
        "train.steps": max(options.training_steps, 1),
        "train.lr": 2e-3,
        "mdm.noise": "stratified",
    }
    recipe = load_recipe(None, changes)
    texts = builtin_documents()
    tokenizer = train_bpe(texts, 512)
    ids = [np.append(tokenizer.encode(t), tokenizer.end_of_document) for t in texts[:160]]
    held_out = np.concatenate(ids[:20])[:12_800]
    machine = find_machine(recipe.train)
    model = new_model(recipe, tokenizer.vocabulary, machine)
    goal = objective(recipe, tokenizer.mask)
    order = RowOrder(np.concatenate(ids[20:]), length, recipe.seed)
    stepper = Stepper(recipe, model, make_optimizer(model, recipe.train), goal, order, machine)
    with progress.bar("estimator: training", options.training_steps) as shown:
        for number in range(options.training_steps):
            stepper(number, recipe.train.lr)
            shown.update(number + 1)
    starts = np.array([0, len(held_out)])
    windows, vocabulary = ScoredWindows(held_out, length), tokenizer.vocabulary
    return Subject(
        model,
        lambda seed: Evaluator(goal, machine, windows, starts, vocabulary, 64, seed),
        lambda seed: PaperEvaluator(goal, machine, held_out, length, 64, seed),
    )

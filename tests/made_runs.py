"""Run folders as training and evaluation leave them, without any training."""

from __future__ import annotations

import json

import numpy as np

from epochal.recipe import load_recipe
from epochal.runs import NLLResult, RunFolder, RunRecord

UNIQUE_TOKENS = 100_000


def result(family, nll, **changes):
    """An evaluation of the best checkpoint."""
    values = {
        "family": family,
        "checkpoint": "best",
        "step": 50,
        "estimator": "exact" if family == "ar" else "stratified",
        "nll_nats_per_token": nll,
        "standard_error": 0.01,
        "standard_error_draws": 0.0 if family == "ar" else 0.002,
        "standard_error_documents": 0.01,
        "bits_per_byte": 1.1,
        "tokens_scored": 4000,
        "rows": 40,
        "documents": 100,
        "draws": 1 if family == "ar" else 8,
        "sequence_length": 101,
        "validation_sha256": "v",
        "seconds": 1.5,
    }
    return NLLResult(**(values | changes))


def make_run(
    path,
    family,
    curve,
    *,
    nll=None,
    spread=0.02,
    flops=1e15,
    corpus="c",
    status="finished",
    evaluated=True,
    seed=0,
    **changes,
):
    """A run whose validation NLL went along `curve`, scored on 100 documents of 40 tokens.

    The documents' difficulty is the same for all; `spread` is the standard deviation, in nats
    per token, of what is the run's own.
    """
    folder = RunFolder(path)
    steps = 100
    numbers = {
        "steps": steps,
        "params": 1000,
        "flops": flops,
        "epochs": 10.0,
        "unique_tokens": UNIQUE_TOKENS,
    }
    corpora = {role: {"content_sha256": f"{corpus}-{role}"} for role in ("train", "validation")}
    info = {"family": family, "status": status, "numbers": numbers, "corpus": corpora}
    folder.write_info(info)
    folder.write_recipe(load_recipe(None, {"train.steps": steps, "family": family}))
    lines = []
    for number, value in enumerate(curve, start=1):
        share = number / len(curve)
        line = {"kind": "eval", "step": round(share * steps), "nll_nats_per_token": float(value)}
        lines.append(line | {"epochs": 10 * share, "flops": flops * share, "tokens": 1})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    folder.metrics_file.write_text(text, encoding="utf-8")
    if evaluated:
        nll = float(min(curve)) if nll is None else nll
        hard = np.random.default_rng(1).normal(0, 0.5, 100)
        own = np.random.default_rng((2, seed, family == "ar")).normal(0, spread, 100)
        totals = 40 * (nll + hard - hard.mean() + own - own.mean())
        variances = np.full(100, 0.0 if family == "ar" else (0.002 * 4000) ** 2 / 100)
        made = result(family, nll, **changes)
        folder.write_evaluation(made, totals, np.full(100, 40), variances)
    return RunRecord(path)

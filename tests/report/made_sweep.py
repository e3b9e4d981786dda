"""A sweep of both families as training leaves it, its losses those of known laws."""

from __future__ import annotations

import json

import numpy as np

from epochal.recipe import load_recipe
from epochal.runs import RunFolder
from epochal.scaling.law import law_from_constants
from made_runs import result

UNIQUE = 10_000_000
SIZES = (4e5, 1e6, 2.5e6, 6e6, 1.5e7)
EPOCHS = (1, 4, 16, 64, 256)
BUDGETS = (6e15,)
CONSTANTS = {
    "ar": {"A": 180, "B": 900, "E": 1.7, "alpha": 0.36, "beta": 0.38, "R_D": 12, "R_N": 60},
    "mdm": {"A": 180, "B": 1900, "E": 1.7, "alpha": 0.36, "beta": 0.38, "R_D": 150, "R_N": 200},
}


def law(family):
    return law_from_constants("data-constrained", CONSTANTS[family], family)


def pairs():
    """(N, epochs): a grid of sizes and epochs, and sizes at equal compute."""
    found = [(n, float(e)) for n in SIZES for e in EPOCHS]
    equal = [(n, c / (6 * n * UNIQUE)) for c in BUDGETS for n in SIZES]
    return sorted({*found, *((n, e) for n, e in equal if e >= 1)})


def make_sweep(folder, families=("ar", "mdm"), noise=0.004, evaluated=True):
    """Run folders `<family>-<N>-<epochs>`; returns how many."""
    random = np.random.default_rng(3)
    made = 0
    for family in families:
        for n, epochs in pairs():
            path = folder / f"{family}-{n / 1e6:g}M-{epochs:.3g}ep"
            _make_run(path, family, n, epochs, float(np.exp(random.normal(0, noise))), evaluated)
            made += 1
    return made


def _make_run(path, family, n, epochs, factor, evaluated):
    steps, flops = 1000, 6 * n * epochs * UNIQUE
    numbers = {
        "steps": steps,
        "params": int(n),
        "flops": flops,
        "epochs": epochs,
        "unique_tokens": UNIQUE,
        "vocabulary": 8192,
    }
    metadata = {
        "tokenizer": {"name": "bpe:8192", "vocabulary": 8192},
        "text_bytes": 4 * UNIQUE,
        "duplicates": {"documents": 3, "share_of_tokens": 0.012, "dropped": 0},
        "sources": {"listed": [{"name": "a.txt"}, {"name": "b.txt"}]},
    }
    corpora = {
        role: {
            "unique_tokens": UNIQUE,
            "documents": 1234,
            "content_sha256": f"c-{role}",
            "metadata": metadata,
        }
        for role in ("train", "validation")
    }
    folder = RunFolder(path)
    info = {"family": family, "status": "finished", "numbers": numbers, "corpus": corpora}
    folder.write_info(info)
    folder.write_recipe(
        load_recipe(None, {"train.epochs": epochs, "family": family, "model.size": "7M"})
    )
    shares = np.linspace(0.05, 1, 20)
    losses = factor * law(family).predict(n, shares * epochs * UNIQUE, UNIQUE)
    lines = [
        {
            "kind": "eval",
            "step": round(share * steps),
            "tokens": share * epochs * UNIQUE,
            "epochs": share * epochs,
            "flops": share * flops,
            "nll_nats_per_token": float(loss),
        }
        for share, loss in zip(shares, losses, strict=True)
    ]
    folder.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if evaluated:
        made = result(family, float(losses[-1]), step=steps)
        folder.write_evaluation(made, np.full(10, losses[-1]), np.full(10, 1), np.zeros(10))

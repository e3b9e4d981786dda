"""Folders of searches as `epochal tune` leaves them, losses by known laws, without any training."""

from __future__ import annotations

import json

import numpy as np

from epochal.recipe import load_recipe
from epochal.runs import RunFolder
from epochal.scaling.law import law_from_constants
from made_runs import result

UNIQUE = (25_000, 100_000)
SIZES = (100_000, 300_000)
EPOCHS = {"ar": (1, 2, 4, 8, 16, 32), "mdm": (8, 16, 32, 64, 128, 256)}
CONSTANTS = {
    "ar": {"A": 30, "B": 60, "E": 1.5, "alpha": 0.34, "beta": 0.3, "R_D": 6, "R_N": 30},
    "mdm": {"A": 30, "B": 80, "E": 1.5, "alpha": 0.34, "beta": 0.3, "R_D": 80, "R_N": 100},
}
LR, USUAL, TUNED = 0.004, 0.1, 0.4
EFFECT = 0.03
"""Share by which the loss is lower with the tuned weight decay."""


def nll_of(family, n, epochs, unique, decay):
    law = law_from_constants("data-constrained", CONSTANTS[family], family)
    return float(law.predict(n, epochs * unique, unique)) * (1 - EFFECT * (decay == TUNED))


def make_searches(folder, uniques=UNIQUE, sizes=SIZES, seeds=1):
    """One search per family, size and U, each with two decays at every length, in `folder`."""
    searches = []
    for family, lengths in EPOCHS.items():
        for unique in uniques:
            for n in sizes:
                runs = [
                    make_tried(folder, family, n, epochs, unique, decay)
                    for decay in (USUAL, TUNED)
                    for epochs in lengths
                ]
                best = min(runs, key=lambda run: run["nll"])
                for seed in range(2, seeds + 1):
                    at = best["settings"]
                    make_tried(
                        folder, family, n, int(at["epochs"]), unique, at["weight_decay"], seed
                    )
                flops = sum(6 * n * unique * run["settings"]["epochs"] for run in runs)
                searches.append(
                    {
                        "name": f"{family}-{unique}-{n}",
                        "family": family,
                        "params": n,
                        "unique_tokens": unique,
                        "start": runs[0],
                        "best": best,
                        "runs": runs,
                        "neighbours": [
                            {"axis": "lr", "value": 0.008, "verdict": "worse"}
                            | {"difference": 0.1, "error": 0.01},
                            {"axis": "epochs", "value": 512.0, "verdict": "untried"}
                            | {"difference": None, "error": None},
                        ][: 1 if unique == uniques[0] else 2],
                        "certified": unique == uniques[0],
                        "effort": {
                            "runs": len(runs),
                            "tokens": round(flops / 6 / n),
                            "flops": flops,
                            "seconds": 600.0,
                        },
                    }
                )
    (folder / "tune.json").write_text(json.dumps({"path": "tune", "searches": searches}))
    return folder


def make_tried(folder, family, n, epochs, unique, decay, seed=1, corpus="c"):
    """A run, and its entry in tune.json."""
    name = f"{family}-{unique}-{n}-wd{decay}-{epochs}ep" + (f"-seed{seed}" if seed > 1 else "")
    nll = nll_of(family, n, epochs, unique, decay) + 0.01 * (seed - 1)
    run = RunFolder(folder / name)
    flops, steps = 6.0 * n * epochs * unique, 100
    keys = {
        "family": family,
        "seed": seed,
        "train.lr": LR,
        "train.weight_decay": decay,
        "train.epochs": epochs,
    }
    metadata = {
        "tokenizer": {"name": "bpe:512", "vocabulary": 512},
        "text_bytes": 3 * unique,
        "duplicates": {"documents": 0, "share_of_tokens": 0.0, "dropped": 0},
        "sources": {"listed": [{"name": "builtin"}]},
    }
    run.write_info(
        {
            "family": family,
            "status": "finished",
            "identity": keys | {"data.unique_tokens": unique, "model.d_model": n},
            "numbers": {
                "steps": steps,
                "params": n,
                "flops": flops,
                "epochs": float(epochs),
                "unique_tokens": unique,
                "vocabulary": 512,
                "sequence_length": 101,
            },
            "corpus": {
                role: {"content_sha256": f"{corpus}-{name}", "metadata": metadata}
                | {"unique_tokens": unique, "documents": 9}
                for role, name in (("train", unique), ("validation", "v"))
            },
        }
    )
    run.write_recipe(load_recipe(None, keys))
    lines = [
        {
            "kind": "eval",
            "step": step,
            "nll_nats_per_token": nll + 0.3 * (1 - step / steps),
            "epochs": epochs * step / steps,
            "flops": flops * step / steps,
            "tokens": step,
        }
        for step in (25, 50, 75, 100)
    ]
    run.write_metrics(lines)
    random = np.random.default_rng((3, *name.encode()))
    totals = 40 * (nll + np.random.default_rng(1).normal(0, 0.5, 100) + random.normal(0, 0.02, 100))
    made = result(family, nll, step=100, bits_per_byte=nll / 2, validation_sha256=f"{corpus}-v")
    run.write_evaluation(made, totals, np.full(100, 40), np.zeros(100))
    settings = {"lr": LR, "weight_decay": decay, "epochs": float(epochs), "dropout": 0.0}
    return {"run": f"tune/{name}", "settings": settings, "nll": nll}

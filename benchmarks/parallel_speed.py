"""Steps per second and peak memory of one recipe in each parallel mode, as ratios to DDP.

    torchrun --standalone --nproc-per-node 8 benchmarks/parallel_speed.py RECIPE [KEY=VALUE …]

Modes take turns in one process group's lifetime each, twice, so that a busy machine harms all
alike. Give a recipe of some twenty steps; the run's folder is a temporary one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from epochal.training.parallel.world import is_secondary_rank
from epochal.training.train import train

MODES: dict[str, dict[str, object]] = {
    "ddp": {"parallel.zero": 0},
    "zero 1": {"parallel.zero": 1},
    "zero 2": {"parallel.zero": 2},
    "zero 3": {"parallel.zero": 3},
    "zero 3, recompute": {"parallel.zero": 3, "parallel.activation_checkpointing": "full"},
    "tensor 2": {"parallel.tensor": 2},
    "tensor 2, sequence": {"parallel.tensor": 2, "parallel.sequence": True},
}
ROUNDS = 2


def measure(recipe: str, words: list[str], mode: str, place: Path) -> tuple[float, float]:
    """(tokens per second over the last half of the run, GiB at the peak)."""
    changes = [f"{key}={json.dumps(value)}" for key, value in MODES[mode].items()]
    fixed = [f"run_dir={json.dumps(str(place))}", 'log.every="1 steps"', "log.tensorboard=false"]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    record = train(recipe, [*words, *changes, *fixed])
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    speeds = [line["tokens_per_second"] for line in record.metrics("train")]
    half = sorted(speeds[len(speeds) // 2 :])
    return half[len(half) // 2], peak


def main() -> None:
    """Print a table; only the first process does."""
    recipe, *words = sys.argv[1:]
    # All processes must name the same folder.
    top = Path(tempfile.gettempdir()) / f"parallel-speed-{os.environ['TORCHELASTIC_RUN_ID']}"
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for turn in range(ROUNDS):
        for number, mode in enumerate(MODES):
            found[mode].append(measure(recipe, words, mode, top / f"{turn}-{number}"))
    if is_secondary_rank():
        return
    best = {mode: max(speed for speed, _ in pairs) for mode, pairs in found.items()}
    for mode, pairs in found.items():
        ratio = best[mode] / best["ddp"]
        print(f"{mode:20} {best[mode]:12,.0f} tok/s  {ratio:5.2f} × ddp  {pairs[-1][1]:6.1f} GiB")


if __name__ == "__main__":
    main()

"""English about a dry run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from epochal.report.text import Text, describe
from epochal.results import NoteCode
from epochal.training.dry_run import DryRunNote

if TYPE_CHECKING:
    from epochal.recipe.estimate import Sharding
    from epochal.training.dry_run import DryRun

TEXTS: Mapping[NoteCode, Text] = {
    DryRunNote.STORE_MISSING: "the training store {store} does not exist",
    DryRunNote.GPT2_VOCABULARY: "numbers are for GPT-2's vocabulary; give yours with "
    "data.tokenizer=…",
    DryRunNote.SINGLE_EPOCH: "the corpus is assumed to be large enough for a single epoch",
    DryRunNote.WITHOUT_TEACHERS: "FLOPs, memory and time are the student's alone, without its "
    "teachers ({teachers})",
}


def dry_run_notes(result: DryRun) -> list[str]:
    """What the numbers assume, one sentence each without a full stop."""
    time = result.time
    return [
        *map(describe, result.notes),
        f"time: {time.gpus} x {time.gpu} at {100 * time.mfu:g} % of the dense bf16 peak, an "
        "assumption; training alone, without evaluations",
        f"memory: per device, {result.precision}{' autocast' if result.precision == 'bf16' else ''}"
        f", {_in_words(result.sharding, result.memory.stage)}; without the overhead of allocator "
        "and driver",
    ]


def _in_words(sharding: Sharding, stage: int) -> str:
    kinds = ("weights", "gradients", "optimizer")
    parts = [
        f"{kind} in {getattr(sharding, kind)} parts"
        for kind in kinds
        if getattr(sharding, kind) > 1
    ]
    if sharding.tensor > 1:
        parts.append(f"tensor parallel {sharding.tensor}")
    if sharding.pipeline > 1:
        parts.append(
            f"layers in {sharding.pipeline} stages, of which number {stage + 1} needs most"
        )
    if sharding.offload:
        parts.append("weights and optimizer in host memory")
    if sharding.checkpointing != "none":
        parts.append(f"{sharding.checkpointing} activation checkpointing")
    return ", ".join(parts) or "all of the state on each"

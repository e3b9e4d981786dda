"""A run that goes on from another one's checkpoint, the trunk's, and decays: `train.start_from`.

With the schedule warm-up, stable, decay, a run of T steps is a long run at a constant rate, cut
off, plus a decay. So one trunk serves several token budgets, each for the price of its decay
(Hägele et al., arXiv 2405.18392). Such a branch is, bit for bit, the run of T steps that would
have been trained alone with as many steps of warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal.errors import RecipeError, RunError
from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.numbers import decay_begin
from epochal.runs import RunRecord
from epochal.training import checkpoint

# What may differ between a branch and its trunk: the length and what follows from it.
_FREE = frozenset(
    f"train.{key}"
    for key in (
        *("epochs", "tokens", "steps", "flops"),
        *("schedule", "warmup", "decay", "decay_shape", "min_lr"),
    )
)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a branch leaves its trunk."""

    trunk: Path
    step: int
    identity_sha256: str
    """Of the trunk."""

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "trunk": str(self.trunk),
            "step": self.step,
            "identity_sha256": self.identity_sha256,
        }

    def checkpoint(self) -> Path:
        """The trunk's checkpoint. Raises CheckpointError if it is gone or damaged."""
        return checkpoint.find_resumable(self.trunk / "checkpoints", self.step, exactly=True)


def find_start(
    settings: Recipe, numbers: RunNumbers, identity: dict[str, Any], old: dict[str, Any] | None
) -> Start | None:
    """Where the run of `settings` starts, or None for a run of its own.

    `old` is the run.json of its folder, if it was begun before: it then keeps its start. Raises
    RecipeError for a step that is no place to branch off, RunError for a trunk that is another
    experiment, CheckpointError where the trunk has no checkpoint to start from.
    """
    wanted = settings.train.start_from
    begun = (old or {}).get("start")
    if old is not None and (begun is None) != (wanted is None):
        how = "started from another run's checkpoint" if begun else "trained from the beginning"
        raise RunError(
            f"this run was {how}; leave `train.start_from` as it was, or give run_dir=… another "
            "place, or add --restart"
        )
    if wanted is None:
        return None
    if begun is not None:
        start = Start(Path(wanted), begun["step"], begun["identity_sha256"])
        if settings.train.start_step not in (None, start.step):
            raise RunError(
                f"this run was started at step {start.step} of its trunk, not at "
                f"`train.start_step` = {settings.train.start_step}; add --restart to start anew"
            )
        return start
    record = RunRecord(wanted)
    _check_same_experiment(record, identity)
    first, last = _stable_steps(record)
    latest = int(decay_begin(settings.train, numbers.steps)) if _decays(settings) else last
    folder = record.folder.checkpoints
    at = settings.train.start_step
    if at is None:
        path = checkpoint.find_resumable(folder, min(latest, last))
    else:
        path = checkpoint.find_resumable(folder, at, exactly=True)
    step = checkpoint.load_state(path).step
    if not first <= step <= last:
        raise RecipeError(
            f"step {step:,} of the trunk {wanted} is no place to start from: its rate is constant "
            f"from step {first:,} to {last:,} only; choose another `train.start_step`"
        )
    if step > latest or step >= numbers.steps:
        raise RecipeError(
            f"the trunk's checkpoint is of step {step:,}, but this run of {numbers.steps:,} steps "
            f"begins to decay at step {latest:,}; train longer, or lower `train.start_step` or "
            "`train.decay`"
        )
    return Start(Path(wanted), step, record.info["identity_sha256"])


def _decays(settings: Recipe) -> bool:
    return settings.train.schedule == "wsd"


def _check_same_experiment(trunk: RunRecord, identity: dict[str, Any]) -> None:
    theirs = trunk.info["identity"]
    differing = [
        f"`{key}` {theirs.get(key)!r} → {identity.get(key)!r}"
        for key in sorted(theirs.keys() | identity.keys())
        if theirs.get(key) != identity.get(key) and key not in _FREE and not key.startswith("eval.")
    ]
    if differing:
        raise RunError(
            f"the trunk {trunk.path} is another experiment: {', '.join(differing[:4])}; only the "
            "length, the schedule and min_lr may differ"
        )


def _stable_steps(trunk: RunRecord) -> tuple[int, int]:
    """First and last step after which the trunk's rate is lr, before and after."""
    train, steps = trunk.recipe.train, int(trunk.numbers["steps"])
    if train.schedule not in ("constant", "wsd"):
        raise RunError(
            f'the trunk {trunk.path} was trained with train.schedule = "{train.schedule}", which '
            'has no stretch at a constant rate; train one with "constant" or "wsd"'
        )
    # Where the trunk is itself a branch, it was past the warm-up when it began.
    begun = trunk.info.get("start")
    first = int(begun["step"]) if begun else -int(-train.warmup * steps // 1)
    last = int(decay_begin(train, steps)) if train.schedule == "wsd" else steps
    return first, last

"""A branch: a run that continues from the checkpoint of another, the trunk, and decays.

With the schedule warm-up, stable, decay, a run of T steps is the first part of a long run at a
constant rate, plus a decay. So one trunk serves several token budgets, each at the cost of its
decay (Hägele et al., arXiv 2405.18392). Such a branch (`train.start_from`) is, bit for bit, the
run of T steps trained alone with as many steps of warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal.errors import RecipeError, RunError
from epochal.families import get_family
from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.numbers import decay_begin
from epochal.runs import RunRecord, checkpoints
from epochal.training import checkpoint

# Keys that may differ between a branch and its trunk: the length and what follows from it.
_FREE = frozenset(
    f"train.{key}"
    for key in (
        *("epochs", "tokens", "steps", "flops"),
        *("schedule", "warmup", "decay", "decay_shape", "min_lr"),
    )
)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a branch leaves its trunk; kept in run.json."""

    trunk: Path
    step: int
    identity_sha256: str
    """Identity of the trunk."""

    def checkpoint(self) -> Path:
        """The trunk's checkpoint. Raises CheckpointError if it is missing or damaged."""
        return checkpoints.find_resumable(self.trunk / "checkpoints", self.step, exactly=True)


def find_start(
    settings: Recipe, numbers: RunNumbers, identity: dict[str, Any], old: dict[str, Any] | None
) -> Start | None:
    """Where the run of `settings` branches off; None for a run without a trunk.

    `old` is the run.json of its folder, if it was started before: it then keeps its start. Raises
    RecipeError for a step at which it cannot branch off, RunError for a trunk that is another
    experiment, CheckpointError if the trunk has no checkpoint to start from.
    """
    wanted = settings.train.start_from
    begun = (old or {}).get("start")
    if old is not None and (begun is None) != (wanted is None):
        how = "started from another run's checkpoint" if begun else "trained from the beginning"
        raise RunError(
            f"this run was {how}; leave `train.start_from` as it was, give another run_dir=…, or "
            "add --restart"
        )
    if wanted is None:
        return None
    if begun is not None:
        start = Start(Path(wanted), begun["step"], begun["identity_sha256"])
        if settings.train.start_step not in (None, start.step):
            raise RunError(
                f"this run was started at step {start.step} of its trunk, not at "
                f"`train.start_step` = {settings.train.start_step}; add --restart to start over"
            )
        return start
    record = RunRecord(wanted)
    _check_same_experiment(record, identity)
    _check_rules(record, settings, numbers)
    first, last = _stable_steps(record)
    decays = settings.train.schedule == "wsd"
    latest = int(decay_begin(settings.train, numbers.steps)) if decays else last
    folder = record.folder.checkpoints
    at = settings.train.start_step
    if at is None:
        path = checkpoints.find_resumable(folder, min(latest, last))
    else:
        path = checkpoints.find_resumable(folder, at, exactly=True)
    step = checkpoint.load_state(path).step
    if not first <= step <= last:
        raise RecipeError(
            f"a run cannot start from step {step:,} of the trunk {wanted}: its rate is constant "
            f"from step {first:,} to {last:,} only; choose another `train.start_step`"
        )
    if step > latest or step >= numbers.steps:
        raise RecipeError(
            f"the trunk's checkpoint is of step {step:,}, but this run of {numbers.steps:,} steps "
            f"decays from step {latest:,}; train longer, or lower `train.start_step` or "
            "`train.decay`"
        )
    return Start(Path(wanted), step, record.info["identity_sha256"])


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


def _check_rules(trunk: RunRecord, settings: Recipe, numbers: RunNumbers) -> None:
    """Raise RunError where a rule gives the trunk, which is longer, another number."""
    in_run, epochs = get_family(settings.family).in_run, trunk.numbers["epochs"]
    mine, theirs = in_run(settings.options, numbers.epochs), in_run(trunk.recipe.options, epochs)
    if mine != theirs:
        raise RunError(
            f"in the trunk {trunk.path}, of {epochs:g} epochs, the rules of the section "
            f"[{settings.family}] give {theirs}, in this run {mine}; give numbers instead"
        )


def _stable_steps(trunk: RunRecord) -> tuple[int, int]:
    """(first, last) step of the trunk at which the rate is lr both before and after."""
    train, steps = trunk.recipe.train, int(trunk.numbers["steps"])
    if train.schedule not in ("constant", "wsd"):
        raise RunError(
            f'the trunk {trunk.path} was trained with train.schedule = "{train.schedule}", which '
            'has no steps at a constant rate; train one with "constant" or "wsd"'
        )
    # If the trunk is itself a branch, it started after the warm-up.
    begun = trunk.info.get("start")
    first = int(begun["step"]) if begun else -int(-train.warmup * steps // 1)
    last = int(decay_begin(train, steps)) if train.schedule == "wsd" else steps
    return first, last

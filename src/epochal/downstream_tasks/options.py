"""Options of `downstream`, checked before torch is imported, so that wrong ones fail at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from epochal.downstream_tasks.harness_tasks import check_names, require_harness, task_names
from epochal.errors import UserError
from epochal.likelihood.draws import check_masks
from epochal.runs import RunRecord

Mode = Literal["ar", "mc", "generate", "nll"]


def check_mode(mode: str | None, family: str) -> Mode:
    """The mode that is meant. Raises UserError for one that the family has not."""
    known: tuple[Mode, ...] = get_args(Mode)
    for one in known:
        if one == mode and (family != "ar" or one in ("ar", "nll")):
            return one
    if mode is None:
        return "ar" if family == "ar" else "mc"
    if mode not in known:
        raise UserError(f"mode = {mode!r} is not one of {', '.join(known)}")
    raise UserError(
        f"mode = {mode!r} is for masked diffusion; an autoregressive run's likelihood is exact: "
        "leave --mode out"
    )


def check_downstream(
    record: RunRecord,
    *,
    tasks: str,
    data: str | Path | None,
    mode: str | None,
    draws: int,
    limit: int | None,
) -> tuple[list[str], Path | None]:
    """Names of the tasks, and the folder that defines them if they are one's own.

    Raises UserError for an unknown task or mode, too few draws, a limit below 1, a folder that
    is not there and a missing harness.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}: give at least 1 document")
    if data is not None and not Path(data).is_dir():
        raise UserError(f"there is no folder {data}; --data takes one with TASK/SPLIT.jsonl in it")
    meant = check_mode(mode, record.family)
    if record.family != "ar" and meant in ("mc", "nll"):
        check_masks(draws)
    require_harness()
    names, own = task_names(tasks)
    if own is None:
        check_names(names)
    return names, own

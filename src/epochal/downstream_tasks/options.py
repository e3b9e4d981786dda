"""Options of `downstream`, checked before torch and the harness are imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from epochal.downstream_tasks.harness_tasks import check_names, require_harness, task_names
from epochal.errors import OptionError, UserError
from epochal.families import Family, get_family
from epochal.likelihood.draws import check_masks
from epochal.options import option
from epochal.progress import say_renamed
from epochal.runs import RunRecord

Mode = Literal["exact", "mc", "chain_rule", "nll", "generate"]
"""How a continuation is scored. exact: Σ log p of each token given those before it. mc: the
bound over all orders, by Monte Carlo. chain_rule: left to right, the rest masked. nll:
likelihoods only, no greedy match. generate: greedy match only, no likelihoods."""
DEFAULT_DRAWS = 32
RENAMED_FROM: dict[Mode, str] = {"exact": "ar", "chain_rule": "ar"}
"""Mode → its name in results and commands of an earlier version."""


def _read_mode(text: str) -> str:
    if text not in (*get_args(Mode), *RENAMED_FROM.values()):
        raise UserError(f"the mode {text!r} is not one of {', '.join(get_args(Mode))}")
    return text


@dataclass(frozen=True, kw_only=True)
class DownstreamOptions:
    """Which tasks, and how they are scored."""

    tasks: str = option("paper", metavar="paper|NAME,NAME|FOLDER")
    """The paper's nine, tasks of lm-eval by name, or a folder of YAML tasks."""
    data: Path | None = option(None, metavar="FOLDER")
    """Local rows, as FOLDER/TASK/SPLIT.jsonl."""
    mode: str | None = option(None, metavar="|".join(get_args(Mode)), parse=_read_mode)
    """How continuations are scored: exact where the family's NLL is exact (its default); else mc
    (default), Monte Carlo over all orders, or chain_rule, left to right; nll, likelihoods only;
    generate, greedy generation only."""
    draws: int | None = None
    """Masks per continuation, at most.  [default: 32]"""
    seed: int = 0
    """Seed of the masks."""
    pad: bool | None = None
    """MDM: pad rows with masks to the sequence length.  [default: pad, unless trained with
    mdm.random_length]"""
    limit: int | None = None
    """Score only the first N documents of each task; results are not saved."""
    checkpoint: str | None = option(None, metavar="NAME")
    """best, last, ema or a step.  [default: best]"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


def check_downstream(
    record: RunRecord, options: DownstreamOptions
) -> tuple[list[str], Path | None]:
    """Names of the tasks, and the folder that defines them if it is the user's own.

    Raises UserError for an unknown task or mode, options that the run's family or the mode does
    not use, too few draws, a limit below 1, a missing folder and a missing harness.
    """
    if options.limit is not None and options.limit < 1:
        raise OptionError("limit", options.limit, "give at least 1 document")
    if options.data is not None and not Path(options.data).is_dir():
        raise OptionError(
            "data", str(options.data), "there is no such folder; give one with TASK/SPLIT.jsonl"
        )
    family = get_family(record.family)
    check_scoring(resolve_mode(options.mode, family), family, options.draws, options.pad)
    require_harness()
    names, own = task_names(options.tasks)
    if own is None:
        check_names(names)
    return names, own


def resolve_mode(mode: str | None, family: Family) -> Mode:
    """The mode that is meant. Raises OptionError for one that the family does not have, UserError
    for a family whose rows are read by blocks."""
    if family.attention == "blocks":
        raise UserError(
            f"tasks cannot be scored with {family.title} models; `epochal eval` gives their NLL"
        )
    allowed: tuple[Mode, ...] = (
        ("exact", "nll") if family.exact else ("mc", "chain_rule", "nll", "generate")
    )
    if mode is None:
        return allowed[0]
    earlier = _read_mode(mode)
    for name in allowed:
        if mode == name:
            return name
        if RENAMED_FROM.get(name) == earlier:
            say_renamed("modes", {earlier: name})
            return name
    raise OptionError(
        "mode", mode, f"{family.title} models have {' and '.join(allowed)}; leave it out"
    )


def draws_masks(mode: Mode, family: Family) -> bool:
    """Whether likelihoods come from masks that are drawn."""
    return not family.exact and mode in ("mc", "nll")


def check_scoring(mode: Mode, family: Family, draws: int | None, pad: bool | None) -> None:
    """Raise OptionError for options that would be ignored, and for too few draws."""
    if draws_masks(mode, family):
        check_masks(DEFAULT_DRAWS if draws is None else draws)
    elif draws is not None:
        raise OptionError("draws", draws, f"the mode {mode} draws no masks; leave it out")
    if pad is not None and family.attention == "causal":
        raise OptionError(
            "pad", pad, f"rows of {family.title} models are never padded; leave it out"
        )

"""Options of `downstream`, checked before torch and the harness are imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from epochal.downstream_tasks.harness_tasks import check_names, require_harness, task_names
from epochal.errors import NamedOption, OptionError, UserError
from epochal.families import Family, get_family
from epochal.likelihood.draws import check_masks
from epochal.options import option
from epochal.progress import say_renamed
from epochal.runs import RunRecord

Mode = Literal["exact", "mc", "chain_rule", "nll", "generate"]
"""How a continuation is scored. exact: Σ log p of each token given those before it. mc: the
bound over all orders, by Monte Carlo. chain_rule: left to right, the rest masked. nll:
likelihoods only, no greedy match. generate: greedy match only, no likelihoods."""
BABYLM = "babylm"
"""Name of the BabyLM evaluation's tasks."""
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

    tasks: str = option("paper", metavar="paper|babylm|NAME,NAME|FOLDER")
    """The paper's nine, those of the BabyLM evaluation, tasks of lm-eval by name, or a folder of
    YAML tasks."""
    data: Path | None = option(None, metavar="FOLDER")
    """Local rows, as FOLDER/TASK/SPLIT.jsonl; for babylm the evaluation's full_eval or
    fast_eval."""
    mode: str | None = option(None, metavar="|".join(get_args(Mode)), parse=_read_mode)
    """How continuations are scored: exact where the family's NLL is exact (its default); else mc
    (default), Monte Carlo over all orders, or chain_rule, left to right; nll, likelihoods only;
    generate, greedy generation only."""
    score: str | None = option(None, metavar="exact|bound|pseudo")
    """babylm: exact where the family's NLL is exact (its default); else the bound by masks that are
    drawn (default), or pseudo, each token masked by itself, as that evaluation scores masked
    models."""
    draws: int | None = None
    """Masks per continuation, at most.  [default: 32]"""
    seed: int = 0
    """Seed of the masks."""
    pad: bool | None = None
    """MDM: pad rows with masks to the sequence length.  [default: pad, unless trained with
    mdm.random_length, or scored by pseudo]"""
    limit: int | None = None
    """Score only the first N documents of each task, for babylm of each subtask; results are not
    saved."""
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
    _check_rows(options, "TASK/SPLIT.jsonl")
    if options.score is not None:
        raise OptionError("score", options.score, f"only the tasks {BABYLM} have it; give `mode`")
    family = get_family(record.family)
    check_scoring(resolve_mode(options.mode, family), family, options.draws, options.pad)
    require_harness()
    names, own = task_names(options.tasks)
    if own is None:
        check_names(names)
    return names, own


def check_babylm(record: RunRecord, options: DownstreamOptions) -> str:
    """How the BabyLM tasks are scored: exact, bound or pseudo.

    Raises UserError for missing data, a score that the run's family does not have, options that
    the score does not use, too few draws and a limit below 1.
    """
    if options.data is None:
        raise UserError(
            f"the tasks {BABYLM} are read from local files; give ",
            NamedOption("data", "FOLDER"),
            ", the evaluation's full_eval or fast_eval (docs/babylm.md)",
        )
    _check_rows(options, "the evaluation's tasks, its full_eval or fast_eval")
    if options.mode is not None:
        raise OptionError("mode", options.mode, f"the tasks {BABYLM} have `score` instead")
    family = get_family(record.family)
    masks = family.mask_token and (not family.exact or family.masked_reading is not None)
    allowed = (("exact",) if family.exact else ()) + (("bound", "pseudo") if masks else ())
    if not allowed:
        raise UserError(f"{family.title} models have neither an exact NLL nor masks to score with")
    score = options.score or allowed[0]
    if score not in allowed:
        raise OptionError("score", score, f"{family.title} models have {' and '.join(allowed)}")
    if score == "bound":
        check_masks(DEFAULT_DRAWS if options.draws is None else options.draws)
    elif options.draws is not None:
        raise OptionError("draws", options.draws, f"{score} draws no masks; leave it out")
    if options.pad is not None and score == "exact":
        raise OptionError("pad", options.pad, "exact pads no rows; leave it out")
    return score


def _check_rows(options: DownstreamOptions, wanted: str) -> None:
    if options.limit is not None and options.limit < 1:
        raise OptionError("limit", options.limit, "give at least 1 document")
    if options.data is not None and not Path(options.data).is_dir():
        raise OptionError(
            "data", str(options.data), f"there is no such folder; give one with {wanted}"
        )


def resolve_mode(mode: str | None, family: Family) -> Mode:
    """The mode that is meant. Raises OptionError for one that the family does not have, UserError
    for a family that gives no probabilities of single tokens."""
    if not family.answers:
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

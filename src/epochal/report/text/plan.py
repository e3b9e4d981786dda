"""English about plans: which family to take, where the lead changes, what the laws do not cover.

And about a run in progress: whether validation has turned, and what an hour more buys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epochal.families import get_family
from epochal.report.text.data import effective_tokens
from epochal.report.text.format import flops, listed, sentence
from epochal.results import NoteCode
from epochal.scaling.advisor import AHEAD, Advice
from epochal.scaling.crossing import TRUSTED_FACTOR, Crossings
from epochal.scaling.law import Extrapolation
from epochal.scaling.planner import (
    CriticalData,
    CriticalDataReport,
    FamilyPlan,
    Pair,
    PlanNote,
    PlanReport,
)
from epochal.units import format_count


def advice_text(advice: Advice) -> str:
    """The advice as one sentence."""
    parts = []
    if advice.turned:
        parts.append(
            f"validation has turned: it was lowest at epoch {advice.seen_epoch:.3g} and has risen "
            f"by {advice.rise:.3f} nats since; the best checkpoint is kept"
        )
    elif advice.best_epoch is not None and advice.interval is not None:
        low, high = advice.interval
        end = "?" if high is None else f"{high:.3g}"
        parts.append(
            f"validation is predicted to be lowest near epoch {advice.best_epoch:.3g} "
            f"({low:.3g} – {end})"
        )
    elif advice.seen_epoch is None:
        parts.append("no evaluation yet")
    else:
        parts.append("validation loss has not turned, and its minimum cannot be predicted yet")
    if advice.law_epoch is not None:
        parts.append(f"the law puts the best at epoch {advice.law_epoch:.3g}")
    if advice.next_hour is not None and advice.next_hour_interval is not None:
        low, high = advice.next_hour_interval
        what = "another hour would"
        if advice.beyond_reach:
            what = f"training to {AHEAD:g} times these epochs, less than an hour, would"
        parts.append(
            f"{what} {'lower' if advice.next_hour >= 0 else 'raise'} it by about "
            f"{abs(advice.next_hour):.3f} nats ({low:+.3f} to {high:+.3f} gained)"
        )
    return f"{sentence('; '.join(parts))}."


def _name(family: str) -> str:
    return get_family(family).short


def _names(families: Sequence[str]) -> str:
    return listed([_name(family) for family in families])


def _no_repetition(values: Mapping[str, Any]) -> str:
    why = "its runs are of one epoch" if values["identified"] else "R_D not identified"
    return (
        f"the {_name(values['family'])} law does not cover repetition ({why}), so no token is "
        "repeated in its plan"
    )


def _floors(values: Mapping[str, Any]) -> str:
    exact, bounds = values["exact"], values["bounds"]
    if exact and bounds:
        kinds = f"the loss of {_names(exact)} is exact and that of {_names(bounds)} a bound, with"
    else:
        kinds = "the families have"
    return (
        f"{kinds} different floors E, all extrapolated: a crossing is an empirical question for "
        "each corpus"
    )


def _gb(amount: float) -> str:
    return f"{amount / 1e9:.0f} GB"


TEXTS: dict[NoteCode, Any] = {
    PlanNote.BUDGET_OF_GPUS: lambda v: (
        f"{v['count']} × {v['gpu']} for {v['hours']:g} h at {100 * v['mfu']:g} % of "
        f"{flops(v['peak'])} FLOP/s: {flops(v['flops'])} FLOPs (the share is an "
        "assumption)"
    ),
    PlanNote.OTHER_VOCABULARY: lambda v: (
        f"the {_name(v['family'])} law has a vocabulary of {v['law']:,} tokens, the plan one of "
        f"{v['plan']:,}: nats per token do not carry over from one to the other"
    ),
    PlanNote.SMALLEST_SIZE: lambda v: (
        f"the {_name(v['family'])} plan stops at {format_count(v['params'])} parameters, the "
        "smallest model of the search; its optimum lies beyond"
    ),
    PlanNote.LARGEST_SIZE: lambda v: (
        f"the {_name(v['family'])} plan stops at {format_count(v['params'])} parameters, the "
        "largest model of the search; its optimum lies beyond"
    ),
    PlanNote.ROW_LENGTH_UNKNOWN: lambda v: (
        f"the {_name(v['family'])} law does not have the sequence length of its runs: a recipe has "
        f"rows of {v['rows']:,} tokens; set data.sequence_length to theirs, since the prediction "
        "is for their context"
    ),
    PlanNote.ROW_LENGTH_SHORTER: lambda v: (
        f"the runs of the {_name(v['family'])} law have rows of {v['fitted']:,} tokens, too long "
        f"for {format_count(v['unique_tokens'])} unique tokens: a recipe has {v['rows']:,}, and "
        "its loss will be higher than predicted"
    ),
    PlanNote.NO_REPETITION: _no_repetition,
    PlanNote.NO_LARGE_MODELS: lambda v: (
        f"the {_name(v['family'])} law does not cover models above N_opt(U) (R_N not identified), "
        "so their additional parameters count for nothing"
    ),
    PlanNote.REPEATED_AS_FRESH: lambda v: (
        f"the {_name(v['family'])} law counts a repeated token as a fresh one: do not trust it "
        "beyond a few epochs"
    ),
    PlanNote.NO_OVERFITTING: lambda v: (
        f"the {_name(v['family'])} law cannot express overfitting: watch the validation loss and "
        "keep the best checkpoint"
    ),
    PlanNote.FLOORS_EXTRAPOLATED: _floors,
    PlanNote.NEEDS_SHARDING: lambda v: (
        f"the {_name(v['family'])} model needs {_gb(v['whole'])} on one {v['gpu']} with "
        f"{_gb(v['memory'])}; train it with parallel.zero=3 parallel.activation_checkpointing=full "
        f"train.micro_batch_size=1 ({_gb(v['sharded'])} on each of {v['gpus']})"
    ),
    PlanNote.DOES_NOT_FIT: lambda v: (
        f"the {_name(v['family'])} model does not fit: {_gb(v['sharded'])} on each of {v['gpus']} "
        f"× {v['gpu']} with {_gb(v['memory'])}, even with ZeRO 3 and full activation "
        "checkpointing; give smaller sizes, or more GPUs"
    ),
    PlanNote.MUENNIGHOFF_CONSTANTS: "constants of Muennighoff et al. 2023 (AR, C4); their R_D and "
    "R_N are a local minimum of their own objective, and R_D from 12 to 500 fits nearly as well: "
    "that is the interval",
    PlanNote.QUOKKA_CONSTANTS: "constants of Ni et al. 2025 (Quokka, masked diffusion, C4), "
    "equation 15 as printed, rounded; without intervals. Their runs kept the learning rate",
    PlanNote.QUOKKA_OPTIMA: "against their best runs on 10M to 139M unique tokens, the law puts "
    "the size too low by a factor of 1.7 to 3.5, and the epochs at 0.8 to 2.1 times as many",
    PlanNote.GRID_CONSTANTS: "fitted by us to the 139 runs of the paper's loss grid (arXiv "
    "2507.15857, Fig. 2, digitised; weight decay and dropout 0.1). Its crossing lies where these "
    "runs show it, at 2.4·10¹⁹ FLOPs (seen: 2.6·10¹⁹); the paper's law puts it at 10²⁰",
    PlanNote.GRID_ONE_BUDGET: "all runs of the grid have 100M unique tokens: for any other number, "
    "the law is extrapolated",
    PlanNote.PAPER_CONSTANTS: "the paper (arXiv 2507.15857) prints only R_D and R_N; A, B, E, "
    "alpha and beta were read off its Fig. 5. Intervals are the range of two readings and both "
    "printed R_D, ± 0.01 nats",
    PlanNote.PAPER_FIT: "its AR law fits its runs badly (R² 0.76), and its data end at 100M unique "
    "tokens (single runs, 500M aside)",
    PlanNote.PAPER_BEST_RUNS: "its best runs on 100M tokens were AR 3.71 and MDM 3.55 nats; its AR "
    "law puts the floor there at about 3.4, since it cannot express overfitting",
}

_QUANTITIES = {
    "params": "N",
    "tokens": "tokens",
    "unique_tokens": "U",
    "flops": "FLOPs",
    "epochs": "epochs",
}


def extrapolation_text(warning: Extrapolation) -> str:
    """ "N 2.5B is above the fitted 1.2B"."""
    side = "above" if warning.value > warning.fitted else "below"
    show = flops if warning.quantity == "flops" else format_count
    return (
        f"{_QUANTITIES[warning.quantity]} {show(warning.value)} is {side} the fitted "
        f"{show(warning.fitted)}"
    )


def _floor_text(plan: FamilyPlan) -> str:
    """What no budget can beat, and whether this one is beyond that."""
    text = (
        f"{plan.family}: floor {plan.floor:.3f} on these tokens, reached to 0.001 nats at "
        f"{flops(plan.saturation_flops)} FLOPs"
    )
    return text + ("; the budget is beyond that: more buys nothing" if plan.saturated else "")


def verdict_text(report: PlanReport, *, short: bool = False) -> str:
    """Which family is better for the budget, and unless `short` where the lead changes; no full
    stop."""
    if not report.pairs:
        name = _name(report.families[0].family)
        return f"Only laws of {name} are available; families cannot be compared"
    texts = [_pair_text(report, pair, short=short) for pair in report.pairs]
    if not short:
        criticals = [critical_text(pair, report.flops) for pair in report.pairs]
        texts = [f"{text}; {critical}" for text, critical in zip(texts, criticals, strict=True)]
    if len(texts) == 1:
        return texts[0]
    lead = "No family beats all others"
    if report.winner is not None:
        lead = f"{_name(report.winner)} beats every other family"
    return f"{lead}. {'. '.join(texts)}"


def _pair_text(report: PlanReport, pair: Pair, *, short: bool) -> str:
    """Which of two families is better for the budget; `short`: without intervals."""
    losses = {plan.family: plan.loss for plan in report.families}
    first, second = _name(pair.first), _name(pair.second)
    figures = f"{first} {losses[pair.first]:.3f}, {second} {losses[pair.second]:.3f} nats per token"
    if pair.interval is None:
        lead = second if pair.difference < 0 else first
        return f"{lead} is predicted to be lower ({figures}), with no interval"
    details = f"interval {pair.interval[0]:+.3f} to {pair.interval[1]:+.3f}"
    if pair.winner is None:
        text, details = "Too close to call", f"difference {pair.difference:+.3f}, {details}"
    else:
        text = f"{_name(pair.winner)} by {abs(pair.difference):.3f} nats per token"
    if short:
        return f"{text} ({figures})"
    text = f"{text} ({figures}; {details})"
    share = pair.p_second_better
    if share is not None and pair.winner is None and 0 < share < 1:
        text += f"; {100 * share:.0f} % of resamples favour {second}"
    return text


def critical_text(pair: Pair, budget: float) -> str:
    """Where the second family's lead begins, as far as the laws are trusted; no full stop."""
    critical, limit = pair.critical, pair.trusted_flops
    name = _name(pair.second)
    low, high = critical.searched
    if limit is None:
        reach = f"{flops(high)} FLOPs (the laws' runs are not known)"
    else:
        reach = f"{flops(limit)} FLOPs, {TRUSTED_FACTOR:g} times the largest run fitted"
        high = min(high, limit)
    if high <= low:
        return (
            f"no critical compute can be given: it would lie above {flops(low)} FLOPs, and "
            f"the laws are trusted up to {reach}"
        )
    crossings = [c for c in critical.crossings if c <= high]
    leaders = critical.leaders[: len(crossings) + 1]
    into = [c for c, lead in zip(crossings, leaders[1:], strict=True) if lead == pair.second]
    if into:
        several = f"the lead changes {len(crossings)} times; " if len(crossings) > 1 else ""
        ratio = budget / into[0]
        side = f"{ratio:.3g} times" if ratio >= 1 else f"1/{1 / ratio:.3g} of"
        return f"{several}critical compute {flops(into[0])} FLOPs, the budget is {side} that"
    if crossings:
        return f"{name} leads only below {flops(crossings[0])} FLOPs, up to {reach}"
    if leaders[0] == pair.first:
        text = f"{name} does not win up to {reach}"
        if pair.critical_flops is None:
            return text
        return (
            f"{text}: not within reach; the laws put it at {flops(pair.critical_flops)} "
            "FLOPs, where nothing was measured"
        )
    if leaders[0] == pair.second:
        return f"there is no critical compute: {name} leads at every budget up to {reach}"
    return f"the laws give no difference up to {reach}"


def interval_text(crossings: Crossings) -> str | None:
    """ "95 % interval from 200 resamples: 8.8e+19 – 1.2e+20", None without an interval."""
    if crossings.interval is None:
        return None
    ends = [flops(e) if e is not None else "open" for e in crossings.interval]
    kind = "range" if crossings.level is None else f"{100 * crossings.level:g} % interval"
    source = "readings" if crossings.level is None else "resamples"
    return f"{kind} from {crossings.resamples} {source}: {ends[0]} – {ends[1]}"


def critical_data_text(report: CriticalDataReport) -> str:
    """At which U the later family of each pair wins with the budget."""
    return " ".join(_critical_data(pair, report.flops) for pair in report.pairs)


def _critical_data(pair: CriticalData, budget: float) -> str:
    found, given = pair.crossings, f"With {flops(budget)} FLOPs"
    low = max(pair.trusted_unique_tokens[0], found.searched[0])
    high = min(pair.trusted_unique_tokens[1], found.searched[1])
    where = f"from {format_count(low)} to {format_count(high)} unique tokens"
    first, second = _name(pair.first), _name(pair.second)
    if high <= low:
        return (
            f"{given} {first} and {second} cannot be compared: their laws were fitted to other "
            "numbers of tokens."
        )
    inside = [u for u in found.crossings if low <= u <= high]
    before = sum(u < low for u in found.crossings)
    leaders = found.leaders[before : before + len(inside) + 1]
    guess = ""
    if pair.trusted_flops is not None and budget > pair.trusted_flops:
        guess = (
            f" The budget is more than {TRUSTED_FACTOR:g} times the largest run fitted, so this is "
            "a guess."
        )
    if not inside:
        lead = "neither family" if leaders[0] is None else _name(leaders[0])
        outside = [u for u in found.crossings if not low <= u <= high]
        later = (
            f" The laws put a change at {format_count(outside[0])}, beyond what was measured."
            if outside
            else ""
        )
        return f"{given} {lead} leads at every U {where}.{later}{guess}"
    edges = [low, *inside, high]
    ranges = []
    for start, end, leader in zip(edges[:-1], edges[1:], leaders, strict=True):
        if leader != pair.second:
            continue
        if start == low:
            ranges.append(f"below {format_count(end)}")
        elif end == high:
            ranges.append(f"above {format_count(start)}")
        else:
            ranges.append(f"from {format_count(start)} to {format_count(end)}")
    between = ""
    if found.interval is not None and None not in found.interval and found.kind == "one":
        between = f" (interval {' to '.join(format_count(e) for e in found.interval if e)})"
    return (
        f"{given} {second} is predicted to win {' and '.join(ranges)} unique tokens{between}, "
        f"{first} otherwise, {where}.{guess}"
    )


def plan_lines(report: PlanReport) -> list[str]:
    """What a plan has besides its table, its verdict and its notes."""
    lines = []
    if report.effective is not None:
        lines.append(
            f"U is U_effective: {effective_tokens(report.effective)}; a recipe trains on all"
        )
    for plan in report.families:
        lines.append(_floor_text(plan))
        if plan.extrapolation_warnings:
            warnings = "; ".join(map(extrapolation_text, plan.extrapolation_warnings))
            lines.append(f"{plan.family} extrapolates: {warnings}")
    for pair in report.pairs:
        if (ends := interval_text(pair.critical)) is not None:
            versus = f" of {_name(pair.second)} over {_name(pair.first)}"
            lines.append(f"critical compute{versus * (len(report.pairs) > 1)}, {ends} FLOPs")
    if report.pairs:
        lines.append(
            "cited only: the paper's closed form gives "
            f"{flops(report.paper_critical_flops)} FLOPs; its own figure has another slope"
        )
    return lines


def recipe_head(plan: FamilyPlan, report: PlanReport, *, like_run: bool) -> str:
    """Comment above a planned recipe; `like_run`: whether the law had the recipe of a run."""
    passes = plan.tokens / report.stored_tokens  # plan.epochs is 1 for a part of an epoch
    length = "1 epoch" if round(passes, 4) == 1 else f"{passes:.4g} epochs"
    if passes < 1:
        length = f"{passes:.4g} of an epoch"
    rest = "Batch, learning rate, dropout and the rest are defaults: set those of your runs."
    if like_run:
        rest = "All but size and length as in the law's best run."
    return (
        f"# {get_family(plan.family).title}, from `epochal plan` for "
        f"{format_count(report.stored_tokens)} unique tokens and {format_count(report.flops)} "
        f"FLOPs.\n# Predicted loss {plan.loss:.4f} nats per token at {format_count(plan.params)} "
        f"parameters and {length}.\n# {rest}\n"
    )


def verdict_sentence(report: PlanReport) -> str:
    """`verdict_text` as a sentence."""
    return f"{sentence(verdict_text(report))}."

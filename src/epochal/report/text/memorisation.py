"""Words about memorisation, with advice to those whose text is private."""

from __future__ import annotations

from collections.abc import Sequence

from epochal.families import get_family
from epochal.memorisation.analysis import best_of, by_run
from epochal.memorisation.results import (
    Advice,
    AtEqualLoss,
    CanaryExposure,
    CheckpointResult,
    CopiesExposure,
    Extraction,
    ExtractionVerdict,
    Memorisation,
    MemorisationNote,
    Publish,
)
from epochal.report.text import Text, describe
from epochal.report.text.format import listed

TEXTS: dict[MemorisationNote, Text] = {
    MemorisationNote.DIFFERENT_CONDITIONS: "{mismatch}; give runs that do not",
    MemorisationNote.NO_CHECKPOINT_ABOVE: (
        "{run} has no checkpoint before its best with a validation NLL of {level:.3f} or more, the "
        "lowest that {other} reached (its highest is {highest:.3f}); train {run} with "
        "`checkpoint.keep_every` to have some"
    ),
}


def summary(result: Memorisation) -> list[str]:
    """What the results mean: each run at its best and its last checkpoint, then advice, then
    the runs at equal validation NLL."""
    sentences = []
    runs = by_run(result.checkpoints)
    for advice in result.advice:
        checkpoints = runs[advice.run]
        best, last = best_of(checkpoints), checkpoints[-1]
        short = get_family(last.family).short
        length = result.continuation_tokens
        if best is last:
            sentences += _state(f"{advice.run} ({short}), best and last", last, length)
        else:
            sentences += _state(f"{advice.run} ({short}), best", best, length)
            sentences += _state(f"{advice.run}, last", last, length)
        sentences += _excluded_canaries(last.canaries)
        sentences.append(f"Advice for {advice.run}: {' '.join(advise(advice, checkpoints))}")
    if result.not_compared is not None:
        reason = describe(result.not_compared)
        sentences.append(f"The runs are not compared at equal validation NLL: {reason}.")
    names = {each.family: get_family(each.family) for each in result.at_equal_loss}
    bounds = [family.short for family in names.values() if not family.exact]
    sentences += [_at_equal_loss(each, bounds) for each in result.at_equal_loss]
    sentences.append(
        "A low rate is no guarantee: other prompts, sampling or more tries may extract more than "
        "greedy generation does. Treat a model trained on private text as private."
    )
    return sentences


def advise(advice: Advice, checkpoints: Sequence[CheckpointResult]) -> list[str]:
    """One to four sentences on what to do about one run, given its checkpoints."""
    at = {each.step: each for each in checkpoints}
    chosen, best, last = at[advice.step], best_of(checkpoints), checkpoints[-1]
    if advice.publish is Publish.NONE:
        sentences = [
            f"Publish none of the checkpoints if the text is private: all of them give text back, "
            f"that of step {chosen.step:,} the least ({_given_back(chosen)}). "
            "Train for fewer epochs, with more text or a smaller model, and measure again."
        ]
    else:
        sentences = [
            f"If one is to be published, take the checkpoint of step {chosen.step:,} (epoch "
            f"{chosen.epochs:.1f}): {_given_back(chosen)}, "
        ]
        if advice.publish is Publish.BEST:
            sentences[0] += (
                f"and it has the lowest validation NLL of all ({best.validation_nll:.3f})."
            )
        else:
            sentences[0] += (
                f"at a validation NLL of {chosen.validation_nll:.3f}, "
                f"{advice.nll_above_best:.3f} above the best (step {best.step:,}), which gives "
                f"text back ({_given_back(best)})."
            )
        if chosen.extraction:
            longest = chosen.extraction[-1]
            sentences.append(
                f"With {longest.train_prefixes} prefixes the rate may be up to "
                f"{100 * longest.train_interval[1]:.1f} %; more prefixes narrow that down."
            )
    if advice.unsafe_from_step is not None:
        unsafe = at[advice.unsafe_from_step]
        sentences.append(
            f"Do not use those from step {unsafe.step:,} (epoch {unsafe.epochs:.1f}) on: at the "
            f"last, {_given_back(last)}."
        )
    if advice.exposure_rises_with_copies:
        few, *_, many = (group for group in last.exposure_by_copies if group.min_copies)
        sentences.append(
            f"Exposure rises with copies, from {few.mean:.1f} bits "
            f"({_times(few.min_copies, few.max_copies)}) to {many.mean:.1f} "
            f"({_times(many.min_copies, many.max_copies)}): remove repeated text before training "
            "(`epochal data prepare --drop-duplicates`)."
        )
    return sentences


def _given_back(result: CheckpointResult) -> str:
    """'0 of 50 canaries generated, 0.0 % of continuations verbatim'."""
    parts = []
    if seen := [canary for canary in result.canaries if canary.seen]:
        extracted = sum(canary.extracted for canary in seen)
        parts.append(f"{extracted} of {len(seen)} canaries generated")
    if result.extraction_rate is not None:
        parts.append(f"{100 * result.extraction_rate:.1f} % of continuations verbatim")
    return ", ".join(parts) or "nothing was measured"


def _times(least: int, most: int) -> str:
    """'never', 'once', '4 times' or '4 to 7 times'."""
    if least < most:
        return f"{least} to {most} times"
    return {0: "never", 1: "once"}.get(least, f"{least} times")


def _state(head: str, result: CheckpointResult, length: int) -> list[str]:
    """The results of one checkpoint."""
    better = "better" if result.gap > 2 * result.gap_error else "not measurably better"
    sentences = [
        f"{head} checkpoint, step {result.step:,}, epoch {result.epochs:.1f}, validation NLL "
        f"{result.validation_nll:.3f}: it predicts its training text {better} than new text "
        f"({result.gap:+.2f} ± {result.gap_error:.2f} nats per token)."
    ]
    if result.extraction:
        sentences.append(_extraction(result.extraction[-1], length))
    if groups := [group for group in result.exposure_by_copies if group.min_copies]:
        sentences.append(_canaries(groups))
    return sentences


_VERDICTS = {
    ExtractionVerdict.NOT_ABOVE_CONTROL: "no more than without having seen it.",
    ExtractionVerdict.SIGNIFICANT: "parts of the training text can be extracted from this model.",
    ExtractionVerdict.NOT_SIGNIFICANT: (
        "too few prefixes to rule out chance; try more with --num-prefixes."
    ),
}


def _extraction(result: Extraction, length: int) -> str:
    low, high = result.train_interval
    text = (
        f"Given {result.prefix} tokens of a training document, it generates the next {length} "
        f"verbatim for {100 * result.train_rate:.1f} % of prefixes (95 % interval {100 * low:.1f} "
        f"to {100 * high:.1f} %)"
    )
    if result.validation_rate is None:
        return f"{text}; no validation document was long enough for a control."
    control = f"against {100 * result.validation_rate:.1f} % in documents it never saw"
    return f"{text}, {control}: {_VERDICTS[result.verdict]}"


def _canaries(groups: Sequence[CopiesExposure]) -> str:
    each = [f"{group.mean:.1f} ({_times(group.min_copies, group.max_copies)})" for group in groups]
    count, out = (sum(getattr(g, name) for g in groups) for name in ("canaries", "extracted"))
    highest = max(group.highest for group in groups)
    return (
        f"Of {count} canaries in the training text it generates {out}. By number of copies, their "
        f"mean exposure in bits is {', '.join(each)}; 1.4 is chance. Guessing the most exposed "
        f"takes 2^{highest:.0f} times fewer tries than without the model."
    )


def _at_equal_loss(result: AtEqualLoss, bounds: Sequence[str]) -> str:
    """`bounds`: families whose NLL is an upper bound."""
    parts = [f"gap {result.gap:.2f} nats"]
    if result.extraction_rate is not None:
        parts.append(f"extraction {100 * result.extraction_rate:.1f} %")
    parts += [
        f"exposure {bits:.1f} bits ({_times(least, most)})"
        for least, most, bits in result.exposures
        if least
    ]
    bound = f"; a bound for {listed(bounds)}" if bounds else ""
    return (
        f"At equal validation NLL ({result.validation_nll:.3f}{bound}), {result.run} had reached "
        f"epoch {result.epochs:.1f}: {', '.join(parts)}."
    )


def _excluded_canaries(canaries: Sequence[CanaryExposure]) -> list[str]:
    """Which canaries are not in the tokens that the run was trained on; [] if all are."""
    made = [canary for canary in canaries if canary.copies]
    away = [canary for canary in made if not canary.seen]
    partly = [canary for canary in made if canary.seen and canary.excluded]
    if not away and not partly:
        return []
    excluded = [canary for canary in away if canary.excluded]
    reasons = []
    if excluded:
        reasons.append(f"come after the first `data.unique_tokens` of the store ({len(excluded)})")
    if elsewhere := len(away) - len(excluded):
        reasons.append(f"are not in the corpus or only in its validation set ({elsewhere})")
    text = f"Of {len(made)} canaries with copies, {len(away)} are not in the training tokens"
    if reasons:
        text += f": they {listed(reasons)}"
    if partly:
        text += f"; {len(partly)} more have some of their copies after `data.unique_tokens`"
    return [f"{text}. Copies outside of the training tokens say nothing about the training."]


def _canary_cells(groups: Sequence[CopiesExposure]) -> list[str]:
    """Canaries generated, and mean exposure in bits by copies in the training text."""
    seen = [group for group in groups if group.min_copies]
    out, count = sum(group.extracted for group in seen), sum(group.canaries for group in seen)
    means = [
        f"{group.min_copies}–{group.max_copies}: {group.mean:.1f}"
        if group.max_copies > group.min_copies
        else f"{group.min_copies}: {group.mean:.1f}"
        for group in groups
    ]
    return [f"{out} of {count}", ", ".join(means)]


def table(result: Memorisation) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one per checkpoint."""
    header = ["run", "step", "epochs", "train NLL", "validation NLL", "gap", "extracted", "control"]
    with_canaries = any(each.canaries for each in result.checkpoints)
    header += ["canaries out", "exposure by copies"] * with_canaries
    rows = []
    for each in result.checkpoints:
        longest = each.extraction[-1]
        control = longest.validation_rate
        rows.append(
            [
                each.run,
                f"{each.step:,}",
                f"{each.epochs:.1f}",
                f"{each.train_nll:.3f}",
                f"{each.validation_nll:.3f}",
                f"{each.gap:+.3f}",
                f"{100 * longest.train_rate:.1f} %",
                "–" if control is None else f"{100 * control:.1f} %",
                *_canary_cells(each.exposure_by_copies) * with_canaries,
            ]
        )
    return header, rows

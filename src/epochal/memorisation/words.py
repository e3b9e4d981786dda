"""The figures of memorisation in plain words, with advice to those whose text is private."""

from __future__ import annotations

import math
from collections.abc import Sequence

from epochal.memorisation.analysis import (
    SIGNIFICANT,
    AtEqualLoss,
    CanaryExposure,
    CopiesExposure,
    Extraction,
    Measured,
    at_equal_loss,
    best_of,
    by_run,
)

CLEAR_RISE = 3.0
"""Bits by which the most repeated canaries must be more exposed than the least before the advice
speaks of it: guessing is then 8 times easier. Chosen by us."""


def summary(
    measured: Sequence[Measured], length: int, not_compared: str | None = None
) -> list[str]:
    """What the figures mean: each run at its best and its last checkpoint, then advice, then
    the runs at equal validation NLL.

    `not_compared`: why the runs are not compared at equal loss, where they are not.
    """
    sentences = []
    for run, checkpoints in by_run(measured).items():
        best, last = best_of(checkpoints), checkpoints[-1]
        if best is last:
            sentences += _state(f"{run} ({last.family.upper()}), best and last", last, length)
        else:
            sentences += _state(f"{run} ({best.family.upper()}), best", best, length)
            sentences += _state(f"{run}, last", last, length)
        if away := _away_sentence(last.canaries):
            sentences.append(away)
        sentences.append(f"Advice for {run}: {' '.join(advice(checkpoints))}")
    if not_compared is not None:
        sentences.append(f"The runs are not compared at equal validation NLL: {not_compared}.")
    else:
        sentences += [_equal_sentence(one) for one in at_equal_loss(measured)]
    sentences.append(
        "A low rate is no promise: other prompts, sampling or more tries may bring out more than "
        "greedy writing does. Treat a model trained on private text as private."
    )
    return sentences


def advice(checkpoints: Sequence[Measured]) -> list[str]:
    """One to four sentences on what to do about one run, each from its figures.

    A checkpoint gives nothing back if at no prefix length significantly more of the training
    than of the validation text comes word for word (Fisher, 5 %), and no canary is written out.
    """
    best = best_of(checkpoints)
    clean = [one for one in checkpoints if _gives_nothing_back(one)]
    if clean:
        sentences = [_publish(best_of(clean), best)]
        if bound := _bound(best_of(clean)):
            sentences.append(bound)
        if later := _later(best_of(clean), checkpoints):
            sentences.append(later)
    else:
        least = min(checkpoints, key=lambda one: (one.extraction_rate, one.validation_nll))
        sentences = [
            f"Publish none of the checkpoints if the text is private: all of them give text back, "
            f"the least that of step {least.step:,} ({_given_back(least)}). "
            "Train for fewer epochs, with more text or a smaller model, and measure again."
        ]
    if copies := _copies_advice(checkpoints):
        sentences.append(copies)
    return sentences


def _seen(one: Measured) -> list[CanaryExposure]:
    return [canary for canary in one.canaries if canary.seen]


def _gives_nothing_back(one: Measured) -> bool:
    if any(canary.extracted for canary in _seen(one)):
        return False
    # Without a control any continuation that came back counts.
    return not any(
        found.chance < SIGNIFICANT or (math.isnan(found.chance) and found.train > 0)
        for found in one.extraction
    )


def _given_back(one: Measured) -> str:
    """'0 of 50 canaries written out, 0.0 % of places word for word'."""
    parts = []
    if seen := _seen(one):
        parts.append(f"{sum(c.extracted for c in seen)} of {len(seen)} canaries written out")
    if one.extraction:
        parts.append(f"{100 * one.extraction_rate:.1f} % of places word for word")
    return ", ".join(parts) or "nothing was asked for"


def _publish(chosen: Measured, best: Measured) -> str:
    text = f"If one is to be published, take the checkpoint of step {chosen.step:,}"
    what = f"{text} (epoch {chosen.epochs:.1f}): {_given_back(chosen)}"
    if chosen is best:
        return f"{what}, and it has the lowest validation NLL of all ({best.validation_nll:.3f})."
    more = chosen.validation_nll - best.validation_nll
    return (
        f"{what}, at a validation NLL of {chosen.validation_nll:.3f}, {more:.3f} above the best "
        f"(step {best.step:,}), which gives text back ({_given_back(best)})."
    )


def _bound(chosen: Measured) -> str | None:
    """What so few places leave open."""
    if not chosen.extraction:
        return None
    found = chosen.extraction[-1]
    return (
        f"{found.train_places} places leave open up to {100 * found.train_interval[1]:.1f} %; "
        "more --places say more."
    )


def _later(chosen: Measured, checkpoints: Sequence[Measured]) -> str | None:
    """That training on made it worse."""
    later = [one for one in checkpoints if one.step > chosen.step and not _gives_nothing_back(one)]
    if not later:
        return None
    return (
        f"Do not use those from step {later[0].step:,} (epoch {later[0].epochs:.1f}) on: at "
        f"the last, {_given_back(checkpoints[-1])}."
    )


def _copies_advice(checkpoints: Sequence[Measured]) -> str | None:
    groups = [group for group in checkpoints[-1].exposures if group.least]
    if len(groups) < 2 or groups[-1].mean - groups[0].mean < CLEAR_RISE:
        return None
    few, many = groups[0], groups[-1]
    return (
        f"Exposure rises with copies, from {few.mean:.1f} bits ({times(few.least, few.most)}) to "
        f"{many.mean:.1f} ({times(many.least, many.most)}): take repeated text out before "
        "training (`epochal data prepare --drop-duplicates`)."
    )


def times(least: int, most: int) -> str:
    """'never', 'once', '4 times' or '4 to 7 times'."""
    if least < most:
        return f"{least} to {most} times"
    return {0: "never", 1: "once"}.get(least, f"{least} times")


def _state(head: str, one: Measured, length: int) -> list[str]:
    """The figures of one checkpoint."""
    sentences = [
        f"{head} checkpoint, step {one.step:,}, epoch {one.epochs:.1f}, validation NLL "
        f"{one.validation_nll:.3f}: {_gap_sentence(one)}"
    ]
    if one.extraction:
        sentences.append(_extraction_sentence(one.extraction[-1], length))
    if groups := [group for group in one.exposures if group.least]:
        sentences.append(_canary_sentence(groups))
    return sentences


def _gap_sentence(one: Measured) -> str:
    error = math.hypot(one.train_error, one.validation_error)
    amount = f"{one.gap:+.2f} ± {error:.2f} nats per token"
    if one.gap > 2 * error:
        return f"it knows its training text better than new text ({amount})."
    return f"it knows its training text no better than new text, as far as can be told ({amount})."


def _extraction_sentence(found: Extraction, length: int) -> str:
    low, high = found.train_interval
    text = (
        f"Given {found.prefix} tokens of a training document, it writes the next {length} word "
        f"for word at {100 * found.train:.1f} % of places (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %)"
    )
    if found.validation is None:
        return f"{text}; no validation document was long enough for a control."
    text += f", against {100 * found.validation:.1f} % in documents it never saw"
    if found.train <= found.validation:
        return f"{text}: no more than without having seen it, as far as so many places tell."
    if found.chance < SIGNIFICANT:
        return f"{text}: parts of the training text can be read out of this model."
    return f"{text}: so few places cannot tell whether that is chance; try more with --places."


def _canary_sentence(groups: Sequence[CopiesExposure]) -> str:
    each = [f"{group.mean:.1f} ({times(group.least, group.most)})" for group in groups]
    count, out = (sum(getattr(g, name) for g in groups) for name in ("canaries", "extracted"))
    highest = max(group.highest for group in groups)
    return (
        f"Of {count} canaries in the training text it writes out {out}. By how often they stand "
        f"there, their mean exposure in bits is {', '.join(each)}; 1.4 is chance. Guessing the "
        f"most exposed takes 2^{highest:.0f} times fewer tries than without the model."
    )


def _equal_sentence(one: AtEqualLoss) -> str:
    parts = [f"gap {one.gap:.2f} nats"]
    if one.extraction_rate is not None:
        parts.append(f"extraction {100 * one.extraction_rate:.1f} %")
    parts += [
        f"exposure {bits:.1f} bits ({times(least, most)})"
        for least, most, bits in one.exposures
        if least
    ]
    return (
        f"At equal validation NLL ({one.validation_nll:.3f}; a bound for MDM), {one.run} had "
        f"reached epoch {one.epochs:.1f}: {', '.join(parts)}."
    )


def _away_sentence(canaries: Sequence[CanaryExposure]) -> str | None:
    """That canaries are not in the tokens that the run learned from, and where they are."""
    made = [canary for canary in canaries if canary.copies]
    away = [canary for canary in made if not canary.seen]
    partly = [canary for canary in made if canary.seen and canary.beyond]
    if not away and not partly:
        return None
    text = f"Of {len(made)} canaries made to be put in, {len(away)} are not in the training tokens"
    if beyond := [canary for canary in away if canary.beyond]:
        text += (
            f" because they lie after the first `data.unique_tokens` of the store ({len(beyond)})"
        )
    if elsewhere := len(away) - len(beyond):
        text += (
            f"{', or' if beyond else ''} because the corpus does not have them or has them in its "
            f"validation set only ({elsewhere})"
        )
    if partly:
        text += f"; {len(partly)} more have some of their copies after `data.unique_tokens`"
    return f"{text}. Copies that are not in the training tokens tell nothing of the training."

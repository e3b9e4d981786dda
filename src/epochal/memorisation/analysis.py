"""Statistics of memorisation: extraction, exposure, results at equal loss, and advice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from epochal.data.canaries import DIGITS
from epochal.families import get_family
from epochal.memorisation.results import (
    Advice,
    AtEqualLoss,
    CheckpointResult,
    Extraction,
    ExtractionVerdict,
    MemorisationNote,
    Publish,
)
from epochal.results import Note, note
from epochal.runs import RunRecord

Floats = NDArray[np.float64]

SPACE_BITS = DIGITS * math.log2(10)
"""Exposure of a secret that is known outright; none is more exposed."""
WILSON_Z = 1.96
SIGNIFICANT = 0.05
CLEAR_RISE = 3.0
"""Bits by which the most repeated canaries must be more exposed than the least before the advice
is to remove repeated text: guessing is then 8 times easier. Chosen by us."""


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    z2 = WILSON_Z**2
    centre = (hits + z2 / 2) / (trials + z2)
    spread = hits * (trials - hits) / trials + z2 / 4
    half = WILSON_Z * math.sqrt(spread) / (trials + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def extraction(prefix: int, train: NDArray[np.bool_], validation: NDArray[np.bool_]) -> Extraction:
    """From [prefixes, tokens] which tokens were generated correctly, in both texts."""
    from scipy.stats import fisher_exact

    hits, control = (int(right.all(axis=1).sum()) for right in (train, validation))
    rate = hits / len(train)
    validation_rate = p_value = None
    verdict = ExtractionVerdict.NO_CONTROL
    if len(validation):
        validation_rate = control / len(validation)
        table = [[hits, len(train) - hits], [control, len(validation) - control]]
        p_value = float(fisher_exact(table, alternative="greater").pvalue)
        if rate <= validation_rate:
            verdict = ExtractionVerdict.NOT_ABOVE_CONTROL
        elif p_value < SIGNIFICANT:
            verdict = ExtractionVerdict.SIGNIFICANT
        else:
            verdict = ExtractionVerdict.NOT_SIGNIFICANT
    return Extraction(
        prefix=prefix,
        train_rate=rate,
        train_interval=wilson(hits, len(train)),
        validation_rate=validation_rate,
        validation_interval=wilson(control, len(validation)) if len(validation) else None,
        train_prefixes=len(train),
        validation_prefixes=len(validation),
        tokens_before_error=float(np.cumprod(train, axis=1).mean()),
        p_value=p_value,
        verdict=verdict,
    )


def exposure(nll: float, references: Floats) -> tuple[int, float, float]:
    """(rank, exposure by rank, fitted exposure) of a secret's NLL among unseen secrets.

    Ties count against the secret: a model that finds all alike knows none.
    """
    rank = 1 + int((references <= nll).sum())
    by_rank = math.log2(len(references) + 1) - math.log2(rank)
    return rank, by_rank, _fitted_exposure(nll, references)


def _fitted_exposure(nll: float, references: Floats) -> float:
    """−log₂ P(reference ≤ nll) of a skew-normal fitted by moments."""
    from scipy.stats import skewnorm

    mean, deviation = float(references.mean()), float(references.std(ddof=1))
    if deviation == 0:
        return 0.0 if nll >= mean else SPACE_BITS
    skewness = float(np.mean(((references - mean) / references.std()) ** 3))
    skewness = float(np.clip(skewness, -0.99, 0.99))  # the most that a skew-normal has is 0.995
    power = abs(skewness) ** (2 / 3)
    delta = math.sqrt(math.pi / 2 * power / (power + ((4 - math.pi) / 2) ** (2 / 3)))
    delta = math.copysign(min(delta, 0.999), skewness)
    scale = deviation / math.sqrt(1 - 2 * delta**2 / math.pi)
    location = mean - scale * delta * math.sqrt(2 / math.pi)
    shape = delta / math.sqrt(1 - delta**2)
    bits = float(-skewnorm.logcdf(nll, shape, loc=location, scale=scale) / math.log(2))
    return min(bits, SPACE_BITS)


def advise(checkpoints: Sequence[CheckpointResult]) -> Advice:
    """From the checkpoints of one run, earliest first."""
    best = best_of(checkpoints)
    safe = [each for each in checkpoints if not each.gives_text_back]
    if safe:
        chosen = best_of(safe)
        publish = Publish.BEST if chosen is best else Publish.OTHER
    else:
        publish = Publish.NONE
        chosen = min(checkpoints, key=lambda each: (each.extraction_rate or 0, each.validation_nll))
    later = [each.step for each in checkpoints if each.step > chosen.step and each.gives_text_back]
    groups = [group for group in checkpoints[-1].exposure_by_copies if group.min_copies]
    return Advice(
        run=best.run,
        publish=publish,
        step=chosen.step,
        nll_above_best=chosen.validation_nll - best.validation_nll,
        unsafe_from_step=later[0] if safe and later else None,
        exposure_rises_with_copies=len(groups) > 1
        and groups[-1].mean - groups[0].mean >= CLEAR_RISE,
    )


def at_equal_loss(results: Sequence[CheckpointResult]) -> list[AtEqualLoss]:
    """Each run's results at the lowest validation NLL that all of them reached.

    Between a run's checkpoints, up to its best, results are interpolated linearly in the
    validation NLL. Empty for a single run, and where some run has no checkpoint above that NLL
    (keep more of them with `checkpoint.keep_every`).
    """
    falling = _falling(results)
    if len(falling) < 2 or no_equal_loss(results) is not None:
        return []
    level = max(checkpoints[-1].validation_nll for checkpoints in falling.values())
    equal = []
    for run, checkpoints in falling.items():
        nll = np.array([each.validation_nll for each in checkpoints])
        # The last crossing of the level, should the curve not fall all the way.
        after = int(np.flatnonzero(nll >= level)[-1])
        pair = checkpoints[after : after + 2]
        drop = nll[after] - nll[after + 1] if len(pair) == 2 else 0.0
        part = float((nll[after] - level) / drop) if drop else 0.0

        def between(values: Sequence[float], part: float = part) -> float:
            return values[0] + part * (values[-1] - values[0])

        rates = [each.extraction_rate for each in pair if each.extraction_rate is not None]
        groups = zip(*(each.exposure_by_copies for each in pair), strict=True)
        equal.append(
            AtEqualLoss(
                run=run,
                family=checkpoints[0].family,
                validation_nll=level,
                epochs=between([each.epochs for each in pair]),
                gap=between([each.gap for each in pair]),
                extraction_rate=between(rates) if rates else None,
                exposures=[
                    (g[0].min_copies, g[0].max_copies, between([each.mean for each in g]))
                    for g in groups
                ],
            )
        )
    return equal


def no_equal_loss(results: Sequence[CheckpointResult]) -> Note | None:
    """Why several runs have no results at an equal loss; None if they have."""
    falling = _falling(results)
    worst = max(falling.values(), key=lambda checkpoints: checkpoints[-1].validation_nll)[-1]
    for run, checkpoints in falling.items():
        highest = max(each.validation_nll for each in checkpoints)
        if highest < worst.validation_nll:
            return note(
                MemorisationNote.NO_CHECKPOINT_ABOVE,
                run=run,
                level=worst.validation_nll,
                other=worst.run,
                highest=highest,
            )
    return None


def _falling(results: Sequence[CheckpointResult]) -> dict[str, list[CheckpointResult]]:
    """Each run's checkpoints up to its best."""
    return {
        run: checkpoints[: checkpoints.index(best_of(checkpoints)) + 1]
        for run, checkpoints in by_run(results).items()
    }


def logged_gaps(record: RunRecord) -> list[tuple[float, float]]:
    """(epochs, validation NLL − mean training loss since the validation before) of a run's log.

    Empty where the training loss is not an NLL (ablations that change it). The loss is of the
    rows as they came, at the weights of that time and with dropout, so it lags behind the model.
    """
    if not get_family(record.family).loss_is_nll(record.recipe.options):
        return []
    train, gaps, before = record.metrics("train"), [], 0
    for line in record.metrics("eval"):
        losses = [each["loss"] for each in train if before < each["step"] <= line["step"]]
        if losses:
            gap = line["nll_nats_per_token"] - float(np.mean(losses))
            gaps.append((float(line["epochs"]), gap))
        before = line["step"]
    return gaps


def best_of(checkpoints: Sequence[CheckpointResult]) -> CheckpointResult:
    """The one with the lowest validation NLL, the earliest of equals."""
    return min(checkpoints, key=lambda each: each.validation_nll)


def by_run(results: Sequence[CheckpointResult]) -> dict[str, list[CheckpointResult]]:
    """Each run's checkpoints, earliest first."""
    runs: dict[str, list[CheckpointResult]] = {}
    for each in results:
        runs.setdefault(each.run, []).append(each)
    return {run: sorted(all_, key=lambda each: each.step) for run, all_ in runs.items()}

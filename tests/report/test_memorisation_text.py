"""Words about memorisation, each checked once."""

from __future__ import annotations

import numpy as np

from epochal.memorisation.analysis import advise, at_equal_loss, by_run, extraction, no_equal_loss
from epochal.memorisation.results import (
    CanaryExposure,
    CheckpointResult,
    Memorisation,
    MemorisationNote,
)
from epochal.report.text.memorisation import summary, table
from epochal.results import note
from epochal.runs.comparable import Condition, Mismatch


def result(run, step, validation, train, rate=0.0, family="ar", canaries=()):
    right = np.arange(100)[:, None] < round(100 * rate)
    return CheckpointResult(
        run=run,
        family=family,
        step=step,
        epochs=step / 10,
        train_nll=train,
        train_error=0.01,
        validation_nll=validation,
        validation_error=0.01,
        extraction=[extraction(16, right, np.zeros((50, 1), dtype=bool))],
        canaries=list(canaries),
    )


def canary(copies, seen, excluded=0, bits=1.0, extracted=False):
    return CanaryExposure(
        canary=0, seen=seen, copies=copies, excluded=excluded, rank=1, exposure=bits,
        exposure_fitted=bits, extracted=extracted,
    )  # fmt: skip


def memorisation(*results, not_compared=None):
    reason = not_compared or no_equal_loss(results)
    return Memorisation(
        checkpoints=list(results),
        at_equal_loss=[] if reason else at_equal_loss(results),
        not_compared=reason,
        advice=[advise(checkpoints) for checkpoints in by_run(results).values()],
        logged_gaps={},
        continuation_tokens=4,
    )


def words(*results, **more):
    return " ".join(summary(memorisation(*results, **more)))


CANARIES = [canary(3, 3)]
AR = [
    result("a", 10, 5.0, 4.9, canaries=CANARIES),
    result("a", 20, 4.0, 3.6, 0.2, canaries=CANARIES),
    result("a", 30, 4.6, 1.0, 0.9, canaries=CANARIES),
]
MDM = [
    result("m", 10, 5.5, 5.5, family="mdm", canaries=CANARIES),
    result("m", 20, 4.5, 4.4, 0.1, family="mdm", canaries=CANARIES),
]


def test_states_of_runs():
    text = words(*AR, *MDM)
    assert (
        "a (AR), best checkpoint, step 20, epoch 2.0, validation NLL 4.000: it predicts its "
        "training text better than new text (+0.40 ± 0.01 nats per token)." in text
    )
    assert "a, last checkpoint, step 30, epoch 3.0" in text
    assert "m (MDM), best and last checkpoint, step 20" in text
    assert "for 90.0 % of prefixes" in text
    assert "parts of the training text can be extracted from this model" in text
    assert "At equal validation NLL (4.500; a bound for MDM), a had reached epoch 1.5" in text
    calm = words(result("b", 5, 5.0, 5.0))
    assert "no more than without having seen it" in calm
    assert "not measurably better than new text" in calm
    assert "too few prefixes to rule out chance" in words(result("b", 5, 5.0, 5.0, rate=0.01))


def test_why_runs_are_not_compared():
    text = words(*AR[1:], *MDM)
    assert "a has no checkpoint before its best with a validation NLL of 4.500 or more" in text
    assert "the lowest that m reached (its highest is 4.000)" in text
    mismatch = Mismatch(Condition.SEQUENCE_LENGTH, ("a", "m"), (16, 32))
    reason = note(MemorisationNote.DIFFERENT_CONDITIONS, mismatch=mismatch)
    text = words(*AR, *MDM, not_compared=reason)
    assert "the runs a and m differ in sequence length (16 and 32)" in text
    assert "had reached epoch" not in text


def test_canaries_that_are_not_in_the_training_tokens():
    some = [canary(0, 0), canary(1, 0, 1), canary(1, 0), canary(4, 2, 2)]
    text = words(result("a", 10, 5.0, 4.9, canaries=some))
    assert "Of 3 canaries with copies, 2 are not in the training tokens: they come after" in text
    assert "`data.unique_tokens` of the store (1) and are not in the corpus or only in" in text
    assert "1 more have some of their copies after `data.unique_tokens`" in text
    whole = [canary(0, 0), canary(4, 4)]
    assert "canaries with copies" not in words(result("a", 10, 5.0, 4.9, canaries=whole))


def test_exposure_by_copies():
    canaries = [canary(0, 0), canary(1, 1, bits=2.0), canary(5, 5, bits=9.0, extracted=True),
                canary(6, 6, bits=11.0)]  # fmt: skip
    one = result("a", 10, 5.0, 4.9, canaries=canaries)
    text = words(one)
    assert "Of 3 canaries in the training text it generates 1." in text
    assert "2.0 (once), 10.0 (5 to 6 times); 1.4 is chance" in text
    assert "2^11 times fewer tries" in text
    _, [row] = table(memorisation(one))
    assert row[-2:] == ["1 of 3", "0: 1.0, 1: 2.0, 5–6: 10.0"]


def test_advice():
    text = words(*AR)
    assert (
        "If one is to be published, take the checkpoint of step 10 (epoch 1.0): 0 of 1 canaries "
        "generated, 0.0 % of continuations verbatim, at a validation NLL of 5.000, 1.000 above "
        "the best (step 20), which gives text back (0 of 1 canaries generated, 20.0 % of "
        "continuations verbatim)." in text
    )
    assert "With 100 prefixes the rate may be up to 3.7 %" in text  # Wilson's, of 0 of 100
    assert "Do not use those from step 20 (epoch 2.0) on: at the last, " in text
    assert "has the lowest validation NLL of all (5.500)" in words(MDM[0])


def test_advice_where_all_checkpoints_give_text_back():
    out = [canary(1, 1, bits=5.0, extracted=True), canary(4, 4, bits=9.0, extracted=True)]
    text = words(
        result("a", 10, 5.0, 4.9, canaries=out), result("a", 30, 4.6, 1, 0.9, canaries=out)
    )
    assert "Publish none of the checkpoints if the text is private" in text
    assert "that of step 10 the least (2 of 2 canaries generated, 0.0 % of continuations" in text
    assert "from 5.0 bits (once) to 9.0 (4 times)" in text
    assert "--drop-duplicates" in text

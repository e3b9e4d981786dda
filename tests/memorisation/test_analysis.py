"""Figures of memorisation against closed forms and other libraries."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from epochal.memorisation.analysis import (
    CHANCE_EXPOSURE,
    CanaryExposure,
    Measured,
    at_equal_loss,
    exposure,
    extraction,
    logged_gaps,
    no_equal_loss,
    wilson,
)
from epochal.memorisation.words import advice, summary
from epochal.runs import RunRecord


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilsons_interval_is_scipys(hits, places):
    hits = min(hits, places)
    found = wilson(hits, places)
    expected = stats.binomtest(hits, places).proportion_ci(method="wilson")
    np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-4)


def test_exposure_by_rank():
    references = np.arange(10.0, 25.0)  # 15 of them
    assert exposure(0, 1, 5.0, references).exposure == 4.0  # the first of 16
    assert exposure(0, 1, 11.5, references).rank == 3
    assert exposure(0, 1, 99.0, references).exposure == 0.0


def test_ties_count_against_the_secret():
    """A model that finds all secrets alike knows none, whatever its rank would be by `<`."""
    tied = exposure(0, 1, 3.0, np.full(15, 3.0))
    assert (tied.rank, tied.exposure, tied.exposure_fitted) == (16, 0.0, 0.0)
    assert exposure(0, 1, 2.0, np.array([2.0, 2.0, 5.0])).rank == 3


def test_unseen_secrets_have_the_exposure_of_chance(random):
    nll = random.gamma(9, 1, (2000, 257))
    found = [exposure(0, 0, row[0], row[1:]) for row in nll]
    for name in ("exposure", "exposure_fitted"):
        values = np.array([getattr(one, name) for one in found])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - CHANCE_EXPOSURE) < 4 * error + 0.05


@pytest.mark.parametrize("shape", [0.0, 2.0, -2.0])
def test_the_fit_finds_the_tail_of_a_skew_normal(random, shape):
    """Far outside of the references, where ranks cannot tell."""
    at = stats.skewnorm(shape, loc=30, scale=4)
    references = at.rvs(60_000, random_state=1)
    nll = 20.0
    expected = -at.logcdf(nll) / math.log(2)
    assert exposure(0, 1, nll, references).exposure_fitted == pytest.approx(expected, rel=0.15)


def test_no_secret_is_more_exposed_than_it_has_bits(random):
    references = random.normal(30, 1, 200)
    for nll, spread in ((0.0, references), (1.0, np.full(20, 3.0))):
        assert exposure(0, 1, nll, spread).exposure_fitted == pytest.approx(9 * np.log2(10))
    assert exposure(0, 1, 5.0, np.full(20, 3.0)).exposure_fitted == 0


def test_gaps_by_the_log(tiny_pair):
    """By hand, from the lines of metrics.jsonl."""
    record = RunRecord(tiny_pair / "ar")
    evals, train = record.metrics("eval"), record.metrics("train")
    found = logged_gaps(record)
    assert len(found) == len(evals) == 12
    losses = [line["loss"] for line in train if 10 < line["step"] <= 20]
    assert found[1][0] == evals[1]["epochs"]
    assert found[1][1] == pytest.approx(evals[1]["nll_nats_per_token"] - np.mean(losses))


def test_extraction_counts_whole_continuations():
    train = np.array([[True, True], [True, False], [False, True], [True, True]])
    control = np.array([[False, False], [True, True]])
    found = extraction(8, train, control)
    assert (found.train, found.validation) == (0.5, 0.5)
    assert found.train_tokens == 5 / 8  # 2 + 1 + 0 + 2 of 8, up to the first wrong one
    assert found.train_interval == wilson(2, 4)
    alone = extraction(8, train, control[:0])
    assert alone.validation is alone.validation_interval is None


def measured(run, step, validation, train, rate=0.0, family="ar", bits=None):
    right = np.zeros((100, 4), dtype=bool)
    right[: round(100 * rate)] = True
    canaries = [] if bits is None else [
        CanaryExposure(canary=0, seen=3, rank=1, exposure=bits, exposure_fitted=bits)
    ]  # fmt: skip
    return Measured(
        run=run,
        family=family,
        step=step,
        epochs=step / 10,
        train_nll=train,
        train_error=0.01,
        validation_nll=validation,
        validation_error=0.01,
        extraction=[extraction(16, right, np.zeros((50, 4), dtype=bool))],
        canaries=canaries,
    )


AR = [
    measured("a", 10, 5.0, 4.9, 0.0, bits=1.0),
    measured("a", 20, 4.0, 3.6, 0.2, bits=3.0),
    measured("a", 30, 4.6, 1.0, 0.9, bits=20.0),
]
MDM = [
    measured("m", 10, 5.5, 5.5, 0.0, family="mdm", bits=1.0),
    measured("m", 20, 4.5, 4.4, 0.1, family="mdm", bits=2.0),
]


def test_figures_at_equal_loss_are_interpolated_before_the_best():
    """MDM reached 4.5; AR passed it half-way between its first two checkpoints."""
    ar, mdm = at_equal_loss([*AR, *MDM])
    assert (ar.run, ar.validation_nll, mdm.validation_nll) == ("a", 4.5, 4.5)
    assert ar.epochs == pytest.approx(1.5)
    assert ar.gap == pytest.approx(0.25)
    assert ar.extraction_rate == pytest.approx(0.1)
    assert ar.exposures == [(3, 3, pytest.approx(2.0))]
    assert (mdm.epochs, mdm.extraction_rate) == (2.0, 0.1)
    assert at_equal_loss(AR) == []
    assert at_equal_loss([*AR[1:], *MDM]) == []  # AR has no checkpoint above 4.5


def test_why_there_are_no_figures_at_equal_loss():
    assert no_equal_loss([*AR, *MDM]) is None
    why = no_equal_loss([*AR[1:], *MDM])
    assert "a has no checkpoint before its best with a validation NLL of 4.500 or more" in why
    assert "the lowest that m reached (its highest is 4.000)" in why
    assert "`checkpoint.keep_every`" in why
    text = " ".join(summary([*AR[1:], *MDM], 4, why))
    assert f"The runs are not compared at equal validation NLL: {why}." in text
    assert "had reached epoch" not in text
    # Runs of unlike validation sets are not compared though their figures would allow it.
    assert "had reached epoch" not in " ".join(summary([*AR, *MDM], 4, "they are unlike"))


def canary(copies, seen, beyond, bits=1.0):
    return CanaryExposure(
        canary=0, seen=seen, copies=copies, beyond=beyond, rank=1, exposure=bits,
        exposure_fitted=bits,
    )  # fmt: skip


def test_the_summary_says_which_canaries_are_not_in_the_training_tokens():
    one = dataclasses.replace(
        AR[0], canaries=[canary(0, 0, 0), canary(1, 0, 1), canary(1, 0, 0), canary(4, 2, 2)]
    )
    text = " ".join(summary([one], 4))
    assert "Of 3 canaries made to be put in, 2 are not in the training tokens" in text
    assert "after the first `data.unique_tokens` of the store (1), or because the corpus" in text
    assert "1 more have some of their copies after `data.unique_tokens`" in text
    whole = dataclasses.replace(AR[0], canaries=[canary(0, 0, 0), canary(4, 4, 0)])
    assert "made to be put in" not in " ".join(summary([whole], 4))


def test_the_summary_says_what_was_seen():
    text = " ".join(summary([*AR, *MDM], 4))
    assert (
        "a (AR), best checkpoint, step 20, epoch 2.0, validation NLL 4.000: it knows its "
        "training text better than new text (+0.40 ± 0.01 nats per token)." in text
    )
    assert "a, last checkpoint, step 30, epoch 3.0" in text
    assert "m (MDM), best and last checkpoint, step 20" in text
    assert "(+3.60 ± 0.01 nats per token)" in text
    assert "at 90.0 % of places" in text
    assert "parts of the training text can be read out of this model" in text
    assert "At equal validation NLL (4.500; a bound for MDM), a had reached epoch 1.5" in text
    calm = " ".join(summary([measured("b", 5, 5.0, 5.0)], 4))
    assert "no more than without having seen it" in calm
    few = " ".join(summary([measured("b", 5, 5.0, 5.0, rate=0.01)], 4))
    assert "so few places cannot tell whether that is chance" in few
    # 8 of 100 against 0 of 50: Wilson's intervals overlap, Fisher's test has p = 0.036.
    some = " ".join(summary([measured("b", 5, 5.0, 5.0, rate=0.08)], 4))
    assert "can be read out of this model" in some
    assert "no better than new text" in calm


def test_plain_values():
    assert AR[0].as_dict()["gap"] == pytest.approx(0.1)
    assert measured("b", 5, 5.0, 5.0).as_dict()["exposure_by_copies"] == []
    [group] = AR[0].as_dict()["exposure_by_copies"]
    assert (group["least"], group["most"], group["mean"]) == (3, 3, 1.0)


def naive_exposure(nll, references):
    """Carlini et al., definitions 1 and 2, by listing the whole space: log₂ of its size less
    log₂ of the rank, equals going before (the secret is last among them)."""
    everyone = sorted([(value, 0) for value in references] + [(nll, 1)])
    rank = 1 + everyone.index((nll, 1))
    return math.log2(len(everyone)) - math.log2(rank)


@given(st.integers(0, 9), st.lists(st.integers(0, 9), min_size=2, max_size=40))
def test_exposure_is_carlinis_by_listing_the_space(nll, references):
    found = exposure(0, 1, float(nll), np.array(references, dtype=np.float64))
    assert found.exposure == pytest.approx(naive_exposure(nll, references), abs=1e-12)


def several(*seen_bits_out):
    return [
        CanaryExposure(
            canary=n, seen=seen, copies=seen, rank=1, exposure=bits, exposure_fitted=bits,
            extracted=out,
        )
        for n, (seen, bits, out) in enumerate(seen_bits_out)
    ]  # fmt: skip


def test_exposures_by_copies_do_not_mix():
    one = dataclasses.replace(
        AR[0], canaries=several((0, 1.0, False), (1, 2.0, False), (5, 9.0, True), (6, 11.0, False))
    )
    found = [(g.least, g.most, g.canaries, g.extracted, g.mean, g.highest) for g in one.exposures]
    assert found == [(0, 0, 1, 0, 1, 1), (1, 1, 1, 0, 2, 2), (5, 6, 2, 1, 10, 11)]
    text = " ".join(summary([one], 4))
    assert "Of 3 canaries in the training text it writes out 1." in text
    assert "2.0 (once), 10.0 (5 to 6 times); 1.4 is chance" in text
    assert "2^11 times fewer tries" in text


def test_advice_names_the_best_checkpoint_that_gives_nothing_back():
    # The best one, step 20, gives 20 % back; step 10 nothing, at an NLL 1.0 higher.
    [publish, bound, later] = advice(AR)
    assert publish == (
        "If one is to be published, take the checkpoint of step 10 (epoch 1.0): 0 of 1 canaries "
        "written out, 0.0 % of places word for word, at a validation NLL of 5.000, 1.000 above "
        "the best (step 20), which gives text back (0 of 1 canaries written out, 20.0 % of places "
        "word for word)."
    )
    assert bound.startswith("100 places leave open up to 3.7 %")  # Wilson's, of 0 of 100
    assert later.startswith("Do not use those from step 20 (epoch 2.0) on: at the last, ")
    [publish, _] = advice(MDM[:1])
    assert "has the lowest validation NLL of all (5.500)" in publish


def test_advice_where_all_checkpoints_give_text_back():
    out = dataclasses.replace(AR[0], canaries=several((1, 5.0, True), (4, 9.0, True)))
    [none, copies] = advice([out, dataclasses.replace(AR[2], canaries=out.canaries)])
    assert none.startswith("Publish none of the checkpoints if the text is private")
    assert "the least that of step 10 (2 of 2 canaries written out, 0.0 % of places" in none
    assert "from 5.0 bits (once) to 9.0 (4 times)" in copies
    assert "--drop-duplicates" in copies

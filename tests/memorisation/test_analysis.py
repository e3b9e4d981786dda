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
    advise,
    at_equal_loss,
    exposure,
    extraction,
    logged_gaps,
    no_equal_loss,
    wilson,
)
from epochal.memorisation.results import (
    CHANCE_EXPOSURE,
    CanaryExposure,
    CheckpointResult,
    ExtractionVerdict,
    MemorisationNote,
    Publish,
)
from epochal.results import to_json
from epochal.runs import RunRecord


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilsons_interval_is_scipys(hits, places):
    hits = min(hits, places)
    found = wilson(hits, places)
    expected = stats.binomtest(hits, places).proportion_ci(method="wilson")
    np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-4)


def test_exposure_by_rank():
    references = np.arange(10.0, 25.0)  # 15 of them
    assert exposure(5.0, references)[1] == 4.0  # the first of 16
    assert exposure(11.5, references)[0] == 3
    assert exposure(99.0, references)[1] == 0.0


def test_ties_count_against_the_secret():
    """A model that finds all secrets alike knows none, whatever its rank would be by `<`."""
    assert exposure(3.0, np.full(15, 3.0)) == (16, 0.0, 0.0)
    assert exposure(2.0, np.array([2.0, 2.0, 5.0]))[0] == 3


def test_unseen_secrets_have_the_exposure_of_chance(random):
    nll = random.gamma(9, 1, (2000, 257))
    exposures = np.array([exposure(row[0], row[1:]) for row in nll])
    for values in exposures.T[1:]:
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - CHANCE_EXPOSURE) < 4 * error + 0.05


@pytest.mark.parametrize("shape", [0.0, 2.0, -2.0])
def test_the_fit_finds_the_tail_of_a_skew_normal(random, shape):
    """Far outside of the references, where ranks cannot tell."""
    at = stats.skewnorm(shape, loc=30, scale=4)
    references = at.rvs(60_000, random_state=1)
    nll = 20.0
    expected = -at.logcdf(nll) / math.log(2)
    assert exposure(nll, references)[2] == pytest.approx(expected, rel=0.15)


def test_no_secret_is_more_exposed_than_it_has_bits(random):
    references = random.normal(30, 1, 200)
    for nll, spread in ((0.0, references), (1.0, np.full(20, 3.0))):
        assert exposure(nll, spread)[2] == pytest.approx(9 * np.log2(10))
    assert exposure(5.0, np.full(20, 3.0))[2] == 0


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
    assert (found.train_rate, found.validation_rate) == (0.5, 0.5)
    assert found.tokens_before_error == 5 / 8  # 2 + 1 + 0 + 2 of 8, up to the first wrong one
    assert found.train_interval == wilson(2, 4)
    alone = extraction(8, train, control[:0])
    assert alone.validation_rate is alone.validation_interval is alone.p_value is None
    assert alone.verdict is ExtractionVerdict.NO_CONTROL


@pytest.mark.parametrize(
    ("hits", "control", "verdict"),
    [
        (0, 0, "not_above_control"),
        (10, 5, "not_above_control"),  # 10 of 100 and 5 of 50
        (1, 0, "not_significant"),
        (8, 0, "significant"),  # Wilson's intervals overlap, Fisher's test has p = 0.036
        (90, 1, "significant"),
    ],
)
def test_the_verdict_of_an_extraction_is_fishers_test(hits, control, verdict):
    train, validation = (np.arange(n)[:, None] < k for n, k in ((100, hits), (50, control)))
    found = extraction(4, train, validation)
    table = [[hits, 100 - hits], [control, 50 - control]]
    assert found.p_value == stats.fisher_exact(table, alternative="greater").pvalue
    assert found.verdict == verdict


def replace(result, **values):
    """`dataclasses.replace`, with the derived values computed again."""
    kept = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.init}
    return CheckpointResult(**kept | values)


def measured(run, step, validation, train, rate=0.0, family="ar", bits=None):
    right = np.zeros((100, 4), dtype=bool)
    right[: round(100 * rate)] = True
    canaries = [] if bits is None else [
        CanaryExposure(canary=0, seen=3, rank=1, exposure=bits, exposure_fitted=bits)
    ]  # fmt: skip
    return CheckpointResult(
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


def test_why_there_are_no_results_at_equal_loss():
    assert no_equal_loss([*AR, *MDM]) is None
    reason = no_equal_loss([*AR[1:], *MDM])
    assert reason.code is MemorisationNote.NO_CHECKPOINT_ABOVE
    assert reason.values == {"run": "a", "level": 4.5, "other": "m", "highest": 4.0}


def test_three_families_at_the_lowest_loss_that_all_reached():
    other = [replace(each, run="o", family="other") for each in MDM]
    assert [each.run for each in at_equal_loss([*AR, *MDM, *other])] == ["a", "m", "o"]
    worse = [replace(each, run="w", validation_nll=each.validation_nll + 0.4) for each in MDM]
    assert {each.validation_nll for each in at_equal_loss([*AR, *MDM, *worse])} == {4.9}


def test_derived_values_are_in_the_json():
    content = to_json(AR[0])
    assert content["gap"] == pytest.approx(0.1)
    assert content["extraction_rate"] == 0
    [group] = content["exposure_by_copies"]
    assert (group["min_copies"], group["max_copies"], group["mean"]) == (3, 3, 1.0)
    assert to_json(measured("b", 5, 5.0, 5.0))["exposure_by_copies"] == []


def naive_exposure(nll, references):
    """Carlini et al., definitions 1 and 2, by listing the whole space: log₂ of its size less
    log₂ of the rank, equals going before (the secret is last among them)."""
    everyone = sorted([(value, 0) for value in references] + [(nll, 1)])
    rank = 1 + everyone.index((nll, 1))
    return math.log2(len(everyone)) - math.log2(rank)


@given(st.integers(0, 9), st.lists(st.integers(0, 9), min_size=2, max_size=40))
def test_exposure_is_carlinis_by_listing_the_space(nll, references):
    _, found, _ = exposure(float(nll), np.array(references, dtype=np.float64))
    assert found == pytest.approx(naive_exposure(nll, references), abs=1e-12)


def several(*seen_bits_out):
    return [
        CanaryExposure(
            canary=n, seen=seen, copies=seen, rank=1, exposure=bits, exposure_fitted=bits,
            extracted=out,
        )
        for n, (seen, bits, out) in enumerate(seen_bits_out)
    ]  # fmt: skip


def test_exposures_by_copies_do_not_mix():
    canaries = several((0, 1.0, False), (1, 2.0, False), (5, 9.0, True), (6, 11.0, False))
    groups = replace(AR[0], canaries=canaries).exposure_by_copies
    found = [
        (g.min_copies, g.max_copies, g.canaries, g.extracted, g.mean, g.highest) for g in groups
    ]
    assert found == [(0, 0, 1, 0, 1, 1), (1, 1, 1, 0, 2, 2), (5, 6, 2, 1, 10, 11)]


def test_advice_names_the_best_checkpoint_that_gives_nothing_back():
    """The best one, step 20, gives 20 % back; step 10 nothing, at an NLL 1.0 higher."""
    advice = advise(AR)
    assert (advice.publish, advice.step, advice.nll_above_best) == (Publish.OTHER, 10, 1.0)
    assert advice.unsafe_from_step == 20
    assert not advice.exposure_rises_with_copies
    best = advise(MDM[:1])
    assert (best.publish, best.step, best.unsafe_from_step) == (Publish.BEST, 10, None)


def test_advice_where_all_checkpoints_give_text_back():
    canaries = several((1, 5.0, True), (4, 9.0, True))
    advice = advise([replace(each, canaries=canaries) for each in (AR[0], AR[2])])
    assert (advice.publish, advice.step) == (Publish.NONE, 10)
    assert advice.unsafe_from_step is None
    assert advice.exposure_rises_with_copies


def test_a_canary_outside_of_the_training_tokens_gives_nothing_back():
    assert not replace(AR[0], canaries=several((0, 5.0, True))).gives_text_back

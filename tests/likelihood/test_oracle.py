"""The evaluator against an enumerated world: exact for AR, unbiased and honest for diffusion."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from epochal.data.rows import ScoredWindows
from epochal.estimates import estimate
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.likelihood.nll import Evaluator
from epochal.likelihood.paper import PaperEvaluator
from epochal.objectives import Autoregressive, MaskedDiffusion
from tiny_world import (
    COMMON,
    LENGTH,
    MACHINE,
    MASK,
    VOCABULARY,
    Oracle,
    all_conditionals,
    enumerated_bound,
    random_joint,
    true_nll,
)

JOINT = random_joint(1)


def stream(tokens, seed=0):
    random = np.random.default_rng(seed)
    return random.choice(VOCABULARY, size=tokens, p=COMMON).astype(np.uint16)


def windows_of(tokens):
    """The evaluator's windows, cut independently: L tokens, overlapping by one."""
    return [tokens[p : p + LENGTH].astype(int) for p in range(0, len(tokens) - 1, LENGTH - 1)]


def evaluator(family, tokens, starts=None, seed=0, batch=7, max_tokens=None):
    objective = Autoregressive() if family == "ar" else MaskedDiffusion(Options(), MASK)
    starts = np.array([0, len(tokens)]) if starts is None else starts
    windows = ScoredWindows(tokens, LENGTH, max_tokens)
    return Evaluator(objective, MACHINE, windows, starts, VOCABULARY, batch, seed)


def scored(family, tokens, model, draws=1, **more):
    it = evaluator(family, tokens, **more)
    for _ in range(draws):
        it.add_draw(model)
    return it.result()


def test_the_worlds_conditionals_agree_with_its_joint():
    """The reference itself: the chain rule in any order gives the joint."""
    table = all_conditionals(JOINT)
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        for ids in ((0, 1, 2, 2, 0), (2, 2, 1, 0, 1)):
            seen, total = [MASK] * LENGTH, 0.0
            for place in order:
                total += table[(*seen, place, ids[place])]
                seen[place] = ids[place]
            assert total == pytest.approx(np.log(JOINT[ids]))


def test_the_bound_of_the_true_conditionals_is_the_true_nll():
    oracle = Oracle(JOINT)
    for ids in (np.array([0, 1, 2, 2, 0]), np.array([1, 1, 0]), np.array([2, 0])):
        assert enumerated_bound(oracle, ids) == pytest.approx(true_nll(JOINT, ids), rel=1e-12)


@pytest.mark.parametrize("tokens", [2, 5, 6, 41, 43])
def test_ar_is_exact(tokens):
    ids = stream(tokens)
    found = scored("ar", ids, Oracle(JOINT))
    expected = sum(true_nll(JOINT, window) for window in windows_of(ids)) / (tokens - 1)
    assert found.nll == pytest.approx(expected, rel=1e-12)
    assert found.error_draws == 0


def test_the_batch_size_changes_nothing():
    ids = stream(120)
    starts = np.array([0, 3, 50, 51, 90, 120])
    for family in ("ar", "mdm"):
        first = scored(family, ids, Oracle(JOINT), 3, starts=starts, batch=1)
        for batch in (3, 1000):
            other = scored(family, ids, Oracle(JOINT), 3, starts=starts, batch=batch)
            assert other.nll == pytest.approx(first.nll, rel=1e-12)
            np.testing.assert_allclose(other.unit_totals, first.unit_totals)


def test_totals_of_documents():
    """AR: each document's total is the sum over its own tokens."""
    ids = stream(60)
    starts = np.array([0, 1, 2, 17, 17, 33, 40, 60])  # one-token and empty documents, too
    found = scored("ar", ids, Oracle(JOINT), starts=starts)
    oracle = Oracle(JOINT)
    each = np.zeros(60)
    for first in range(0, 59, LENGTH - 1):
        window = ids[first : first + LENGTH].astype(int)
        for i in range(1, len(window)):
            each[first + i] = oracle.nll(window, i, range(i, LENGTH))
    spans = list(pairwise(starts))
    tokens = [end - max(start, 1) for start, end in spans]
    totals = [each[max(start, 1) : end].sum() for start, end in spans]
    kept = [n for n, size in enumerate(tokens) if size > 0]
    assert found.unit_tokens.tolist() == [tokens[n] for n in kept]
    np.testing.assert_allclose(found.unit_totals, [totals[n] for n in kept])
    assert found.nll == pytest.approx(sum(totals) / 59)


def test_both_families_score_the_same_tokens():
    ids, starts = stream(77), np.array([0, 20, 21, 60, 77])
    ar, mdm = (scored(f, ids, Oracle(JOINT), 2, starts=starts) for f in ("ar", "mdm"))
    assert ar.unit_tokens.tolist() == mdm.unit_tokens.tolist() == [19, 1, 39, 17]


def with_and_without_control(oracle, ids, seed):
    """Our estimate from four draws, and the one of stratified counts alone."""
    it = evaluator("mdm", ids, seed=seed, batch=500)
    for _ in range(4):
        it.add_draw(oracle)
    return it.result(), estimate(it._layout, it.plain_values(), exact=False)


@pytest.mark.parametrize(("distort", "replicates"), [(0.0, 150), (0.7, 300)])
def test_the_diffusion_estimate_is_unbiased_and_its_error_honest(distort, replicates):
    """Independent replicates of 4 draws over 80 windows, with and without control variates."""
    ids = stream(80 * 4 + 1, seed=3)
    oracle = Oracle(JOINT, distort)
    expected = sum(enumerated_bound(oracle, window) for window in windows_of(ids)) / (len(ids) - 1)
    if distort == 0:
        true = sum(true_nll(JOINT, window) for window in windows_of(ids)) / (len(ids) - 1)
        assert expected == pytest.approx(true, rel=1e-12)
    pairs = [with_and_without_control(oracle, ids, seed) for seed in range(replicates)]
    nll, plain = (np.array([one.nll for one in found]) for found in zip(*pairs, strict=True))
    for found in zip(*pairs, strict=True):
        values = np.array([one.nll for one in found])
        z = (values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values)))
        assert abs(z) < 3.5
        reported = np.sqrt(np.mean([one.error_draws**2 for one in found]))
        assert abs(values.std(ddof=1) / reported - 1) < 3 / np.sqrt(2 * replicates)
        ends = [one.interval_draws() for one in found]
        inside = sum(low <= expected <= high for low, high in ends)
        assert stats.binomtest(inside, replicates, 0.95).pvalue > 0.01
    # The control variate had something to do (0.80 and 0.83 were measured).
    assert nll.std() < 0.9 * plain.std()
    # The error is small enough for the test of the mean to mean something.
    assert nll.std(ddof=1) < 0.1 * expected


def test_the_bound_lies_above_the_truth_for_a_wrong_model():
    """Distorted conditionals are still a model of p(x), only no longer of this one order."""
    oracle = Oracle(JOINT, 0.7)
    gaps = []
    for ids in np.ndindex(*JOINT.shape):
        window = np.array(ids)
        gaps.append(JOINT[ids] * (enumerated_bound(oracle, window) - true_nll(JOINT, window)))
    assert sum(gaps) > 0.05


def test_a_last_short_window_counts_with_its_tokens():
    ids = stream(8)  # windows of 5 and of 4 tokens
    oracle = Oracle(JOINT)
    expected = sum(enumerated_bound(oracle, window) for window in windows_of(ids)) / 7
    found = [scored("mdm", ids, oracle, 8, seed=seed).nll for seed in range(80)]
    assert stats.ttest_1samp(found, expected).pvalue > 1e-3


def test_one_draw_cannot_tell_its_error():
    found = scored("mdm", stream(81), Oracle(JOINT), 1)
    assert np.isnan(found.error_draws)
    assert found.error > 0  # that of the windows remains


def test_some_windows_only():
    ids = stream(401)
    few = evaluator("ar", ids, max_tokens=50)
    few.add_draw(Oracle(JOINT))
    assert few.rows == 10
    assert few.tokens_scored == 40
    chosen = [windows_of(ids)[n] for n in np.arange(10) * 100 // 10]
    expected = sum(true_nll(JOINT, window) for window in chosen) / 40
    assert few.result().nll == pytest.approx(expected, rel=1e-12)


def test_forgetting_the_draws_gives_the_same_again():
    it, oracle = evaluator("mdm", stream(81)), Oracle(JOINT)
    it.add_draw(oracle)
    it.add_draw(oracle)
    first = it.result()
    assert it.draws == 2
    it.clear()
    assert it.draws == 0
    it.add_draw(oracle)
    it.add_draw(oracle)
    assert it.result().nll == first.nll


def test_progress_is_reported_to_the_end():
    heard = []
    evaluator("ar", stream(44), batch=4).add_draw(Oracle(JOINT), heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert len(heard) == 4  # two batches of 4, one of 2, and the short last window


def test_a_set_without_anything_to_score():
    from epochal.errors import DataError

    with pytest.raises(DataError, match="fewer than two tokens, so there is nothing to score"):
        evaluator("ar", stream(1))


# --- the original's estimator ----------------------------------------------------------------


def paper(family, tokens, seed=0, eps=1e-3):
    objective = Autoregressive() if family == "ar" else MaskedDiffusion(Options(eps=eps), MASK)
    return PaperEvaluator(objective, MACHINE, tokens, LENGTH - 1, 16, seed)


class Shorter(Oracle):
    """For AR windows of L + 1 tokens: an input of L − 1 places has L − 1 targets."""

    def __call__(self, ids, rule, positions=None, log_snr=None):
        if rule == "bidirectional":
            return super().__call__(ids, rule)
        import torch

        more = torch.full((len(ids), 1), MASK)
        return super().__call__(torch.cat((ids, more), dim=1), rule)[:, :-1]


def test_the_papers_ar_loss_is_the_mean_over_its_windows():
    ids = stream(43)
    it = paper("ar", ids)
    it.add_draw(Shorter(JOINT))
    assert (it.rows, it.tokens_scored) == (10, 40)
    rows = [ids[p : p + LENGTH].astype(int) for p in range(0, 40, LENGTH - 1)]
    expected = sum(true_nll(JOINT, row) for row in rows) / 40
    assert it.result().nll == pytest.approx(expected, rel=1e-12)
    assert it.result().error_draws == 0


def test_the_papers_diffusion_loss_has_its_expected_mean_and_an_honest_error():
    """Against the enumerated E over p of Σ_M p^|M| (1−p)^(L−|M|) Σ NLL/p."""
    from itertools import combinations

    eps, length = 0.02, LENGTH - 1
    ids = stream(20 * length + 1, seed=4)
    oracle = Oracle(JOINT)
    nodes, parts = np.polynomial.legendre.leggauss(length + 2)
    p = eps + (1 - eps) * (nodes + 1) / 2
    expected = 0.0
    for first in range(0, 20 * length, length):
        row = ids[first : first + length].astype(int)
        for size in range(1, length + 1):
            share = (parts / 2 * p ** (size - 1) * (1 - p) ** (length - size)).sum()
            for masked in combinations(range(length), size):
                expected += share * sum(oracle.nll(row, i, masked) for i in masked)
    expected /= 20 * length
    nll, errors = [], []
    for seed in range(300):
        it = paper("mdm", ids, seed, eps)
        for _ in range(4):
            it.add_draw(oracle)
        nll.append(it.result().nll)
        errors.append(it.result().error_draws)
    assert stats.ttest_1samp(nll, expected).pvalue > 1e-3
    assert 0.8 < np.std(nll, ddof=1) / np.sqrt(np.mean(np.square(errors))) < 1.25


def test_stratified_levels_are_quieter_than_the_papers():
    ids, oracle = stream(80 * 4 + 1, seed=3), Oracle(JOINT)
    ours = [scored("mdm", ids, oracle, 2, seed=seed, batch=500).nll for seed in range(60)]
    theirs = []
    for seed in range(60):
        it = paper("mdm", ids, seed)
        it.add_draw(oracle)
        it.add_draw(oracle)
        theirs.append(it.result().nll)
    assert np.std(ours) < 0.5 * np.std(theirs)


def test_too_few_tokens_for_the_papers_windows():
    from epochal.errors import DataError

    with pytest.raises(DataError, match="less than one window"):
        paper("mdm", stream(4))

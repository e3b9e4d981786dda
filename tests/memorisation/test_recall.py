"""Verbatim writing and NLL of spans, against loops written out and the enumerated world."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.memorisation.recall import Recall
from epochal.objectives import Autoregressive, MaskedDiffusion
from tiny_world import LENGTH, MACHINE, MASK, VOCABULARY, Oracle, random_joint

JOINT = random_joint(1)
ROWS = np.array(list(np.ndindex((VOCABULARY,) * LENGTH)))


def recall(family, batch=64, distort=0.5):
    goal = Autoregressive() if family == "ar" else MaskedDiffusion(Options(), MASK)
    return Recall(Oracle(JOINT, distort), goal, MACHINE, VOCABULARY, MASK, batch)


def written(oracle, row, prefix, family):
    """The greedy continuation of one row's prefix, token by token."""
    ids = [*row[:prefix], *[MASK] * (LENGTH - prefix)]
    while MASK in ids:
        open_places = [i for i in range(LENGTH) if ids[i] == MASK]
        if family == "ar":
            best = open_places[0]
        else:
            best = max(open_places, key=lambda i: oracle.conditionals[(*ids, i)].max())
        ids[best] = int(oracle.conditionals[(*ids, best)].argmax())
    return ids


@pytest.mark.parametrize("family", ["ar", "mdm"])
@pytest.mark.parametrize("prefix", [1, 3])
def test_rows_that_come_back_word_for_word(family, prefix):
    it = recall(family)
    found = it.greedy_tokens_right(ROWS, prefix).all(axis=1)
    expected = [written(it.model, row, prefix, family) == list(row) for row in ROWS]
    assert found.tolist() == expected
    assert sum(expected) == VOCABULARY**prefix  # one continuation of each prefix


def test_ar_counts_tokens_up_to_the_first_wrong_one():
    it = recall("ar")
    right = it.greedy_tokens_right(ROWS, 1)
    for row, one in zip(ROWS, right, strict=True):
        same = np.equal(written(it.model, row, 1, "ar"), row)[1:]
        assert one.tolist() == np.cumprod(same).astype(bool).tolist()
    assert it.greedy_tokens_right(ROWS[:0], 1).shape == (0, LENGTH - 1)


SCORED = np.array([False, False, True, True, True])


def test_the_span_of_ar_is_exact():
    it = recall("ar")
    found = it.span_nll(ROWS[:40], np.tile(SCORED, (40, 1)), 1, 0)
    for row, nll in zip(ROWS[:40], found, strict=True):
        expected = sum(it.model.nll(row, i, range(i, LENGTH)) for i in (2, 3, 4))
        assert nll == pytest.approx(expected, rel=1e-6)


def test_the_span_of_mdm_is_unbiased():
    it, rows = recall("mdm"), ROWS[[7, 100, 200]]
    scored = np.tile(SCORED, (3, 1))
    found = np.mean([it.span_nll(rows, scored, 6, seed) for seed in range(200)], axis=0)
    for row, nll in zip(rows, found, strict=True):
        expected = 0.0
        for size in (1, 2, 3):
            sets = list(combinations((2, 3, 4), size))
            for masked in sets:
                expected += sum(it.model.nll(row, i, masked) for i in masked) / len(sets) / size
        assert nll == pytest.approx(expected, rel=0.03)


def test_all_rows_meet_the_same_masks():
    """Else secrets would differ by chance."""
    it = recall("mdm", batch=12)
    rows = np.tile(ROWS[77], (5, 1))
    found = it.span_nll(rows, np.tile(SCORED, (5, 1)), 4, 3)
    assert np.ptp(found) == 0


SHORT = 3


def test_short_rows_of_diffusion_are_lengthened_with_masks():
    """Against a loop that keeps the masks behind the row, and the conditional given them."""
    oracle = Oracle(JOINT, 0.5)
    goal = MaskedDiffusion(Options(), MASK)
    it = Recall(oracle, goal, MACHINE, VOCABULARY, MASK, 64, pad_to=LENGTH)
    rows = np.array(list(np.ndindex((VOCABULARY,) * SHORT)))
    behind = [MASK] * (LENGTH - SHORT)
    expected = []
    for row in rows:
        ids = [int(row[0]), *[MASK] * (SHORT - 1), *behind]
        while MASK in ids[:SHORT]:
            places = [i for i in range(SHORT) if ids[i] == MASK]
            best = max(places, key=lambda i: oracle.conditionals[(*ids, i)].max())
            ids[best] = int(oracle.conditionals[(*ids, best)].argmax())
        expected.append(ids[:SHORT] == list(row))
    assert it.greedy_tokens_right(rows, 1).all(axis=1).tolist() == expected
    assert sum(expected) == VOCABULARY

    scored = np.zeros(rows.shape, dtype=bool)
    scored[:, 2] = True
    found = it.span_nll(rows, scored, 4, seed=0)
    true = [-oracle.conditionals[(*row[:2], MASK, *behind, 2)][row[2]] for row in rows]
    np.testing.assert_allclose(found, true, rtol=1e-5)

"""Parts of a result add up to it, and agree with the enumerated world."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_oracle import JOINT, evaluator, stream, windows_of

from epochal.likelihood.breakdown import break_down
from epochal.results import to_json
from tiny_world import LENGTH, Oracle


def parts(family, draws, distort=0.0):
    ids, starts = stream(80 * 4 + 1, seed=3), np.array([0, 40, 41, 200, 321])
    it = evaluator(family, ids, starts=starts)
    for _ in range(draws):
        it.add_draw(Oracle(JOINT, distort))
    return it, it.result(), break_down(it, it.result()), ids


def test_ar_places_are_means_over_windows():
    _, found, broken, ids = parts("ar", 1)
    oracle = Oracle(JOINT)
    rows = windows_of(ids)
    for place in range(1, LENGTH):
        expected = np.mean([oracle.nll(row, place, range(place, LENGTH)) for row in rows])
        assert broken.place_nll[place - 1] == pytest.approx(expected, rel=1e-12)
    assert broken.place_nll.mean() == pytest.approx(found.nll, rel=1e-12)
    assert (broken.place_error == 0).all()
    assert broken.levels == []


def test_documents_add_up():
    _, found, broken, _ = parts("mdm", 4)
    assert broken.document.tolist() == [0, 1, 2, 3]
    total = (broken.document_nll * broken.document_tokens).sum()
    assert total / broken.document_tokens.sum() == pytest.approx(found.nll, rel=1e-12)


@pytest.mark.parametrize("starts", [[0, 321], [0, 1, 321], [0, 320, 321]])
def test_of_a_single_document_the_windows_are_shown(starts):
    """The set's first token is not scored, so a document of it alone counts for none."""
    it = evaluator("ar", stream(321, seed=3), starts=np.array(starts))
    it.add_draw(Oracle(JOINT))
    broken = break_down(it, it.result())
    single = starts != [0, 320, 321]
    assert broken.documents.unit == ("window" if single else "document")
    assert len(broken.document) == (it.rows if single else 2) == len(broken.document_nll)


def test_levels_and_places_agree_with_enumeration():
    """f(K), the mean NLL of a masked token when K of 4 are masked, and each place's part."""
    from itertools import combinations

    draws = 60
    _, _, broken, ids = parts("mdm", draws, distort=0.5)
    oracle, rows, m = Oracle(JOINT, 0.5), windows_of(ids), LENGTH - 1
    level, place = np.zeros(m), np.zeros(m)
    for row in rows:
        for size in range(1, m + 1):
            sets = list(combinations(range(1, LENGTH), size))
            for masked in sets:
                for i in masked:
                    part = oracle.nll(row, i, masked) / len(sets) / size
                    level[size - 1] += part / len(rows)
                    place[i - 1] += part / len(rows)
    assert len(broken.levels) == m  # shares 1/4, 1/2, 3/4 and 1
    for line, expected in zip(broken.levels, level, strict=True):
        assert abs(line.nll - expected) < 5 * line.error
        assert line.error < 0.03
    gap = np.abs(broken.place_nll - place)
    assert (gap < 5 * broken.place_error).all()
    assert (broken.place_error < 0.08).all()
    assert broken.places[0].first == 1
    assert broken.places[-1].last == m


def test_what_is_kept_can_be_read(tmp_path):
    _, _, broken, _ = parts("mdm", 2)
    broken.save(tmp_path / "best")
    content = json.loads((tmp_path / "best.json").read_text())
    assert content == to_json(broken)
    assert set(content) == {"places", "levels", "documents"}
    with np.load(tmp_path / "best.npz") as arrays:
        np.testing.assert_array_equal(arrays["document_nll"], broken.document_nll)
        assert len(arrays["place_nll"]) == LENGTH - 1


def test_a_level_with_a_single_row_is_valid_json(tmp_path):
    ids, starts = stream(5, seed=3), np.array([0, 5])
    it = evaluator("mdm", ids, starts=starts)
    for _ in range(3):
        it.add_draw(Oracle(JOINT))
    broken = break_down(it, it.result())
    assert None in [line.error for line in broken.levels]
    broken.save(tmp_path / "parts")
    json.loads((tmp_path / "parts.json").read_text(), parse_constant=pytest.fail)

"""What searches show, from planted laws: tables, differences, crossings, and what is not said."""

from __future__ import annotations

import json
import re

import pytest
from made_searches import LR, TUNED, UNIQUE, USUAL, make_searches, make_tried, nll_of

from epochal.errors import RunError
from epochal.report import write_report
from epochal.report.evidence import Evidence, read_evidence
from epochal.report.searches import find_evidence
from epochal.report.text.evidence import NOTHING, findings, markdown, tables
from epochal.results import to_json
from epochal.runs.pack import pack_runs
from epochal.scaling.crossing import paper_critical_compute

SIZE = 100_000
BEST = (("ar", 32), ("mdm", 256))


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Fits of 50 resamples, not 200."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epochal.report.searches._RESAMPLES", 50)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Searches at one size, seeds at the best points, and a sweep with other settings."""
    place = tmp_path_factory.mktemp("runs")
    make_searches(place / "tune", sizes=(SIZE,), seeds=3)
    for family, epochs in (("ar", 16), ("mdm", 128)):
        make_tried(place / "dropout", family, SIZE, epochs, UNIQUE[0], USUAL)
    return place


@pytest.fixture(scope="module")
def found(folder):
    [text] = find_evidence([folder / "tune", folder / "dropout"])[0].texts
    return text


def test_the_best_of_each_family_with_each_settings(found):
    cells = {(b.family, b.settings, b.unique_tokens): b for b in found.best}
    tuned = cells["mdm", "tuned", UNIQUE[0]]
    assert (tuned.lr, tuned.weight_decay, tuned.epochs, tuned.seeds) == (LR, TUNED, 256, 3)
    assert tuned.nll == pytest.approx(nll_of("mdm", SIZE, 256, UNIQUE[0], TUNED) + 0.01)
    assert tuned.bits_per_byte == pytest.approx(
        (nll_of("mdm", SIZE, 256, UNIQUE[0], TUNED) + 0.01) / 2
    )
    assert tuned.error == pytest.approx((0.01**2 + 0.01**2 / 3) ** 0.5)
    usual = cells["ar", "usual", UNIQUE[0]]
    assert (usual.weight_decay, usual.epochs, usual.seeds) == (USUAL, 32, 1)
    assert cells["ar", "dropout", UNIQUE[0]].epochs == 16
    assert ("ar", "dropout", UNIQUE[1]) not in cells
    flops, nll = zip(*usual.frontier, strict=True)
    assert list(flops) == sorted(flops)
    assert list(nll) == sorted(nll, reverse=True)


def test_differences_are_paired_and_have_the_seeds_in_their_interval(found):
    cells = {(d.settings, d.unique_tokens): d for d in found.differences}
    tuned, usual = cells["tuned", UNIQUE[0]], cells["usual", UNIQUE[0]]
    planted = [nll_of(family, SIZE, epochs, UNIQUE[0], TUNED) for family, epochs in BEST]
    assert tuned.difference == pytest.approx(planted[1] - planted[0])
    assert tuned.seeds == (3, 3)
    assert usual.seeds == (1, 1)
    low, high = tuned.interval
    assert low < tuned.difference < high
    assert tuned.error > usual.error
    # Documents differ by 0.5 nats, what is the runs' own by 0.02: only pairing is this precise.
    assert usual.error == pytest.approx(0.02 * 2**0.5 / 10, rel=0.3)
    assert tuned.clear


def test_crossings_by_runs_and_by_laws(found):
    for one in found.critical:
        if one.settings == "dropout":
            assert one.law is None
            assert one.refused
            continue
        decay = TUNED if one.settings == "tuned" else USUAL
        plateau = nll_of("ar", SIZE, 32, one.unique_tokens, decay)
        below = [
            epochs
            for epochs in (8, 16, 32, 64, 128, 256)
            if nll_of("mdm", SIZE, epochs, one.unique_tokens, decay) < plateau
        ]
        assert one.seen == 6 * SIZE * one.unique_tokens * below[0]
        # At equal length the planted laws cross where this changes its sign.
        epochs = one.law / (6 * SIZE * one.unique_tokens)
        gaps = [
            nll_of("mdm", SIZE, e, one.unique_tokens, decay)
            - nll_of("ar", SIZE, e, one.unique_tokens, decay)
            for e in (0.95 * epochs, 1.05 * epochs)
        ]
        assert gaps[0] > 0 > gaps[1]
        assert one.paper == paper_critical_compute(one.unique_tokens)


def test_what_searches_cost_and_certified(found):
    by_cell = {(s.family, s.unique_tokens): s for s in found.searches}
    assert by_cell["ar", UNIQUE[0]].certified
    late = by_cell["ar", UNIQUE[1]]
    assert not late.certified
    assert [one.verdict.value for one in late.open] == ["untried"]
    assert late.runs == 12
    rows = next(t for t in tables(found) if "cost" in t.title).rows
    assert sum("not tried" in row[-1] for row in rows) == 2


def test_sentences_say_what_is_shown_and_not_more(folder, found, tmp_path):
    first, second, *others = findings(found)
    assert re.search(r"25k .*tuned masked diffusion .* better .* both searches certified", first)
    assert "by at least" in first  # diffusion's NLL is a bound
    assert "not certified: autoregressive and masked diffusion" in second
    assert not any("No run" in one for one in others)
    # With fewer epochs diffusion does not get there, and the page says that.
    short = make_searches(tmp_path / "short", uniques=(100_000,), sizes=(SIZE,))
    content = json.loads((short / "tune.json").read_text())
    for search in content["searches"]:
        if search["family"] == "mdm":
            search["runs"] = [r for r in search["runs"] if r["settings"]["epochs"] < 20]
            search["best"] = min(search["runs"], key=lambda run: run["nll"])
    (short / "tune.json").write_text(json.dumps(content))
    [text] = find_evidence([short])[0].texts
    said = " ".join(findings(text))
    assert re.search(r"tuned autoregressive \(100k parameters\) is better .* by at most 0\.", said)
    assert "No run of these shows masked diffusion below tuned autoregressive" in said
    assert {one.seen for one in text.critical} == {None}


def test_the_same_from_records_and_through_json(folder, found, tmp_path):
    for name in ("tune", "dropout"):
        pack_runs(folder / name, tmp_path / f"{name}.zip")
    page = tmp_path / "r.html"
    written = write_report([tmp_path], page)
    html = page.read_text(encoding="utf-8")
    assert "Tuned families" in html
    assert "evidence" in written.sections
    assert len(written.runs) == 2 * 2 * (3 + 1) + 2  # best with seeds, usual; dropout
    assert str(tmp_path) not in html
    for finding in findings(found):
        assert finding in html
    file = tmp_path / "e.json"
    file.write_text(json.dumps(to_json({"texts": [found], "records": {}})))
    assert read_evidence(file).texts == [found]
    assert markdown(read_evidence(file)).count("\n### ") == len(tables(found)) == 5


def test_without_searches_there_is_no_evidence_and_it_is_said(folder):
    evidence, runs = find_evidence([folder / "dropout"])
    assert not evidence.texts
    assert not runs
    assert markdown(evidence) == NOTHING + "\n"


def test_a_damaged_search_ends_in_one_sentence(tmp_path):
    make_tried(tmp_path, "ar", SIZE, 2, 25_000, USUAL)
    (tmp_path / "tune.json").write_text('{"searches": [{"best": {}}]}')
    with pytest.raises(RunError, match="damaged"):
        find_evidence([tmp_path])


def test_a_newcomers_runs_stand_beside_the_records(folder, found, tmp_path):
    """On the same held-out text in nats, on another in bits per byte, and that is said."""
    evidence = Evidence(texts=[found])
    for corpus, unit in (("c", "nats per token"), ("d", "bits per byte")):
        make_tried(tmp_path / corpus, "mdm", SIZE, 16, 30_000, USUAL, corpus=corpus)
        page = tmp_path / "r.html"
        write_report([tmp_path / corpus], page, evidence=evidence)
        html = page.read_text(encoding="utf-8")
        own = nll_of("mdm", SIZE, 16, 30_000, USUAL) / (1 if corpus == "c" else 2)
        theirs = [
            (nll_of("mdm", SIZE, 256, unique, TUNED) + 0.01) / (1 if corpus == "c" else 2)
            for unique in UNIQUE
        ]
        assert f"has {own:.3f} {unit}; models tuned by search have {theirs[0]:.3f} on 25k" in html
        assert f"{theirs[1]:.3f} on 100k" in html
        assert ("rough comparison" in html) == (corpus == "d")
        assert "Beside tuned models" in html

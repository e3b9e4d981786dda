"""The comparison of runs: which family is ahead, by how much, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from epochal.comparison import compare_runs
from epochal.comparison.compare import ComparisonNote
from epochal.errors import RunError
from epochal.results import to_json
from epochal.runs import RunRecord
from epochal.runs.curves import CurveShape
from made_runs import make_run

FALLING = np.linspace(5.0, 4.0, 50)
FLAT = np.maximum(4.0, np.linspace(5.0, 3.0, 50))
RISING = np.concatenate((np.linspace(5.0, 3.9, 20), np.linspace(3.9, 4.4, 30)))


def pair(folder, ar=FLAT, mdm=FLAT, ar_more=None, mdm_more=None):
    return [
        make_run(folder / "a", "ar", ar, **(ar_more or {})),
        make_run(folder / "b", "mdm", mdm, **(mdm_more or {})),
    ]


def compared(folder, *args):
    """The only pair of a comparison of two runs."""
    (found,) = compare_runs(pair(folder, *args)).pairs
    return found


@pytest.mark.parametrize(("nll", "leader"), [(3.6, "mdm"), (4.2, "ar")])
def test_the_lower_nll_leads(tmp_path, nll, leader):
    comparison = compare_runs(pair(tmp_path, RISING, FALLING, {"nll": 3.9}, {"nll": nll}))
    (found,) = comparison.pairs
    assert found.families == ("ar", "mdm")
    assert found.difference == pytest.approx(nll - 3.9)
    assert found.leader == leader
    assert comparison.leaders == [leader]
    assert comparison.best == {"ar": str(tmp_path / "a"), "mdm": str(tmp_path / "b")}
    assert comparison.best_run("ar").shape is CurveShape.OVERFITTED
    assert comparison.best_run("mdm").shape is CurveShape.FALLING


def test_the_verdict_changes_at_two_standard_errors(tmp_path):
    for number, lead in enumerate(np.linspace(0.001, 0.03, 12)):
        runs = pair(tmp_path / str(number), FLAT, FLAT, {"nll": 4.0}, {"nll": 4.0 - lead})
        comparison = compare_runs(runs)
        (found,) = comparison.pairs
        clear = lead > 2 * found.standard_error
        assert found.leader == ("mdm" if clear else None)
        assert comparison.leaders == (["mdm"] if clear else ["mdm", "ar"])


def test_the_error_is_that_of_paired_documents(tmp_path):
    """Two runs with own spread s: √2·s/√documents, and the draws'; not the documents' own."""
    found = compared(tmp_path, FLAT, FLAT, {"spread": 0.2}, {"spread": 0.2})
    assert found.standard_error == pytest.approx(np.sqrt(2) * 0.2 / 10, rel=0.3)
    # No spread at all: the error of the draws remains.
    found = compared(tmp_path / "z", FLAT, FLAT, {"spread": 0}, {"spread": 0})
    assert found.standard_error == pytest.approx(0.002)


def test_a_crossing_that_was_seen(tmp_path):
    found = compared(tmp_path, FLAT, np.linspace(5.0, 3.5, 50))
    assert found.crossing.kind == "seen"
    assert found.crossing.later == "mdm"


@pytest.mark.parametrize("nll", [4.0, 4.5])
def test_a_crossing_that_the_evaluations_do_not_confirm_is_not_given(tmp_path, nll):
    """The curves, from one mask draw, cross; the evaluations are equal, or AR leads."""
    found = compared(tmp_path, FLAT, np.linspace(5.0, 3.99, 50), {}, {"nll": nll})
    assert found.leader != "mdm"
    assert found.crossing is None


def test_no_crossing_ahead_once_the_later_family_leads(tmp_path):
    flops = np.linspace(0.02, 1, 50)
    found = compared(tmp_path, RISING, 3.0 + flops**-0.4, {}, {"nll": 3.5})
    assert found.leader == "mdm"
    assert found.crossing is None


def test_an_extrapolated_crossing(tmp_path):
    flops = np.linspace(0.02, 1, 50)
    found = compared(tmp_path, RISING, 3.0 + 1.0 * flops**-0.4)
    assert found.crossing.kind == "extrapolated"
    assert found.crossing.flops == pytest.approx(1e15 * (1 / 0.9) ** (1 / 0.4), rel=0.05)


def test_the_best_run_of_each_family_counts(tmp_path):
    runs = [
        make_run(tmp_path / "a1", "ar", FLAT, nll=4.0),
        make_run(tmp_path / "a2", "ar", FLAT, nll=3.8, seed=1),
        make_run(tmp_path / "b1", "mdm", FLAT, nll=4.5),
        make_run(tmp_path / "b2", "mdm", FLAT, nll=4.6, seed=1),
    ]
    comparison = compare_runs(runs)
    assert comparison.best == {"ar": str(tmp_path / "a2"), "mdm": str(tmp_path / "b1")}
    assert len(comparison.runs) == 4
    assert comparison.pairs[0].difference == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("third", "leaders"), [(3.5, ["third"]), (4.5, ["mdm"]), (3.8, ["third", "mdm"])]
)
def test_three_families(tmp_path, third_family, third, leaders):
    runs = pair(tmp_path, FLAT, FLAT, {"nll": 4.0}, {"nll": 3.801, "spread": 0.05})
    runs.append(make_run(tmp_path / "c", third_family, FLAT, nll=third, spread=0.05))
    comparison = compare_runs(runs)
    assert [p.families for p in comparison.pairs] == [
        ("ar", "mdm"),
        ("ar", "third"),
        ("mdm", "third"),
    ]
    assert comparison.leaders == leaders
    assert comparison.pairs[1].difference == pytest.approx(third - 4.0)


def test_notes_tell_what_the_numbers_do_not_cover(tmp_path):
    notes = compare_runs(pair(tmp_path)).notes
    assert [note.code for note in notes] == [ComparisonNote.BOUNDS, ComparisonNote.ERROR_SCOPE]
    assert notes[0].values == {"bounds": ["mdm"], "exact": ["ar"]}
    runs = pair(tmp_path / "z", FLAT, FLAT, {"status": "stopped"}, {"flops": 3e15})
    _, _, compute, unfinished = compare_runs(runs).notes
    assert compute.code is ComparisonNote.UNEQUAL_COMPUTE
    assert compute.values["flops"] == {"ar": 1e15, "mdm": 3e15}
    assert unfinished.values == {"runs": [str(tmp_path / "z/a")]}
    runs = pair(tmp_path / "y")
    for run, precision in zip(runs, ("fp32", "bf16"), strict=True):
        run.folder.write_info(run.info | {"machine": {"precision": precision}})
    precisions = compare_runs([RunRecord(run.path) for run in runs]).notes[-1]
    assert precisions.code is ComparisonNote.UNEQUAL_PRECISION
    assert precisions.values == {"precisions": {"ar": ["fp32"], "mdm": ["bf16"]}}


def test_a_comparison_is_plain_json(tmp_path):
    comparison = compare_runs(pair(tmp_path, FLAT, np.linspace(5.0, 3.5, 50)))
    content = json.loads(json.dumps(to_json(comparison)))
    assert content["pairs"][0]["crossing"]["kind"] == "seen"
    assert content["runs"][0]["shape"] == "flat"


def test_averaged_runs_without_a_log_can_be_compared(tmp_path):
    runs = pair(tmp_path, FLAT, FLAT, {"nll": 3.5}, {"nll": 4.0})
    runs[0].folder.metrics_file.unlink()
    comparison = compare_runs(runs)
    assert comparison.leaders == ["ar"]
    assert comparison.best_run("ar").shape is None
    assert comparison.pairs[0].crossing is None


# --- refusals ------------------------------------------------------------------------------------


def refused(runs, message):
    with pytest.raises(RunError, match=message) as caught:
        compare_runs(runs)
    assert "\n" not in str(caught.value)


def test_runs_of_different_corpora_are_refused(tmp_path):
    refused(pair(tmp_path, mdm_more={"corpus": "other"}), "differ in training tokens")


def test_runs_with_different_validation_sets_are_refused(tmp_path):
    runs = pair(tmp_path)
    runs[1].info["corpus"]["validation"]["content_sha256"] = "other"
    refused(runs, "differ in validation set")


def test_runs_with_other_contexts_are_refused(tmp_path):
    """They score the same tokens, so that only the record shows it."""
    runs = pair(tmp_path)
    for run, length in zip(runs, (128, 256), strict=True):
        run.numbers["sequence_length"] = length
    refused(runs, r"sequence length \(128 and 256\)")


@pytest.mark.parametrize("change", [{"validation_sha256": "w"}, {"sequence_length": 7}])
def test_results_on_other_tokens_are_refused(tmp_path, change):
    """The corpus was made anew between the two evaluations, or the context is another."""
    refused(pair(tmp_path, mdm_more=change), "not scored on the same tokens .* run `epochal eval`")


def test_results_in_other_units_are_refused(tmp_path):
    """One judged by documents, the other by the paper's windows."""
    runs = pair(tmp_path)
    sums = np.full(50, 320.0), np.full(50, 80), np.zeros(50)
    runs[1].folder.write_evaluation(runs[1].evaluation("best"), *sums)
    refused(runs, "not scored on the same tokens")


def test_a_single_family_is_refused(tmp_path):
    refused(pair(tmp_path)[:1], "all are autoregressive")
    refused([make_run(tmp_path / "m", "mdm", FLAT)], "all are masked diffusion")


def test_a_run_without_an_evaluation_is_named(tmp_path):
    runs = pair(tmp_path, ar_more={"evaluated": False})
    refused(runs, r"the best checkpoint of .*a has not been evaluated; run `epochal eval .*a`")


def test_runs_whose_nll_is_not_finite_are_left_out_and_listed(tmp_path):
    good = [make_run(tmp_path / family, family, [4.0, 3.0]) for family in ("ar", "mdm")]
    broken = make_run(tmp_path / "broken", "ar", [4.0, 2.0])
    file = broken.folder.evaluation_file("best", "exact")
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"nll_nats_per_token": float("nan")}))
    comparison = compare_runs([broken, *good])
    assert [run.name for run in comparison.runs] == ["ar", "mdm"]
    assert comparison.best["ar"] == str(tmp_path / "ar")
    assert comparison.left_out == [str(tmp_path / "broken")]
    assert comparison.notes[-1].code is ComparisonNote.LEFT_OUT
    assert compare_runs(good, ["other"]).left_out == ["other"]
    with pytest.raises(RunError, match=r"with a finite NLL.*\(left out: .*broken\)"):
        compare_runs([broken, good[1]])

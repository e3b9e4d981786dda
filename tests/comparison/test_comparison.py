"""The comparison: who won, in a sentence that says no more than the numbers do."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from epochal.comparison import compare_runs, summarise
from epochal.errors import RunError
from made_runs import make_run

FALLING = np.linspace(5.0, 4.0, 50)
FLAT = np.maximum(4.0, np.linspace(5.0, 3.0, 50))
RISING = np.concatenate((np.linspace(5.0, 3.9, 20), np.linspace(3.9, 4.4, 30)))


def pair(folder, ar=FLAT, mdm=FLAT, ar_more=None, mdm_more=None):
    return [
        make_run(folder / "a", "ar", ar, **(ar_more or {})),
        make_run(folder / "b", "mdm", mdm, **(mdm_more or {})),
    ]


def test_a_run_as_a_line(tmp_path):
    line = summarise(make_run(tmp_path / "r", "ar", RISING, flops=2e15))
    assert (line.name, line.family, line.status) == ("r", "ar", "finished")
    assert (line.nll, line.standard_error, line.bits_per_byte) == (3.9, 0.01, 1.1)
    assert (line.epochs, line.flops) == (10.0, 2e15)
    assert line.best_epoch == pytest.approx(10 * 20 / 50)
    assert line.best_flops == pytest.approx(2e15 * 20 / 50)
    assert line.rise_since_best == pytest.approx(0.5)
    assert not line.still_falling


def test_diffusion_wins(tmp_path):
    found = compare_runs(pair(tmp_path, RISING, FALLING, {"nll": 3.9}, {"nll": 3.6}))
    assert found.difference == pytest.approx(-0.3)
    assert found.verdict.startswith(
        "Diffusion learned more from these 100,000 unique tokens, by at least 0.300 ± 0.00"
    )
    assert "(AR 3.900, diffusion at most 3.600)" in found.verdict
    assert "AR was best at epoch 4.0 and has since overfitted by 0.50" in found.verdict
    assert "diffusion was still falling at the end (epoch 10.0)" in found.verdict
    assert (found.ar, found.mdm) == ("a", "b")


def test_ar_wins(tmp_path):
    """Diffusion's figure is a bound, so AR's lead is at most the difference."""
    found = compare_runs(pair(tmp_path, FLAT, FLAT, {"nll": 3.5}, {"nll": 4.0}))
    assert found.verdict.startswith(
        "AR learned more from these 100,000 unique tokens, by at most 0.500 ± 0.00"
    )
    assert "AR had levelled off by epoch 10.0" in found.verdict
    assert "cannot be told from these runs" in found.verdict
    assert found.meeting is None


@pytest.mark.parametrize("lead", [0.004, -0.004, 0.0])
def test_too_close_to_call(tmp_path, lead):
    found = compare_runs(pair(tmp_path, FLAT, FLAT, {"nll": 4.0}, {"nll": 4.0 + lead}))
    assert abs(lead) < 2 * found.difference_error
    assert found.verdict.startswith("Too close to call on 100,000 unique tokens: the difference is")
    assert "learned more" not in found.verdict


def test_the_verdict_changes_at_two_standard_errors(tmp_path):
    for number, lead in enumerate(np.linspace(0.001, 0.03, 12)):
        found = compare_runs(
            pair(tmp_path / str(number), FLAT, FLAT, {"nll": 4.0}, {"nll": 4.0 - lead})
        )
        clear = lead > 2 * found.difference_error
        assert ("Diffusion learned more" in found.verdict) == clear
        assert ("Too close" in found.verdict) == (not clear)


def test_the_error_is_that_of_paired_documents(tmp_path):
    """Two runs with own spread s: √2·s/√documents, and the draws'; not the documents' own."""
    found = compare_runs(pair(tmp_path, ar_more={"spread": 0.2}, mdm_more={"spread": 0.2}))
    assert found.difference_error == pytest.approx(np.sqrt(2) * 0.2 / 10, rel=0.3)
    # No spread at all: the error of the draws remains.
    (tmp_path / "z").mkdir()
    found = compare_runs(pair(tmp_path / "z", ar_more={"spread": 0}, mdm_more={"spread": 0}))
    assert found.difference_error == pytest.approx(0.002)


def test_a_meeting_is_named(tmp_path):
    mdm = np.linspace(5.0, 3.5, 50)
    found = compare_runs(pair(tmp_path, FLAT, mdm))
    assert found.meeting.how == "seen"
    assert re.search(r"diffusion's curve passed AR's at \d+T FLOPs\.$", found.verdict)


@pytest.mark.parametrize("nll", [4.0, 4.5])
def test_a_meeting_that_the_evaluations_do_not_bear_out_is_not_named(tmp_path, nll):
    """The curves, of one mask draw, cross; the evaluations say tie, or that AR leads."""
    found = compare_runs(pair(tmp_path, FLAT, np.linspace(5.0, 3.99, 50), {}, {"nll": nll}))
    assert found.meeting is None
    assert "cannot be told from these runs" in found.verdict
    assert "passed" not in found.verdict


def test_no_meeting_ahead_once_diffusion_has_won(tmp_path):
    flops = np.linspace(0.02, 1, 50)
    found = compare_runs(pair(tmp_path, RISING, 3.0 + flops**-0.4, {}, {"nll": 3.5}))
    assert "Diffusion learned more" in found.verdict
    assert "would meet AR's best" not in found.verdict


def test_an_extrapolated_meeting_is_given_with_its_interval(tmp_path):
    flops = np.linspace(0.02, 1, 50)
    mdm = 3.0 + 1.0 * flops**-0.4
    ar = np.concatenate((np.linspace(5.0, 3.9, 20), np.linspace(3.9, 4.4, 30)))
    found = compare_runs(pair(tmp_path, ar, mdm))
    assert found.meeting.how == "extrapolated"
    exact = 1e15 * (1 / 0.9) ** (1 / 0.4)
    assert found.meeting.flops == pytest.approx(exact, rel=0.05)
    assert "carried on as it went, diffusion's curve would meet AR's best near 1." in found.verdict
    assert "90 % interval" in found.verdict


def test_the_best_run_of_each_family_counts(tmp_path):
    runs = [
        make_run(tmp_path / "a1", "ar", FLAT, nll=4.0),
        make_run(tmp_path / "a2", "ar", FLAT, nll=3.8, seed=1),
        make_run(tmp_path / "b1", "mdm", FLAT, nll=4.5),
        make_run(tmp_path / "b2", "mdm", FLAT, nll=4.6, seed=1),
    ]
    found = compare_runs(runs)
    assert (found.ar, found.mdm, len(found.runs)) == ("a2", "b1", 4)
    assert found.difference == pytest.approx(0.7)


def test_notes_tell_what_the_numbers_do_not_cover(tmp_path):
    notes = compare_runs(pair(tmp_path)).notes
    assert len(notes) == 2
    assert "upper bound" in notes[0]
    assert "It does not cover other seeds" in notes[1]
    (tmp_path / "z").mkdir()
    notes = compare_runs(
        pair(tmp_path / "z", ar_more={"status": "stopped"}, mdm_more={"flops": 3e15})
    ).notes
    same = "same compute: AR 1e+15 FLOPs, diffusion 3e+15 FLOPs."
    assert notes[2] == f"The two did not have the {same}"
    assert notes[3] == "Not finished: a."


def test_a_comparison_is_plain_json(tmp_path):
    found = compare_runs(pair(tmp_path, FLAT, np.linspace(5.0, 3.5, 50)))
    assert json.loads(json.dumps(found.as_dict()))["meeting"]["how"] == "seen"


# --- refusals ------------------------------------------------------------------------------------


def refused(runs, message):
    with pytest.raises(RunError) as caught:
        compare_runs(runs)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_of_different_corpora_are_refused(tmp_path):
    runs = pair(tmp_path, mdm_more={"corpus": "other"})
    refused(runs, "differ in training tokens")


def test_runs_with_different_validation_sets_are_refused(tmp_path):
    runs = pair(tmp_path)
    info = runs[1].info
    info["corpus"]["validation"]["content_sha256"] = "other"
    refused(runs, "differ in validation set")


def test_runs_with_other_contexts_are_refused(tmp_path):
    """They score the same tokens, so that only the record shows it."""
    runs = pair(tmp_path)
    for run, length in zip(runs, (128, 256), strict=True):
        run.numbers["sequence_length"] = length
    refused(runs, r"sequence length \(128 and 256\)")


def test_results_on_another_validation_set_are_refused(tmp_path):
    """The corpus was made anew between the two evaluations."""
    runs = pair(tmp_path, mdm_more={"validation_sha256": "w"})
    refused(runs, r"were not scored on the same tokens in the same way .* run `epochal eval`")


def test_results_in_other_units_are_refused(tmp_path):
    """One judged by documents, the other by the paper's windows."""
    runs = pair(tmp_path)
    sums = np.full(50, 320.0), np.full(50, 80), np.zeros(50)
    runs[1].folder.write_evaluation(runs[1].evaluation("best"), *sums)
    refused(runs, "were not scored on the same tokens in the same way")


def test_a_missing_family_is_named(tmp_path):
    refused(pair(tmp_path)[:1], "none of the runs is masked diffusion; give at least one run of")
    refused(
        [make_run(tmp_path / "m", "mdm", FLAT)], "none of the runs is autoregressive; give at least"
    )


def test_a_run_without_an_evaluation_is_named(tmp_path):
    runs = pair(tmp_path, ar_more={"evaluated": False})
    refused(runs, r"the best checkpoint of .*a has not been evaluated; run `epochal eval .*a`")


def test_both_overfit_is_an_answer(tmp_path):
    turned = [5.0, 4.5, 4.2, 4.0, 4.1, 4.3]
    ar = make_run(tmp_path / "a", "ar", turned)
    worse = make_run(tmp_path / "b", "mdm", [value + 0.6 for value in turned])
    found = compare_runs([ar, worse])
    assert found.meeting is None
    assert "both overfit at these settings, so training longer would not bring" in found.verdict
    better = make_run(tmp_path / "c", "mdm", [value - 0.6 for value in turned])
    assert compare_runs([ar, better]).verdict.endswith("both overfit at these settings.")


def test_runs_whose_nll_is_not_finite_are_left_out_and_listed(tmp_path):
    good = [make_run(tmp_path / family, family, [4.0, 3.0]) for family in ("ar", "mdm")]
    broken = make_run(tmp_path / "broken", "ar", [4.0, 2.0])
    file = broken.folder.evaluation_file("best", "exact")
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"nll_nats_per_token": float("nan")}))
    found = compare_runs([broken, *good])
    assert [run.name for run in found.runs] == ["ar", "mdm"]
    assert found.ar == "ar"
    assert found.left_out == ["broken"]
    assert "Left out, since their NLL is not finite: broken." in found.notes
    assert compare_runs(good, ["other"]).left_out == ["other"]
    with pytest.raises(RunError, match=r"and has a finite NLL; .*\(left out: broken\)"):
        compare_runs([broken, good[1]])

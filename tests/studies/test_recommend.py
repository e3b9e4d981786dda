"""What a study recommends and how it is worded, also where diffusion does not win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from epochal.report.study import (
    Basis,
    HeldOutResult,
    HeldOutResults,
    RegularisationTrial,
    StudyNote,
    StudyResult,
)
from epochal.report.text.study import (
    check_texts,
    note_texts,
    page_content,
    recommendation,
    verdict,
)
from epochal.results import note
from epochal.scaling.law import law_from_constants
from epochal.scaling.planner import make_plan
from epochal.scaling.points import Points
from epochal.studies.laws import overfitting
from epochal.studies.study import recommend
from epochal.sweeps.record import RunReason

UNIQUE = 1e6
RISING = [(1e6, 5.0), (4e6, 4.2), (16e6, 4.0), (64e6, 4.6)]
FALLING = [(1e6, 6.0), (4e6, 5.0), (16e6, 4.4), (64e6, 4.1)]
FITTED = {"params": (1e5, 1e8), "tokens": (1e6, 1e9), "unique_tokens": (1e6, 1e8)}
FITTED |= {"flops": (6e12, 6e17), "epochs": (1.0, 100.0)}


def made(rows):
    """Points of rows (family, N, D, U, loss)."""
    families, *numbers = zip(*rows, strict=True)
    n, d, u, loss = np.array(numbers, float)
    return Points(n, d, u, loss, list(families), list(map(str, range(len(n)))), [""] * len(n))


def points(**ladders):
    """Runs of two sizes and two U; `ladders` are those on the whole text, by family."""
    rows = [
        (family, n, d, u, loss)
        for family, ladder in ladders.items()
        for n in (1e6, 4e6)
        for u, steps in ((UNIQUE, ladder), (UNIQUE / 4, FALLING))
        for d, loss in steps
    ]
    return made(rows)


def overfits(family, first, last):
    values = {"family": family, "unique_tokens": UNIQUE, "first": first, "last": last}
    return note(StudyNote.OVERFITS, **values)


def test_which_families_overfit_the_whole_text():
    families, notes = overfitting(points(ar=RISING, mdm=RISING))
    assert families == ["ar", "mdm"]
    assert notes == [overfits("ar", 16, 16), overfits("mdm", 16, 16)]
    assert overfitting(points(ar=RISING, mdm=FALLING)) == (["ar"], [overfits("ar", 16, 16)])
    assert overfitting(points(ar=FALLING, mdm=FALLING)) == ([], [])
    # A rise of less than 3 % is no overfitting.
    slight = [*RISING[:3], (64e6, 4.1)]
    assert overfitting(points(ar=slight, mdm=slight)) == ([], [])


def test_the_range_of_best_lengths_by_size():
    other = [(1e6, 4.5), (4e6, 3.9), (16e6, 4.3)]
    rows = [("ar", 1e6, d, UNIQUE, loss) for d, loss in RISING]
    _, notes = overfitting(made([*rows, *(("ar", 4e6, d, UNIQUE, loss) for d, loss in other)]))
    assert notes == [overfits("ar", 4, 16)]


def laws(e_of_mdm):
    """AR's law, and diffusion's that differs in its floor E and in what repetition is worth."""
    constants = {"A": 300.0, "B": 700.0, "E": 1.8, "alpha": 0.3, "beta": 0.3, "R_N": 20.0}
    ar = law_from_constants("data-constrained", constants | {"R_D": 15.0}, "ar")
    mdm = law_from_constants("data-constrained", constants | {"R_D": 400.0, "E": e_of_mdm}, "mdm")
    for one in (ar, mdm):
        object.__setattr__(one, "fitted_range", FITTED)
        object.__setattr__(one, "samples", [one.theta[None].repeat(3, axis=0)])
    return {"ar": ar, "mdm": mdm}


def result(e_of_mdm, seen=None, differences=None, trials=(), below=None, overfit=()):
    """A study's result with these laws at 1e16 FLOPs."""
    known = laws(e_of_mdm)
    planned = make_plan(known, 1e7, 1e16, vocabulary=8192)
    held_out = HeldOutResults(1e16, [held(f, nll) for f, nll in (seen or {}).items()])
    held_out.differences = differences or {}
    return StudyResult(
        recommendation=recommend(planned, trials, held_out, below or {}),
        overfit=list(overfit),
        held_out=held_out,
        tuned=[],
        regularisation=list(trials),
        notes=[],
        stages=[],
        below_unigram_baseline=below or {},
        unigram_nll=6.0,
        budget=1200.0,
        seconds=1100.0,
        jobs=2,
        report=Path("report.html"),
        recipes={},
        plan=planned,
        fit=SimpleNamespace(families=known, law="data-constrained"),
    )


def held(family, seen, **changes):
    values = {"run": f"held-out-{family}", "family": family, "predicted": 3.0}
    values |= {"law_prediction": 3.0, "interval": (2.8, 3.6), "seen": seen, "inside": True}
    values |= {"below_unigram_baseline": False, "setting": None}
    return HeldOutResult(**(values | changes))


def trial(family, difference, epochs=1.0, **changes):
    values = {"family": family, "setting": "dropout 0.1", "run": "r", "baseline_run": "p"}
    values |= {"keys": {"train.hidden_dropout": 0.1}}
    values |= {"size": "64x3x2", "unique_tokens": 10**7, "epochs": epochs, "baseline_nll": 4.0}
    values |= {"nll": 4.0 + difference, "difference": difference, "error": 0.01}
    return RegularisationTrial(**(values | {"improved": difference < -0.02} | changes))


def test_both_overfitting_is_part_of_the_verdict():
    plain, both = verdict(result(9.0)), verdict(result(9.0, overfit=["ar", "mdm"]))
    assert both.startswith(plain)
    assert "Both overfit" in both.removeprefix(plain)
    assert verdict(result(9.0, overfit=["ar"])) == plain


def test_a_clear_prediction():
    made = result(9.0)
    chosen = made.recommendation
    assert (chosen.basis, chosen.winner, chosen.family) == (Basis.PREDICTED, "ar", "ar")
    assert chosen.predicted == chosen.choice.loss
    assert chosen.seen is None
    assert verdict(made).startswith("AR by ")
    assert recommendation(made).startswith("Train AR, ")


@pytest.mark.parametrize(("difference", "winner"), [(0.5, "ar"), (-0.5, "mdm"), (0.03, None)])
def test_held_out_runs_decide(difference, winner):
    seen = {"ar": 3.0, "mdm": 3.0 + difference}
    first, second = sorted(seen, key=seen.get)
    made = result(9.0, seen, {second: (abs(difference), 0.02)})
    chosen = made.recommendation
    assert (chosen.basis, chosen.winner, chosen.family) == (Basis.MEASURED, winner, first)
    assert chosen.seen == seen[first]
    text = verdict(made)
    assert f"{abs(difference):.3f}" in text
    assert text.startswith("Too close to call") == (winner is None)


def test_regularisation_may_reverse_the_ranking():
    made = result(2.6)
    assert made.recommendation.winner == "ar"
    losses = {one.family: one.loss for one in made.plan.families}
    helped = trial("mdm", -(1 - 0.9 * losses["ar"] / losses["mdm"]) * 4.0, epochs=0.1)
    turned = result(2.6, trials=[helped]).recommendation
    assert turned.reversed_by_regularisation
    assert (turned.winner, turned.family, turned.setting) == ("ar", "mdm", "dropout 0.1")


def test_below_the_unigram_baseline_nothing_is_decided():
    made = result(9.0, below={"mdm": 5.9})
    assert (made.recommendation.basis, made.recommendation.winner) == (Basis.TOO_EARLY, None)
    assert "unigram baseline" in verdict(made)


def test_a_missed_check_makes_the_recommendation_a_guess():
    seen = {"ar": 5.0, "mdm": 6.0}
    made = result(9.0, seen, {"mdm": (1.0, 0.02)})
    assert not made.recommendation.check_missed
    missed = HeldOutResults(1e16, [held("ar", 5.0, inside=False), held("mdm", 6.0)])
    missed.differences = {"mdm": (1.0, 0.02)}
    assert recommend(made.plan, [], missed, {}).check_missed
    told = check_texts(replace(made, held_out=missed))
    assert [inside for inside, _ in told] == [False, True]
    assert "outside" in told[0][1]


def test_what_was_not_done_has_its_reason():
    made = result(9.0)
    made.held_out.not_checked["held-out-ar"] = note(RunReason.NO_TIME)
    assert [held for held, _ in check_texts(made)] == [False]
    assert "no time" in check_texts(made)[0][1]
    lost = {"nll": None, "difference": None, "error": None, "improved": False}
    lost |= {"reason": note(RunReason.TRAINING_FAILED, exit_code=3)}
    tried = replace(made, regularisation=[replace(trial("ar", 0.0), **lost)])
    assert "exit code 3" in " ".join(note_texts(tried))


def test_a_page_gets_values_and_texts():
    seen = {"ar": 3.0, "mdm": 3.5}
    made = result(9.0, seen, {"mdm": (0.5, 0.02)}, [trial("ar", -0.3)])
    content = page_content(made)
    assert content["recommendation"] == f"{verdict(made)} {recommendation(made)}"
    assert [one["seen"] for one in content["held_out"]] == [3.0, 3.5]
    assert content["regularisation"][0]["improved"] is True
    assert content["regularisation"][0]["keys"]["train.hidden_dropout"] == 0.1
    assert content["level"] == 6.0
    assert content["notes"] == note_texts(made)

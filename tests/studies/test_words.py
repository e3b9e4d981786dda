"""The words of a study say what its numbers say, also where diffusion does not win."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from epochal.scaling.law import law_from_constants
from epochal.scaling.planner import make_plan
from epochal.scaling.points import make_points
from epochal.studies.words import overfitting_words, with_laws

UNIQUE = 1e6
RISING = [(1e6, 5.0), (4e6, 4.2), (16e6, 4.0), (64e6, 4.6)]
FALLING = [(1e6, 6.0), (4e6, 5.0), (16e6, 4.4), (64e6, 4.1)]
FITTED = {"params": (1e5, 1e8), "tokens": (1e6, 1e9), "unique_tokens": (1e6, 1e8)}
FITTED |= {"flops": (6e12, 6e17), "epochs": (1.0, 100.0)}


def points(**ladders):
    """Runs of two sizes and two U; `ladders` are those on the whole text, by family."""
    rows = [
        (family, n, d, u, loss)
        for family, ladder in ladders.items()
        for n in (1e6, 4e6)
        for u, steps in ((UNIQUE, ladder), (UNIQUE / 4, FALLING))
        for d, loss in steps
    ]
    families, n, d, u, loss = zip(*rows, strict=True)
    return make_points(n, d, u, loss, family=families)


def test_both_overfit_only_if_both_turned_on_the_whole_text():
    both, words = overfitting_words(points(ar=RISING, mdm=RISING))
    assert both
    assert words == [
        "AR overfits 1M unique tokens: of the lengths tried 16 epochs were best",
        "diffusion overfits 1M unique tokens: of the lengths tried 16 epochs were best",
    ]
    both, words = overfitting_words(points(ar=RISING, mdm=FALLING))
    assert not both
    assert [word.split()[0] for word in words] == ["AR"]
    both, words = overfitting_words(points(ar=FALLING, mdm=FALLING))
    assert (both, words) == (False, [])
    # A rise of less than 3 % is no overfitting, and of another U none of the whole text's.
    slight = [*RISING[:3], (64e6, 4.1)]
    assert overfitting_words(points(ar=slight, mdm=slight)) == (False, [])


def test_the_range_of_best_lengths_by_size():
    rows = [(1e6, d, loss) for d, loss in RISING]
    rows += [(4e6, d, loss) for d, loss in [(1e6, 4.5), (4e6, 3.9), (16e6, 4.3)]]
    n, d, loss = zip(*rows, strict=True)
    _, [words] = overfitting_words(make_points(n, d, UNIQUE + 0 * len(n), loss, family="ar"))
    assert words.endswith("4 epochs were best to 16, by size")


def laws(e_of_mdm):
    """AR's law, and diffusion's that differs in its floor E and in what repetition is worth."""
    constants = {"A": 300.0, "B": 700.0, "E": 1.8, "alpha": 0.3, "beta": 0.3, "R_N": 20.0}
    ar = law_from_constants("data-constrained", constants | {"R_D": 15.0}, "ar")
    mdm = law_from_constants("data-constrained", constants | {"R_D": 400.0, "E": e_of_mdm}, "mdm")
    for one in (ar, mdm):
        object.__setattr__(one, "fitted", FITTED)
        object.__setattr__(one, "samples", [one.theta[None].repeat(3, axis=0)])
    return {"ar": ar, "mdm": mdm}


def said(e_of_mdm, flops=1e16, **more):
    """(verdict, recommendation) of a study with these laws and no held-out runs."""
    known = laws(e_of_mdm)
    planned = make_plan(known, 1e7, flops, vocabulary=8192)
    report = SimpleNamespace(families=known)
    settings = {"sizes": {}, "tried": [], "held_out": [], "difference": None, "early": {}}
    return with_laws(planned, report, **(settings | more))


def test_both_overfitting_is_part_of_the_verdict():
    plain, advice = said(9.0)
    verdict, same = said(9.0, both_overfit=True)
    assert verdict == f"{plain} Both overfit the whole text, so training longer helps neither."
    assert advice == same


def test_diffusion_that_never_wins():
    verdict, advice = said(9.0)
    assert verdict.startswith("AR by ")
    assert "Diffusion does not win up to 6e+18 FLOPs, 10 times the largest run fitted." in verdict
    assert advice.startswith("Train AR, ")


def test_a_crossing_that_is_not_within_reach(monkeypatch):
    near, _ = said(3.0)
    assert "Critical compute 4.12e+17 FLOPs" in near
    monkeypatch.setitem(FITTED, "flops", (6e12, 1e16))  # the laws are believed to 1e17
    far, _ = said(3.0)
    assert "not within reach; the laws put it at" in far


@pytest.mark.parametrize(("difference", "starts"), [
    ((0.5, 0.02), "AR by 0.500"), ((-0.5, 0.02), "Diffusion by 0.500"),
    ((0.03, 0.02), "Too close to call"),
])  # fmt: skip
def test_held_out_runs_decide(difference, starts):
    seen = {"ar": 3.0, "mdm": 3.0 + difference[0]}
    held_out = [{"family": f, "seen": nll, "inside": True} for f, nll in seen.items()]
    verdict, advice = said(9.0, held_out=held_out, difference=difference)
    assert verdict.startswith(starts)
    best = min(seen, key=seen.get)
    assert f"seen {seen[best]:.3f}" in advice

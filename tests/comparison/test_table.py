"""The line of each family: its seeds, P, compute to the reference, minimal pairs and speeds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from epochal import files
from epochal.comparison import compare_runs, table
from epochal.comparison.compare import ComparisonNote
from epochal.comparison.table import Missing
from epochal.report.text.comparison import family_tables, missing_values
from epochal.runs import RunRecord
from made_runs import UNIQUE_TOKENS, make_run

FALLING = np.linspace(5.0, 4.0, 50)
FLOPS = 1e15 * np.arange(1, 51) / 50


def run(path, family, curve=FALLING, *, seed=0, epochs=10.0, **more):
    """A made run with the identity of a recipe, which length and seed tell apart."""
    made = make_run(path, family, curve, seed=seed, **more)
    numbers = made.numbers | {"epochs": epochs}
    numbers |= {"sequence_length": 101, "vocabulary": 300}
    identity = {"family": family, "train.epochs": epochs, "seed": seed}
    made.folder.write_info(made.info | {"numbers": numbers, "identity": identity})
    return RunRecord(path)


def test_seeds_of_a_recipe_are_one_line_with_mean_and_spread(tmp_path):
    nlls = {"ar": [3.8, 4.0], "mdm": [3.9, 3.94, 3.98]}
    runs = [
        run(tmp_path / f"{family}{seed}", family, nll=nll, seed=seed)
        for family, own in nlls.items()
        for seed, nll in enumerate(own)
    ]
    # The lowest NLL of all, and another recipe, whose mean is worse.
    runs.append(run(tmp_path / "lucky", "mdm", nll=3.7, epochs=20.0))
    runs.append(run(tmp_path / "not", "mdm", nll=4.4, epochs=20.0, seed=1))
    found = compare_runs(runs)
    for family, own in nlls.items():
        line = found.line(family)
        assert line.nll == pytest.approx(np.mean(own))
        assert line.spread == pytest.approx(np.std(own, ddof=1))
        assert line.error == pytest.approx(np.hypot(0.01, line.spread / len(own) ** 0.5))
        assert line.runs == [str(tmp_path / f"{family}{seed}") for seed in range(len(own))]
    assert found.pairs[0].difference == pytest.approx(0.04)
    assert found.leaders == ["ar", "mdm"]  # 0.04 is less than the spread
    scope = next(note for note in found.notes if note.code is ComparisonNote.ERROR_SCOPE)
    assert scope.values == {"seeds": {"ar": 2, "mdm": 3}}


def test_the_rise_is_that_of_the_longest_recipe(tmp_path):
    turned = np.array([5.0, 4.2, 4.5])
    runs = [
        run(tmp_path / "short", "ar", nll=4.0),
        run(tmp_path / "long", "ar", turned, nll=4.1, epochs=40.0),
        run(tmp_path / "m", "mdm", nll=4.3),
    ]
    ar, mdm = compare_runs(runs).families
    assert ar.rise == pytest.approx(4.1 + 0.3 - 4.0)
    assert mdm.rise == 0


def test_the_compute_to_the_reference_is_read_from_the_shifted_curve(tmp_path):
    """NLL falls by a in log C: C = C_end · exp((NLL_end − target) / a)."""
    slope, end = 0.5, 3.7
    curve = 3.9 - slope * np.log(FLOPS / 1e15)  # evaluated 0.2 below its curve
    runs = [
        run(tmp_path / "a", "ar", nll=4.0),
        run(tmp_path / "b", "mdm", curve, nll=end),
        run(tmp_path / "c", "mdm", curve, nll=end, seed=1, flops=3e15),
    ]
    ar, mdm = compare_runs(runs).families
    assert ar.reach_flops == pytest.approx(1e15)  # its own best
    assert mdm.reach_flops == pytest.approx(2e15 * np.exp((end - 4.0) / slope), rel=1e-3)
    runs[2] = run(tmp_path / "d", "mdm", curve, nll=4.05, seed=1)
    mdm = compare_runs(runs).line("mdm")
    assert mdm.reach_flops is None
    why = mdm.missing["reach_flops"]
    assert why.code is Missing.NOT_REACHED
    assert why.values == {"family": "ar", "above": pytest.approx(end - 4.0)}


def test_p_is_that_of_the_law_the_runs_follow(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_RESAMPLES", 0)
    cost, params = 0.4, 1000
    runs = [run(tmp_path / "m", "mdm", nll=4.0)]
    for epochs in (1, 2, 4, 8, 16, 32, 64):
        nll = 2.0 + 30 / (epochs * UNIQUE_TOKENS) ** 0.25
        nll += cost * (epochs - 1) * params / UNIQUE_TOKENS
        more = {"nll": nll, "epochs": float(epochs), "flops": 6.0 * params * epochs * UNIQUE_TOKENS}
        runs.append(run(tmp_path / str(epochs), "ar", [5.0, nll], **more))
    ar, mdm = compare_runs(runs).families
    assert ar.penalty == pytest.approx(cost, rel=0.02)
    assert mdm.penalty is None
    assert mdm.missing["penalty"].code is Missing.FEW_LENGTHS


def write_pairs(record, mode, **accuracies):
    for task, (value, error) in accuracies.items():
        content = {"task": task, "data": task, "documents": 9, "mode": mode, "step": 50}
        content["metrics"] = {"macro_acc": {"value": value, "standard_error": error}}
        files.write_json(record.folder.downstream_file(task, "best", mode), content)


def test_minimal_pairs_count_where_all_were_scored(tmp_path):
    ar, mdm = run(tmp_path / "a", "ar"), run(tmp_path / "m", "mdm")
    assert compare_runs([ar, mdm]).line("ar").missing["pairs"].code is Missing.NO_PAIRS
    write_pairs(ar, "exact", one=(0.6, 0.03), two=(0.7, 0.04), three=(0.9, 0.01))
    write_pairs(mdm, "pseudo", one=(0.1, 0.1), two=(0.1, 0.1))
    write_pairs(mdm, "bound", one=(0.5, 0.06), two=(0.8, 0.08))
    found = compare_runs([ar, mdm])
    assert found.pair_tasks == ["one", "two"]
    figures = {
        line.family: (line.pairs, line.pairs_error, line.pairs_mode) for line in found.families
    }
    assert figures == {
        "ar": (pytest.approx(0.65), pytest.approx(0.025), "exact"),
        "mdm": (pytest.approx(0.65), pytest.approx(0.05), "bound"),
    }


def test_speeds_are_medians(tmp_path):
    ar, mdm = run(tmp_path / "a", "ar"), run(tmp_path / "m", "mdm")
    texts = [{"prompt": "a", "text": "ab", "tokens": 8, "seconds": s} for s in (4, 2, 1)]
    ar.folder.write_samples(texts)
    with ar.folder.metrics_file.open("a") as file:
        for speed in (10.0, 90.0, 100.0):
            line = {"kind": "train", "step": 1, "epochs": 1, "loss": 4, "tokens_per_second": speed}
            file.write(json.dumps(line) + "\n")
    found = compare_runs([ar, mdm])
    assert (found.families[0].train_speed, found.families[0].write_speed) == (90.0, 4.0)
    missing = found.families[1].missing
    assert missing["write_speed"].code is Missing.NOT_TIMED
    assert missing["train_speed"].code is Missing.NO_LOG
    assert any(text.startswith("AR and MDM: ") for text in missing_values(found))
    # A column that no family has a value for is not shown.
    heads = [head for head, _ in family_tables(found)]
    assert "training tok/s" in heads[1]
    assert not {"over seeds", "minimal pairs, %", "P (95 %)"} & {*heads[0], *heads[1]}

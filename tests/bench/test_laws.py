"""The benchmark of laws: what is held out, and its table. No figure is judged here."""

from __future__ import annotations

import numpy as np
import pytest

import laws
from epochal.scaling.forms import FORMS
from epochal.scaling.law import law_from_constants
from epochal.scaling.points import Points


def test_the_law_that_made_the_runs_predicts_the_largest(tmp_path, capsys):
    made = law_from_constants(
        "chinchilla", {"A": 336.0, "B": 771.0, "E": 1.85, "alpha": 0.32, "beta": 0.31}
    )
    sizes = (1e7, 4e7, 2e8, 1e9)
    n, d = (
        np.array(v) for v in zip(*[(n, n * r) for n in sizes for r in (5, 20, 80)], strict=True)
    )
    names = [f"row {number}" for number in range(len(n))]
    points = Points(n, d, d, made.predict(n, d), ["ar"] * len(n), names, names)
    found = {one.law: one for one in laws.scores("made up", "ar", points)}
    assert set(found) == set(FORMS)
    assert found["chinchilla"].extrapolation < 1e-4
    assert found["penalty"].reason == "refused"
    assert found["data-constrained"].chosen
    table = laws.markdown(list(found.values())).splitlines()
    assert table[0] == "| law | made up |"
    assert "| `penalty` | – |" in table
    assert "| `data-constrained` | **0.00** |" in table


def test_tables_that_are_not_there_are_skipped(tmp_path, capsys):
    names = [(name, len(points)) for name, _, points in laws.tables(tmp_path)]
    assert names == [("paper's grid, AR", 68), ("paper's grid, diffusion", 71)]
    assert "skipped: there is no" in capsys.readouterr().err
    folder = tmp_path / "samples/scaling"
    folder.mkdir(parents=True)
    (folder / "gadre_overtraining.csv").write_text(
        "params,tokens,train_data,loss_c4_val\n1e7,2e8,c4,3.5\n1e7,2e8,other,3.6\n"
    )
    last = list(laws.tables(tmp_path))[-2:]
    assert [(name, points.loss.tolist()) for name, _, points in last] == [
        ("one epoch, c4", pytest.approx([3.5])),
        ("one epoch, other", pytest.approx([3.6])),
    ]

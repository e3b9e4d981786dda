"""A family's best over regularisation: which runs stay at a point, and what is said of the rest."""

from __future__ import annotations

import json

import pytest

import epochal
from epochal.cli.main import main
from epochal.report.text import describe
from epochal.runs import RunRecord
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Candidate, DropReason, dominated_settings, setting_of
from epochal.scaling.read import read_csv, read_points
from made_runs import make_run


def run(loss, tokens=1e6, family="ar", **setting):
    return Candidate(family, 1e6, tokens, 1e5, loss, setting)


def test_the_best_setting_is_chosen_by_the_mean_over_its_seeds():
    runs = [run(3.0, dropout=0.0), run(3.6, dropout=0.0), run(3.2, dropout=0.1)]
    left_out = dominated_settings(
        [*runs, run(3.2, dropout=0.1), run(2.0, family="mdm", dropout=0.0)]
    )
    assert set(left_out) == {0, 1}
    assert left_out[0] == left_out[1]
    assert left_out[0].code is DropReason.DOMINATED_SETTING
    assert describe(left_out[0]) == (
        "not the best setting of its size, tokens and unique tokens: dropout=0.0 gave 3.3000 nats "
        "in the mean of 2 runs, dropout=0.1 3.2000 nats in the mean of 2 runs"
    )


def test_seeds_of_one_setting_all_stay_and_points_are_apart():
    assert dominated_settings([run(3.0, dropout=0.1), run(3.5, dropout=0.1)]) == {}
    assert dominated_settings([run(3.0, dropout=0.1), run(3.5, tokens=2e6, dropout=0.0)]) == {}
    # Other batches round one length to other whole steps.
    assert set(dominated_settings([run(3.0, batch=8), run(3.5, tokens=1.005e6, batch=16)])) == {1}


def test_what_is_no_setting():
    identity = {"seed": 1, "family": "ar", "train.epochs": 3, "corpus.train": "x", "eval.draws": 4}
    assert setting_of(identity | {"train.lr": 0.1, "eval.ema": True}) == {
        "train.lr": 0.1,
        "eval.ema": True,
    }


def with_setting(path, loss, **identity):
    make_run(path, "ar", [4.0, loss], evaluated=False)
    folder = RunRecord(path).folder
    folder.write_info(folder.read_info() | {"identity": {"seed": 0, **identity}})


def test_runs_of_folders(tmp_path, capsys):
    with_setting(tmp_path / "plain", 3.5, **{"train.hidden_dropout": 0.0})
    with_setting(tmp_path / "dropout", 3.1, **{"train.hidden_dropout": 0.1})
    points = read_points([tmp_path])
    assert points.loss.tolist() == [3.1]
    (dropped,) = points.dropped
    assert dropped.run.endswith("plain")
    assert dropped.loss == 3.5
    assert dropped.reason.values["best_setting"] == {"train.hidden_dropout": 0.1}
    assert (dropped.reason.values["loss"], dropped.reason.values["best_loss"]) == (3.5, 3.1)
    assert len(read_points([tmp_path], all_settings=True)) == 2


def test_a_column_of_settings(tmp_path, capsys):
    rows = [
        f"{n},{20 * n * e},{20 * n},{2 + 400 * n**-0.34 + 900 * (20 * n * e) ** -0.3 + plus},{name}"
        for n in (1e6, 4e6, 2e7, 1e8)
        for e in (1, 2, 4)
        for name, plus in (("plain", 0.1), ("dropout", 0.0))
    ]
    path = tmp_path / "p.csv"
    path.write_text("params,tokens,unique_tokens,val_loss,setting\n" + "\n".join(rows) + "\n")
    assert len(read_csv(path)) == 12
    best = epochal.fit(path, FitOptions(bootstraps=0)).families["ar"]
    assert len(best.points) == 12
    assert best.dropped[0].reason.values["setting"] == {"setting": "plain"}
    with pytest.raises(SystemExit) as end:
        main(["fit", str(path), "--all-settings", "--bootstraps", "0", "--json"])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out)["families"]["ar"]
    assert len(result["points"]["run"]) == 24
    assert result["dropped"] == []

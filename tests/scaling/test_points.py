"""Points from tables and from run folders; what is refused; laws in files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from planted import law, runs, write_csv

import epochal
from epochal.cli.main import main
from epochal.errors import DataError, OptionError, RunError, UserError
from epochal.recipe import recipe_tree
from epochal.runs import RunRecord
from epochal.scaling.law import read_laws, write_laws
from epochal.scaling.options import FitOptions
from epochal.scaling.points import DropReason, PointsNote
from epochal.scaling.read import read_csv, read_points
from made_runs import make_run

HEADER = "params,tokens,unique_tokens,val_loss\n"


def table(tmp_path, text):
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_units_and_families(tmp_path):
    points = read_csv(
        table(
            tmp_path, "n,tokens,unique_tokens,val_loss,family,run\n124M,1B,100M,3.5,diffusion,x\n"
        ),
        {"params": "n"},
    )
    assert points.params[0] == 124e6
    assert points.family == ["mdm"]
    assert points.run == ["x"]
    assert points.epochs[0] == 10


def test_without_unique_tokens_each_row_is_one_epoch(tmp_path):
    points = read_csv(table(tmp_path, "params,tokens,val_loss\n1e6,1e8,4\n"))
    assert points.epochs[0] == 1
    assert [n.code for n in points.notes] == [
        PointsNote.SINGLE_EPOCH_ASSUMED,
        PointsNote.FAMILY_ASSUMED,
    ]


@pytest.mark.parametrize("value", ["nan", "0", "-3", "inf", "", "abc"])
def test_a_loss_that_is_no_positive_number_names_its_row(tmp_path, value):
    text = HEADER + f"1e6,1e8,1e8,4\n1e6,2e8,1e8,{value}\n"
    with pytest.raises(DataError, match="row 2: val_loss"):
        read_csv(table(tmp_path, text))


def test_a_missing_column_is_named_with_what_there_is(tmp_path):
    with pytest.raises(DataError, match=r"no column 'val_loss'; it has .*columns: val_loss=NAME"):
        read_csv(table(tmp_path, "params,tokens,unique_tokens,loss\n1,1,1,1\n"))
    with pytest.raises(OptionError, match="columns = 'val': unknown column; columns are"):
        read_csv(table(tmp_path, HEADER + "1,1,1,1\n"), {"val": "val_loss"})
    with pytest.raises(DataError, match="unknown family 'xyz'"):
        read_csv(table(tmp_path, HEADER.strip() + ",family\n1e6,1e8,1e8,4,xyz\n"))
    with pytest.raises(DataError, match="there is no file"):
        read_csv(tmp_path / "none.csv")


def test_points_have_what_their_runs_have_in_common(tmp_path):
    for name, length in (("a", 64), ("b", 64), ("c", 32)):
        make_run(tmp_path / name, "ar", [4.0, 3.0])
        folder = RunRecord(tmp_path / name).folder
        info = folder.read_info()
        info["numbers"]["sequence_length"] = length
        info["numbers"]["vocabulary"] = 260
        folder.write_info(info)
    alike = read_points([tmp_path / "a", tmp_path / "b"])
    assert (alike.sequence_length, alike.vocabulary) == (64, 260)
    assert alike.recipes[str(tmp_path / "b")] == recipe_tree(RunRecord(tmp_path / "b").recipe)
    assert read_points([tmp_path], force=True).sequence_length is None


def test_runs_give_their_last_evaluation(tmp_path):
    make_run(tmp_path / "a", "ar", [4.0, 3.0, 3.2])
    make_run(tmp_path / "b", "mdm", [4.0, np.nan], status="diverged")
    make_run(tmp_path / "c", "mdm", [5.0, 4.0], status="stopped")
    points = read_points([tmp_path])
    assert points.loss.tolist() == [3.2]
    assert points.tokens[0] == pytest.approx(1e15 / 6000)
    reasons = {d.run.rsplit("/", 1)[1]: d.reason.code for d in points.dropped}
    assert reasons["b"] is DropReason.DIVERGED
    assert reasons["c"] is DropReason.NOT_FINISHED
    best = read_points([tmp_path], at="best")
    assert best.loss.tolist() == [3.0, 4.0]
    assert best.tokens[0] == pytest.approx(1e15 / 6000 * 0.67)


def test_runs_on_other_validation_tokens_are_refused_unless_forced(tmp_path):
    make_run(tmp_path / "a", "ar", [4.0, 3.0])
    make_run(tmp_path / "b", "ar", [4.0, 3.0], corpus="other")
    with pytest.raises(RunError, match="differ in validation set"):
        read_points([tmp_path])
    assert len(read_points([tmp_path], force=True)) == 2


def test_runs_of_other_sequence_lengths_are_refused_unless_forced(tmp_path):
    make_run(tmp_path / "a", "ar", [4.0, 3.0])
    make_run(tmp_path / "b", "ar", [4.0, 3.0])
    for name, length in (("a", 101), ("b", 2048)):
        info = json.loads((tmp_path / name / "run.json").read_text())
        info["numbers"]["sequence_length"] = length
        (tmp_path / name / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match=r"differ in sequence length \(101 and 2048\)"):
        read_points([tmp_path])
    assert len(read_points([tmp_path], force=True)) == 2


def test_places_without_runs(tmp_path):
    with pytest.raises(RunError, match="holds no runs"):
        read_points([tmp_path])
    with pytest.raises(RunError, match="there is no folder"):
        read_points([tmp_path / "none"])


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_law_survives_its_file(tmp_path, suffix):
    report = epochal.fit(runs(law(), noise=0.005), FitOptions(bootstraps=30))
    path = tmp_path / f"law.{suffix}"
    report.save(path)
    back, fit = read_laws(path)["ar"], report.families["ar"]
    assert back.constants == pytest.approx(fit.constants)
    assert back.fitted_range == fit.fitted_range
    at = (1e8, 1e10, 1e8)
    assert back.predict_interval(*at) == pytest.approx(fit.predict_interval(*at), rel=1e-6)
    fixed = FitOptions(fix=path, bootstraps=0)
    again = epochal.fit(runs(law(), noise=0.005), fixed).families["ar"]
    assert set(again.fixed) == {"A", "B", "E", "alpha", "beta"}
    assert again.constants["A"] == pytest.approx(fit.constants["A"])
    with pytest.raises(UserError, match=r"\.toml or \.json"):
        report.save(tmp_path / "law.txt")


def test_constants_written_by_hand(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("E = 1.8\n[mdm]\nA = 300\n", encoding="utf-8")
    points = {family: runs(law(family=family), noise=0.005) for family in ("ar", "mdm")}
    for family, known in (("ar", {"E": 1.8}), ("mdm", {"E": 1.8, "A": 300.0})):
        options = FitOptions(fix=path, law="chinchilla", max_epochs=1, bootstraps=0)
        found = epochal.fit(points[family], options).families[family]
        assert {name: found.constants[name] for name in found.fixed} == pytest.approx(known)
    for text, message in (
        ("", "holds no constants"),
        ("E = '1.8'\n", "E = '1.8' is not a number"),
        ("E = 1.8\n[ar]\nA = true\n", "A = True is not a number"),
        ("E = 1.8\n[diffusion]\nA = 1\n", r"\[diffusion\] is not a family"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            epochal.fit(points["ar"], FitOptions(fix=path))
    path.write_text("x = 'y'\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no law"):
        read_laws(path)


def test_the_command(tmp_path, capsys):
    path = write_csv(tmp_path / "p.csv", runs(law(), noise=0.003))
    out = tmp_path / "law.toml"
    with pytest.raises(SystemExit) as end:
        main(["fit", str(path), "--json", "--bootstraps", "40", "--out", str(out)])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out)["families"]["ar"]
    assert set(result["constants"]) == {"A", "B", "E", "alpha", "beta", "R_D", "R_N"}
    low, high = result["intervals"]["R_D"]
    assert low < 31.2 < high
    assert result["objective"] > 0
    assert out.exists()
    with pytest.raises(SystemExit) as end:
        main(["fit", str(path), "--bootstraps", "40"])
    text = capsys.readouterr().out
    assert "R_D" in text
    assert "95 % interval" in text
    with pytest.raises(SystemExit) as end:
        main(["fit", str(tmp_path / "q.csv")])
    assert end.value.code == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "option", "value"),
    [
        ("points", "at", "best"),
        ("points", "force", True),
        ("points", "columns", {"params": "n"}),
        ("points", "where", {"family": "ar"}),
        ("points", "all_settings", True),
        ("runs", "columns", {"params": "n"}),
        ("runs", "where", {"family": "ar"}),
        ("table", "at", "best"),
        ("table", "force", True),
    ],
)
def test_fit_refuses_options_that_its_source_does_not_take(tmp_path, source, option, value):
    csv = table(tmp_path, HEADER + "1e6,1e8,1e8,4\n")
    sources = {"points": read_csv(csv), "runs": tmp_path, "table": csv}
    with pytest.raises(OptionError) as error:
        epochal.fit(sources[source], FitOptions(**{option: value}))
    assert (error.value.name, error.value.value) == (option, value)


def test_laws_of_version_0_1_0_have_the_values_of_their_old_keys(tmp_path):
    """`doubt` and `fitted` are `extrapolation_error` and `fitted_range` today."""
    fitted = {"params": (1e6, 1e9), "tokens": (1e8, 1e10)}
    planted = replace(law(), extrapolation_error=0.7, fitted_range=fitted)
    write_laws(tmp_path / "law.json", [planted])
    text = (tmp_path / "law.json").read_text()
    old = text.replace("extrapolation_error", "doubt").replace("fitted_range", "fitted")
    assert "fitted_range" in text
    (tmp_path / "old.json").write_text(old)
    today, then = read_laws(tmp_path / "law.json")["ar"], read_laws(tmp_path / "old.json")["ar"]
    assert then.fitted_range == today.fitted_range == fitted
    assert then.extrapolation_error == today.extrapolation_error == 0.7

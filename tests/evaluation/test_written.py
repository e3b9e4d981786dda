"""A student of text that its teachers write."""

from __future__ import annotations

import json

import pytest

from epochal.cli.main import main
from epochal.data.blend import open_train
from epochal.errors import RecipeError, UserError
from epochal.evaluation.written import distill_texts
from epochal.runs import RunRecord
from tiny_runs import final_files


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_the_student_reads_what_the_teachers_wrote(tiny_pair, tmp_path, family):
    """Teachers of both families; the corpus keeps its own first tokens and its share of rows."""
    teachers = [tiny_pair / family, tiny_pair / ("mdm" if family == "ar" else "ar")]
    changes = {"distill.share": 0.75, "train.steps": 4, "data.unique_tokens": 900}
    record = distill_texts(teachers, tmp_path / "student", 3, None, changes)
    assert record.family == family
    assert record.status == "finished"
    folder = tmp_path / "student-texts"
    lines = (folder / "texts.jsonl").read_text().splitlines()
    assert 0 < len(lines) <= 6
    blend = open_train(folder / "blend.txt")
    assert blend.weights == (0.25, 0.75)
    own, written = blend.stores
    assert own.unique_tokens == 900
    assert written.documents == len(lines)
    source = RunRecord(teachers[0])
    whole = open_train(f"{source.data.corpus}/train")
    assert own.tokens[:900].tolist() == whole.tokens[:900].tolist()
    assert record.numbers["unique_tokens"] == 900 + written.unique_tokens
    before = final_files(record.path)
    assert distill_texts(teachers, tmp_path / "student", 3, None, changes).path == record.path
    assert final_files(record.path) == before
    with pytest.raises(UserError, match="with other settings"):
        distill_texts(teachers, tmp_path / "student", 4, None, changes)


def test_the_command_line(tiny_pair, tmp_path, capsys):
    words = ["distill", str(tiny_pair / "ar"), "--texts", "2", "--out", str(tmp_path / "one")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "train.steps=2", "distill.share=1", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["family"] == "ar"
    with pytest.raises(SystemExit) as ended:
        main([*words, "distill.share=0"])
    assert ended.value.code == 2
    assert "leaves no row" in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"distill\.temprature"):
        distill_texts([tiny_pair / "ar"], tmp_path / "x", 2, None, {"distill.temprature": 2})

"""Archives of records: what is kept, that nothing of a machine is, and that reports read them."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from epochal.cli.main import main
from epochal.comparison import nll_difference
from epochal.errors import RunError
from epochal.report import write_report
from epochal.runs import RunRecord
from epochal.runs.pack import pack_runs, unpacked
from made_runs import make_run


@pytest.fixture
def folder(tmp_path):
    """A sweep with a run of each family, one in progress and one that diverged."""
    place = tmp_path / "sweep"
    make_run(place / "a", "ar", [4.0, 3.0, 3.5])
    b = make_run(place / "b", "mdm", [5.0, 4.0, 3.2])
    make_run(place / "c", "mdm", [5.0], status="running", evaluated=False)
    make_run(place / "d", "ar", [9.0], status="diverged", evaluated=False)
    log = b.folder.metrics_file
    train = [{"kind": "train", "step": n, "epochs": n, "loss": 1.0} for n in range(100)]
    log.write_text(log.read_text() + "".join(json.dumps(line) + "\n" for line in train))
    (place / "b" / "model.safetensors").write_bytes(b"weights")
    b.folder.write_recipe(replace(b.recipe, run_dir=(place / "b").as_posix()))
    tuned = {"path": str(place), "run": str(place / "a"), "searches": []}
    (place / "tune.json").write_text(json.dumps(tuned))
    return place


def test_records_hold_what_a_comparison_needs(folder, tmp_path):
    made = pack_runs(folder, tmp_path / "sweep.zip")
    assert (made.runs, made.left_out) == (3, ["c"])
    before = nll_difference(RunRecord(folder / "b"), RunRecord(folder / "a"))
    with unpacked([made.path]) as [place]:
        first, second = RunRecord(place / "a"), RunRecord(place / "b")
        assert nll_difference(second, first) == before
        assert first.metrics("eval") == RunRecord(folder / "a").metrics("eval")
        steps = [line["step"] for line in second.metrics("train")]
        assert steps[0] == 0
        assert steps[-1] == 99
        assert len(steps) <= 21
        assert second.recipe.run_dir == "b"
        assert np.array_equal(
            second.document_sums(second.evaluation("best"))[0],
            RunRecord(folder / "b").document_sums(second.evaluation("best"))[0],
        )


def test_records_name_no_machine_and_hold_no_weights(folder, tmp_path):
    made = pack_runs(folder, tmp_path / "sweep.zip")
    with zipfile.ZipFile(made.path) as archive:
        names = archive.namelist()
        texts = [archive.read(name).decode() for name in names if not name.endswith(".npz")]
    assert "tune.json" in names
    assert not [name for name in names if "safetensors" in name or "c/" in name]
    assert not [text for text in texts if re.search(r"""["'](/|[A-Z]:)""", text)]
    assert str(tmp_path) not in "".join(texts)


def test_the_same_runs_give_the_same_bytes(folder, tmp_path):
    first = pack_runs(folder, tmp_path / "1.zip").path.read_bytes()
    (folder / "a" / "run.json").touch()
    assert pack_runs(folder, tmp_path / "2.zip").path.read_bytes() == first


def test_a_report_reads_records_like_the_folder(folder, tmp_path):
    pack_runs(folder, tmp_path / "records" / "sweep.zip")
    page = tmp_path / "r.html"
    written = write_report([tmp_path / "records"], page)
    assert sorted(written.runs) == ["a", "b", "d"]
    assert "/tmp" not in page.read_text(encoding="utf-8")


def test_bad_input_ends_in_one_sentence(folder, tmp_path, capsys):
    with pytest.raises(RunError, match=r"end in \.zip"):
        pack_runs(folder, tmp_path / "records")
    with pytest.raises(RunError, match="no finished"):
        pack_runs(folder / "c", tmp_path / "c.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "bad.zip"), "--out", str(tmp_path / "r.html")])
    assert ended.value.code == 2
    assert "cannot be read" in capsys.readouterr().err

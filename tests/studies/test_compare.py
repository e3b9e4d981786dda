"""All families from text to page, on real text."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

import epochal.evaluation.evaluate as evaluate_module
import epochal.studies.compare as compare_module
from epochal.cli.main import main
from epochal.errors import NotFiniteError, RecipeError, RunError, UserError
from epochal.report import write_report
from epochal.results import to_json
from epochal.runs import RunRecord
from epochal.studies.compare import compare, compare_existing
from epochal.studies.options import CompareOptions
from epochal.studies.quickstart import quickstart
from epochal.training.step import Stepper
from local_tasks import write_babylm
from made_runs import make_run
from tiny_runs import final_files, overrides


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("a step was made")

    monkeypatch.setattr(Stepper, "__call__", refuse)


def test_what_comes_out(tiny_pair):
    found = json.loads((tiny_pair / "comparison.json").read_text())
    assert [run["family"] for run in found["runs"]] == ["ar", "mdm"]
    assert found["pairs"][0]["families"] == ["ar", "mdm"]
    assert set(found["leaders"]) <= {"ar", "mdm"}
    for family in ("ar", "mdm"):
        record = RunRecord(tiny_pair / family)
        assert record.status == "finished"
        result = record.evaluation("best")
        assert result.step == record.info["best"]["step"]
        assert len(record.samples()) == 3
        assert all(s["text"].startswith(s["prompt"]) for s in record.samples())
    ar, mdm = (RunRecord(tiny_pair / family) for family in ("ar", "mdm"))
    assert ar.info["corpus"] == mdm.info["corpus"]
    assert ar.evaluation("best").tokens_scored == mdm.evaluation("best").tokens_scored


def test_both_families_learn(tiny_pair):
    for family in ("ar", "mdm"):
        nll = [line["nll_nats_per_token"] for line in RunRecord(tiny_pair / family).metrics("eval")]
        assert min(nll) < nll[0] - 0.05
        assert nll[0] < 6.5  # ln 300 is 5.7


def test_what_is_done_is_not_done_again(tiny_pair, tiny_corpus, no_training):
    values = overrides(tiny_corpus, tiny_pair, train__steps=120, eval__every="10 steps")
    del values["run_dir"]
    before = final_files(tiny_pair / "mdm")
    stamp = (tiny_pair / "mdm/evaluations/best-stratified.json").stat().st_mtime_ns
    again = compare(None, values, CompareOptions(out=tiny_pair))
    assert to_json(again) == json.loads((tiny_pair / "comparison.json").read_text())
    assert final_files(tiny_pair / "mdm") == before
    assert (tiny_pair / "mdm/evaluations/best-stratified.json").stat().st_mtime_ns == stamp


def test_runs_that_are_there(tiny_pair, no_training):
    found = compare_existing([tiny_pair / "ar", tiny_pair / "mdm"])
    assert to_json(found) == json.loads((tiny_pair / "comparison.json").read_text())


def test_minimal_pairs_and_texts_are_added_to_runs_that_lack_them(tiny_pair, tmp_path, no_training):
    """A folder of runs is read as its runs; what is there is not made again."""
    shutil.copytree(tiny_pair, tmp_path / "runs")
    (tmp_path / "runs" / "ar" / "samples.json").unlink()
    data = write_babylm(tmp_path / "data")
    found = compare_existing([tmp_path / "runs"], pairs=data)
    assert len(found.pair_tasks) == 5
    assert [line.pairs_mode for line in found.families] == ["exact", "bound"]
    assert all(0 <= line.pairs <= 1 and line.write_speed > 0 for line in found.families)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "downstream", None)
        assert to_json(compare_existing([tmp_path / "runs"], pairs=data)) == to_json(found)


def test_a_result_by_the_papers_estimator_is_not_taken_for_ours(tiny_pair, tmp_path):
    shutil.copytree(tiny_pair, tmp_path / "pair")
    place = tmp_path / "pair" / "mdm" / "evaluations"
    papers = json.loads((place / "best-stratified.json").read_text()) | {"estimator": "paper"}
    (place / "best-paper.json").write_text(json.dumps(papers))
    (place / "best-stratified.json").unlink()
    compare_existing([tmp_path / "pair" / "ar", tmp_path / "pair" / "mdm"], draws=2)
    assert json.loads((place / "best-stratified.json").read_text())["draws"] == 2


def test_what_cannot_be_compared(tiny_pair, tiny_corpus, tmp_path):
    for again in ([], [tiny_pair / "ar"]):
        with pytest.raises(RunError, match="at least two"):
            compare_existing([tiny_pair / "ar", *again])
    with pytest.raises(RecipeError, match="trains several families"):
        compare(None, overrides(tiny_corpus, tmp_path, family="ar"))
    with pytest.raises(RecipeError, match=r"`block.size` .* family block, which ar or mdm does"):
        compare(None, ["train.epochs=1", "block.size=8"])
    for names, message in ((("ar",), "families = 'ar'"), (("ar", "x"), "`family` = 'x'")):
        with pytest.raises(UserError, match=message):
            compare(None, ["train.epochs=1"], CompareOptions(families=names))


def test_the_page_has_both(tiny_pair, tmp_path):
    page = write_report([tiny_pair], tmp_path / "page.html")
    text = page.path.read_text(encoding="utf-8")
    assert page.runs == ["ar", "mdm"]
    assert "bpe:300" in text
    assert "Texts the models wrote" in text


def test_quickstart_on_a_text_of_ones_own(tmp_path, tiny_corpus):
    source = tiny_corpus.parent / "text.jsonl"
    small = ["train.epochs=1", "train.global_batch_size=64", "model.d_model=24", "eval.every=50%"]
    result = quickstart(source, small, out=tmp_path / "mine")
    assert result.report == tmp_path / "mine" / "report.html"
    assert result.report.stat().st_size > 20_000
    # The text is shorter than the recipe's 60,000 unique tokens: all of it was used.
    unique = result.comparison.runs[0].unique_tokens
    metadata = json.loads((tmp_path / "mine/corpus/train.json").read_text())
    assert unique == metadata["unique_tokens"] < 60_000


def test_quickstart_on_one_plain_file(tmp_path, tiny_corpus):
    lines = (tiny_corpus.parent / "text.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"].strip() for line in lines]
    (tmp_path / "book.txt").write_text("\n\n".join(texts))
    small = ["train.steps=2", "model.d_model=24", "data.unique_tokens=4k"]
    result = quickstart(tmp_path / "book.txt", small, out=tmp_path / "mine")
    assert result.report.exists()
    assert result.comparison.runs[0].unique_tokens == 4000


def test_quickstart_tells_a_mistake_before_any_work(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown recipe key `train.epoch`"):
        quickstart(None, ["train.epoch=3"], out=tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_a_run_that_diverged_before_any_validation_is_told_at_once(tiny_pair, tmp_path):
    make_run(tmp_path / "gone", "mdm", [], evaluated=False, status="diverged")
    with pytest.raises(RunError, match=r"gone \(diverged\) has no validation result yet"):
        compare_existing([tiny_pair / "ar", tmp_path / "gone"])


def test_a_model_that_gives_no_finite_loss_is_left_out_and_listed(tiny_pair, tmp_path):
    for name in ("ar", "mdm", "broken"):
        shutil.copytree(tiny_pair / name.replace("broken", "ar"), tmp_path / name)
    for file in (tmp_path / "broken" / "evaluations").iterdir():
        file.unlink()
    paths = [tmp_path / name for name in ("ar", "mdm", "broken")]

    def not_finite(self, *given):
        result, found = real(self, *given)
        return dataclasses.replace(result, nll_nats_per_token=float("nan")), found

    real = evaluate_module.Scorer.score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_module.Scorer, "score", not_finite)
        with pytest.raises(NotFiniteError, match=r"checkpoint best of .*broken is nan"):
            evaluate_module.evaluate(tmp_path / "broken")
        found = compare_existing(paths)
    assert found.left_out == [str(tmp_path / "broken")]
    assert [run.name for run in found.runs] == ["ar", "mdm"]


@pytest.mark.parametrize(
    "words", [["--out", "x"], ["--restart"], ["--families", "ar"], ["--family", "ar"]]
)
def test_existing_runs_refuse_options_of_training(tiny_pair, words, capsys):
    runs = [str(tiny_pair / family) for family in ("ar", "mdm")]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *runs, *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err

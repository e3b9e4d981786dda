"""The page of a sweep: laws, plan, study; every section where there are data, and only there."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import partial
from urllib.parse import unquote

import numpy as np
import pytest
from made_sweep import CONSTANTS, UNIQUE, make_sweep, pairs

from epochal.errors import RunError, UserError
from epochal.recipe import load_recipe
from epochal.report import write_report
from epochal.report.collect import (
    FrontierLead,
    NoVerdict,
    frontier_leads,
    frontiers,
    group_runs,
    read_runs,
)
from epochal.report.drawing import FORMATS
from epochal.report.laws import find_laws, find_plan
from epochal.report.options import ReportOptions
from epochal.scaling.options import FitOptions
from made_runs import make_run

STUDY = {
    "recommendation": "Train <b>diffusion</b>.",
    "budget": "20 min",
    "stages": [{"name": "probe", "status": "done", "seconds": 61.0, "note": "12 runs"}],
    "held_out": {
        "run": "mdm-6M-64ep",
        "predicted": 3.1,
        "interval": [3.0, 3.2],
        "seen": 3.15,
    },
}
ALL = ["epochs", "flops", "isoflop", "contours", "repetition", "quality", "plan"]


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Pages with fits of 60 resamples, not 500."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epochal.report.laws.FitOptions", partial(FitOptions, bootstraps=60))
        yield


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    make_sweep(folder)
    (folder / "study.json").write_text(json.dumps(STUDY))
    return folder


@pytest.fixture(scope="module")
def page(sweep, tmp_path_factory):
    """(Report, source) of the whole sweep."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    made = write_report([sweep], out, ReportOptions(figures=("svg",)))
    return made, made.path.read_text(encoding="utf-8")


def tables(source):
    """Figure's name → rows of the CSV that the page offers."""
    found = re.findall(
        r'download="([\w-]+)\.csv" href="data:text/csv;charset=utf-8,([^"]*)"', source
    )
    return {name: list(csv.DictReader(io.StringIO(unquote(text)))) for name, text in found}


def test_a_sweep_has_every_section(page):
    made, source = page
    assert made.sections == ALL
    for anchor in ("corpus", "runs", "epochs", "compute", "isoflop", "contours", "repetition"):
        assert source.count(f'id="{anchor}"') == 1
    for anchor in ("fit", "plan", "held-out", "study", "recipes"):
        assert source.count(f'<section id="{anchor}">') == 1
        assert f'<a href="#{anchor}">' in source
    assert "bpe:8192 (8,192)" in source
    assert "1.2%" in source


def test_constants_on_the_page_are_those_that_were_planted(page):
    """With 0.4 % of noise the half-lives of data come back, and the page prints their intervals."""
    _, source = page
    for family, title in (("ar", "autoregressive"), ("mdm", "masked diffusion")):
        told = re.search(
            rf"<li>{title.capitalize()}: half-life ([\d.]+) repetitions "
            r"\(95 %: ([\d.]+) to ([\d.]+)\)",
            source,
        )
        value, low, high = map(float, told.groups())
        planted = np.log(2) * CONSTANTS[family]["R_D"]
        assert low < value < high
        assert value == pytest.approx(planted, rel=0.25)


def test_the_numbers_behind_every_figure_are_the_records(page, sweep):
    _, source = page
    found = tables(source)
    assert set(found) == set(re.findall(r'data-name="([\w-]+)"', source))
    seen = {(row["run"], float(row["seen"])) for row in found["predicted"]}
    runs = {run.label: run for run in read_runs([sweep])}
    assert len(seen) == 59  # 30 of each family, one held out
    for name, loss in seen:
        assert loss == pytest.approx(runs[name].curve.nll[-1], rel=1e-9)
    losses = [row for row in found["epochs"] if row["what"] == "validation"]
    assert len(losses) == 20 * len(runs)
    worth = [row for row in found["repetition"] if row["family"] == "ar"]
    assert float(worth[0]["worth"]) == pytest.approx(1.0)
    # 1 + R*_D is what any number of epochs is worth at most.
    assert float(worth[-1]["worth"]) < 1 + 1.25 * CONSTANTS["ar"]["R_D"]


def test_the_held_out_run_is_not_in_the_fit(page):
    _, source = page
    names = {row["run"] for row in tables(source)["predicted"]}
    assert "mdm-6M-64ep" not in names
    assert "mdm-6M-16ep" in names
    assert "3.000 to 3.200" in source


def test_what_the_study_says_is_text(page):
    _, source = page
    assert "Train &lt;b&gt;diffusion&lt;/b&gt;." in source
    assert "12 runs" in source


def test_the_plan_is_that_of_the_laws_and_its_recipes_can_be_trained(page, sweep):
    _, source = page
    runs = read_runs([sweep])
    laws = find_laws(runs, STUDY, "data-constrained", None)
    plan = find_plan(runs, laws, None)
    assert plan.unique_tokens == UNIQUE
    for one in plan.families:
        assert f"{one.loss:.3f} ({one.interval[0]:.3f} to {one.interval[1]:.3f})" in source
    recipes = re.findall(r"<summary>Recipe: the best .*?<pre>(.*?)</pre>", source, flags=re.DOTALL)
    assert len(recipes) == 2
    for text in recipes:
        path = sweep.parent / "recipe-of-the-page.toml"
        path.write_text(text.replace("&#34;", '"'), encoding="utf-8")
        recipe = load_recipe(path)
        assert recipe.data.unique_tokens == UNIQUE
    path.unlink()


def test_every_figure_is_also_a_file(page):
    made, source = page
    names = set(tables(source))
    assert {path.name for path in made.figures} == {
        f"{name}.{suffix}" for name in names for suffix in ("svg", "csv")
    }
    for path in made.figures:
        content = path.read_bytes()
        assert len(content) > 300
        if path.suffix == ".svg":
            # Print colours, not those that stand for the page's.
            assert b"var(--" not in content
            assert b"#00000" not in content.replace(b"#000000", b"")


def test_all_formats_twice_the_same(tmp_path):
    make_run(tmp_path / "ar", "ar", [4.0, 3.5, 3.3])
    made = [
        write_report([tmp_path / "ar"], tmp_path / name / "p.html", ReportOptions(figures=FORMATS))
        for name in ("a", "b")
    ]
    assert len(made[0].figures) == 2 * (len(FORMATS) + 1)
    for one, other in zip(made[0].figures, made[1].figures, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        beginning = {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG", ".csv": b"run,"}
        assert one.read_bytes().startswith(beginning[one.suffix])


def test_the_same_runs_give_the_same_bytes(page, sweep, tmp_path):
    _, source = page
    again = write_report([sweep], tmp_path / "again.html")
    assert again.path.read_text(encoding="utf-8") == source


def test_one_family_alone_has_its_law_and_no_verdict(sweep, tmp_path):
    made = write_report([*sweep.glob("mdm-*")], tmp_path / "p.html", ReportOptions(flops=1e15))
    assert made.sections == ALL
    source = made.path.read_text()
    assert "The plan for 10¹⁵ FLOPs on 10M unique tokens" in source
    assert "contours-mdm" in source
    assert "contours-ar" not in source
    assert made.verdicts[0].code is NoVerdict.ONE_FAMILY


def test_two_runs_have_curves_only(tmp_path):
    make_run(tmp_path / "ar", "ar", [4.0, 3.5, 3.3])
    make_run(tmp_path / "mdm", "mdm", [5.0, 4.5, 4.3])
    made = write_report([tmp_path], tmp_path / "p.html")
    assert made.sections == ["epochs", "flops"]
    source = made.path.read_text()
    assert '<section id="fit">' not in source
    assert '<section id="plan">' not in source


def test_runs_that_determine_no_law_are_told_why(tmp_path):
    for number in range(6):
        make_run(tmp_path / f"ar{number}", "ar", [4.0, 3.5, 3.3 + number / 100], seed=number)
    made = write_report([tmp_path], tmp_path / "p.html")
    assert made.sections == ["epochs", "flops"]
    assert re.search(r"<p>No law for autoregressive: .+</p>", made.path.read_text())


def test_frontiers_and_where_they_cross(tmp_path):
    """AR ends at 3.3 by 10¹⁵; diffusion comes below it with the point at 3·10¹⁵."""
    for seed in (0, 1):
        make_run(tmp_path / f"ar{seed}", "ar", [4.0, 3.5, 3.3 + seed], flops=1e15, seed=seed)
        make_run(tmp_path / f"mdm{seed}", "mdm", [5.0, 3.6, 3.2 + seed], flops=3e15, seed=seed)
    groups = group_runs(read_runs([tmp_path]))
    found = frontiers(groups)
    assert found["ar"][1].tolist() == [4.0, 3.5, 3.3]
    assert frontier_leads(groups) == [FrontierLead("mdm", "ar", pytest.approx(3e15))]
    source = write_report([tmp_path], tmp_path / "p.html").path.read_text()
    assert ("frontiers cross at 3×10¹⁵" in source) == (
        groups[0].comparison.pairs[0].crossing is None
    )


def test_frontiers_that_do_not_cross(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"ar{seed}", "ar", [4.0, 3.5, 3.3], seed=seed)
        make_run(tmp_path / f"mdm{seed}", "mdm", [5.0, 4.0, 3.4], seed=seed)
    assert frontier_leads(group_runs(read_runs([tmp_path]))) == [FrontierLead("ar", "mdm", None)]


def test_mistakes_are_told_before_any_work(sweep, tmp_path):
    with pytest.raises(UserError, match="give pdf, svg or png"):
        write_report([sweep], tmp_path / "p.html", ReportOptions(figures=("gif",)))
    with pytest.raises(UserError, match="law"):
        write_report([sweep], tmp_path / "p.html", ReportOptions(law="moore"))
    assert not (tmp_path / "p.html").exists()
    broken = tmp_path / "broken"
    make_run(broken / "ar", "ar", [4.0, 3.5])
    (broken / "study.json").write_text("{")
    with pytest.raises(RunError, match=r"study\.json cannot be read"):
        write_report([broken], tmp_path / "p.html")


def test_the_sweep_is_what_it_says():
    assert len(pairs()) == 30

"""What a reader would stumble over: numbers, keys, commands to copy, recipes, odd names."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from made_sweep import UNIQUE, make_sweep

from epochal.recipe import load_recipe
from epochal.report import write_report
from epochal.report.collect import read_runs
from epochal.report.curve_table import thinned
from epochal.report.facts import flatten
from epochal.report.figures import critical_words
from epochal.report.law_figures import contour_plots, half_life_text
from epochal.report.law_section import find_laws, find_plan
from epochal.report.plan_section import plan_recipes
from epochal.report.svg import HALF, NARROW, Plot, inline
from epochal.report.text.format import powers
from epochal.report.verdicts import group_runs
from epochal.scaling.plan_recipes import like_run
from made_runs import make_run

SETTINGS = {"lr": 3e-3, "min_lr": 1e-4, "global_batch_size": 32, "hidden_dropout": 0.1}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("AR 5.76e+16 FLOPs, diffusion 2.3e+17.", "AR 5.76×10¹⁶ FLOPs, diffusion 2.3×10¹⁷."),
        ("only below 8B FLOPs, up to 2T FLOPs", "only below 8×10⁹ FLOPs, up to 2×10¹² FLOPs"),
        ("8B parameters, 950 FLOPs", "8B parameters, 950 FLOPs"),
        ("run `epochal eval a/1e+16` at 1e+16", "run `epochal eval a/1e+16` at 10¹⁶"),
        ("the run lr-1e-3 and runs/1e-4/x", "the run lr-1e-3 and runs/1e-4/x"),
    ],
)
def test_numbers_in_sentences_are_written_as_everywhere_on_the_page(text, written):
    assert powers(text) == written


def test_settings_have_no_digits_that_say_nothing():
    tree = {"flops": 25e9, "lr": 0.003, "epochs": 10.0, "seed": 1234, "share": 0.05012549714672504}
    values = dict(flatten(tree, digits=4))
    assert list(values.values()) == ["2.5×10¹⁰", "0.003", "10", "1,234", "0.05013"]
    # Of two settings that differ, the difference is seen.
    assert flatten({"flops": 123456789.0}) == [("flops", "123456789")]


def test_no_key_is_cut_off_on_a_narrow_screen():
    keys = [("ar", "o", "autoregressive"), ("mdm", "D", "masked diffusion")]
    keys.append(("", "--", "if all were fresh"))
    plot = Plot(
        name="p",
        label="",
        title="t",
        paint=lambda axes, canvas: None,
        header=(),
        rows=(),
        keys=keys,
    )
    narrow = inline(plot).split('class="drawing narrow"')[1]
    places = re.findall(r"translate\(([\d.]+) ([\d.]+)\)[^>]*>(?:autor|masked|if all)", narrow)
    if not places:  # matplotlib writes x and y as attributes, too
        places = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>(?:autor|masked|if all)', narrow)
    assert len(places) == 3
    assert all(float(x) < NARROW.width - 100 for x, _ in places)
    assert len({y for _, y in places}) == 2
    assert HALF.width > NARROW.width


def test_commands_can_be_pasted_whatever_a_run_is_called(tmp_path):
    name = "ärger \"quoted\" 'run' <script>alert(1)<b>"
    make_run(tmp_path / name, "ar", [4.0, 3.5], evaluated=False)
    make_run(tmp_path / "mdm", "mdm", [5.0, 4.5], evaluated=False)
    made = write_report([tmp_path], tmp_path / "p.html")
    source = made.path.read_text(encoding="utf-8")
    assert source.count("<script>") == 1
    assert "<b>" not in source.split("<main>")[1].replace("<b>The", "")
    told = [unescape(text) for text in re.findall(r"<code>(epochal eval .*?)</code>", source)]
    assert {shlex.split(text)[2] for text in told} == {str(tmp_path / n) for n in (name, "mdm")}
    assert all(len(shlex.split(text)) == 3 for text in told)


def test_runs_of_two_corpora_are_told_apart(tmp_path):
    for name, corpus in (("one", "a"), ("two", "b")):
        make_run(tmp_path / f"ar-{name}", "ar", [4.0, 3.5], corpus=corpus)
        make_run(tmp_path / f"mdm-{name}", "mdm", [5.0, 4.5], corpus=corpus)
    source = write_report([tmp_path], tmp_path / "p.html").path.read_text(encoding="utf-8")
    assert "<h1>4 runs on 100k unique tokens of 2 corpora</h1>" in source
    for name in ("one", "two"):
        assert f"<strong>ar-{name} and mdm-{name}:</strong>" in source
    assert "full, dashed, dotted" in source
    assert "their NLL does not compare" in source
    alone = write_report([*tmp_path.glob("*-one")], tmp_path / "q.html").path.read_text("utf-8")
    assert "dashed, dotted" not in alone
    assert "does not compare" not in alone


def test_a_run_without_any_validation_is_not_sent_to_eval(tmp_path):
    make_run(tmp_path / "ar", "ar", [], evaluated=False, status="diverged")
    make_run(tmp_path / "mdm", "mdm", [5.0, 4.5])
    source = write_report([tmp_path], tmp_path / "p.html").path.read_text(encoding="utf-8")
    assert "ar has not come to a validation" in source
    assert f"epochal eval {tmp_path / 'ar'}" not in source


def test_the_critical_point_is_told_or_that_there_is_none(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"ar{seed}", "ar", [4.0, 3.5, 3.3], seed=seed)
        make_run(tmp_path / f"mdm{seed}", "mdm", [5.0, 4.0, 3.4], seed=seed)
    assert "no critical compute within these runs" in critical_words(
        group_runs(read_runs([tmp_path]))
    )
    for seed in (0, 1):
        make_run(tmp_path / f"mdm{seed}", "mdm", [3.9, 3.4, 3.2], seed=seed)
    assert "at every compute" in critical_words(group_runs(read_runs([tmp_path])))
    # One family has no critical point, and nothing is said.
    assert critical_words(group_runs(read_runs(tmp_path.glob("ar*")))) == ""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """(runs, laws) of a sweep whose runs have settings of their own."""
    folder = tmp_path_factory.mktemp("sweep")
    make_sweep(folder, evaluated=False)
    run = load_recipe(None, {"train.epochs": 4, "model.size": "7M", "data.corpus": "my corpus"})
    data = replace(run.data, sequence_length=128, unique_tokens=UNIQUE)
    run = replace(run, data=data, train=replace(run.train, **SETTINGS), run_dir="x")
    for one in read_runs([folder]):
        one.record.folder.write_recipe(replace(run, family=one.family))
    runs = read_runs([folder])
    return runs, find_laws(runs, {}, "data-constrained", None)


def test_a_half_life_beyond_all_runs_is_told_as_such(sweep):
    fit = sweep[1].families["mdm"]
    changed = fit.theta.copy()
    changed[fit.form.index("R_D")] = np.log(1e6)
    low = fit.intervals["R_D"][0]
    longer = replace(fit, theta=changed, intervals=fit.intervals | {"R_D": (low, None)})
    assert longer.half_life > 1e5
    assert re.fullmatch(
        r"half-life at least [\d.]+ repetitions \(95 %\); too long to be seen in runs of up to 256 "
        "epochs",
        half_life_text(longer),
    )
    assert re.fullmatch(r"half-life [\d.]+ repetitions \(95 %: .*\)", half_life_text(fit))


def test_contours_of_both_families_have_lines(sweep):
    """AR's losses lie far below: with common levels the other figure would stay empty."""
    ar, mdm = sweep[1].families.values()
    shift = mdm.theta.copy()
    shift[ar.form.index("E")] += 1.5  # 4.5 times the floor
    for plot in contour_plots({"ar": ar, "mdm": replace(mdm, theta=shift)}):
        labels = re.findall(r">(\d+\.\d\d)<", inline(plot))
        assert len(labels) >= 3, plot.name


def test_recipes_of_the_plan_have_the_settings_of_the_runs(sweep, tmp_path):
    runs, laws = sweep
    found = plan_recipes(find_plan(runs, laws, 1e15), runs)
    assert {title for title, _ in found} == {"autoregressive", "masked diffusion"}
    for title, text in found:
        assert text.startswith("# All but size and length as in the run ")
        path = tmp_path / "plan.toml"
        path.write_text(text, encoding="utf-8")
        recipe = load_recipe(path)
        assert recipe.family == ("ar" if title == "autoregressive" else "mdm")
        assert {name: getattr(recipe.train, name) for name in SETTINGS} == SETTINGS
        assert (recipe.data.corpus, recipe.data.sequence_length) == ("my corpus", 128)
        assert "run_dir" not in text
        assert recipe.train.epochs != 4


def test_what_only_one_run_could_have_is_not_in_a_plan_like_it():
    plan = load_recipe(None, {"train.epochs": 3, "model.size": "44M"})
    run = load_recipe(
        None,
        {
            "train.steps": 10,
            "model.d_model": 32,
            "model.layers": 1,
            "model.heads": 1,
            "model.tie_embeddings": False,
            "train.start_from": "trunk",
            "train.schedule": "wsd",
            "train.micro_batch_size": 2,
            "parallel.tensor": 2,
            "checkpoint.keep_at": [5],
        },
    )
    made = like_run(plan, run)
    assert made.train.epochs == 3
    assert (made.train.steps, made.train.start_from, made.train.micro_batch_size) == (
        None,
        None,
        None,
    )
    assert (made.model.size, made.model.d_model, made.model.tie_embeddings) == ("44M", None, False)
    assert (made.parallel, made.checkpoint.keep_at) == (plan.parallel, ())
    assert made.train.schedule == "wsd"


def test_a_thinned_curve_keeps_its_ends_its_lowest_and_every_spike():
    values = 3 + np.random.default_rng(0).normal(0, 0.1, 5000)
    values[[17, 2500, 4321]] = 1.0, 9.0, 0.5
    kept = thinned(values, 100)
    assert len(kept) <= 102
    assert (np.diff(kept) > 0).all()
    assert {0, 17, 2500, 4321, 4999} <= set(kept.tolist())
    assert thinned(values, None).tolist() == list(range(5000))
    assert thinned(values[:100], 100).tolist() == list(range(100))


def test_a_page_of_many_evaluations_has_fewer_and_its_files_have_all(tmp_path, monkeypatch):
    monkeypatch.setattr("epochal.report.curve_table.MOST_POINTS", 400)
    for number in range(4):
        curve = 3.3 + np.exp(-np.linspace(0, 9, 300)) + number / 100
        make_run(tmp_path / f"r{number}", "mdm" if number % 2 else "ar", curve, seed=number)
    made = write_report([tmp_path], tmp_path / "p.html", figures=["svg"])
    source = made.path.read_text(encoding="utf-8")
    assert "about 100 points" in source
    [table] = [path for path in made.figures if path.name == "epochs.csv"]
    assert table.read_text(encoding="utf-8").count(",validation,") == 4 * 300
    offered = re.search(r'download="epochs\.csv" href="([^"]*)"', source)[1]
    assert 4 * 50 <= offered.count("validation") <= 4 * 102

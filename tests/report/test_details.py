"""What a reader would stumble over: numbers, keys, commands to copy, recipes, odd names."""

from __future__ import annotations

import copy
import csv
import io
import re
import shlex
from dataclasses import replace
from html import unescape
from itertools import combinations
from urllib.parse import unquote

import numpy as np
import pytest
from made_sweep import UNIQUE, make_sweep

from epochal.families import family_names, get_family
from epochal.memorisation.figure import run_styles
from epochal.recipe import load_recipe
from epochal.report import facts, write_report
from epochal.report.collect import frontier_leads, group_runs, read_runs
from epochal.report.content import page_content
from epochal.report.drawing import FONT, WIDTH, Plot, add_legend, inline
from epochal.report.law_figures import law_plots
from epochal.report.laws import find_laws, find_mismatch, find_plan, plan_recipes
from epochal.report.options import ReportOptions
from epochal.report.text.fit import half_life
from epochal.report.text.format import flops, for_page, number, prose
from epochal.report.text.plan import critical_text, interval_text
from epochal.scaling.crossing import Crossings
from epochal.scaling.plan import like_run
from epochal.scaling.planner import Pair
from made_runs import make_run

SETTINGS = {"lr": 3e-3, "min_lr": 1e-4, "global_batch_size": 32, "hidden_dropout": 0.1}


def test_numbers_are_powers_of_ten_on_the_page_and_can_be_copied_elsewhere():
    values = (5.76e16, 8e9, 950)
    assert [flops(value) for value in values] == ["5.76e+16", "8B", "950"]
    assert number(2.1234e5, 3) == "2.12e+05"
    with for_page():
        assert [flops(value) for value in values] == ["5.76×10¹⁶", "8×10⁹", "950"]
        assert number(2.1234e5, 3) == "2.12×10⁵"
        assert number(0.003) == "0.003"
    assert flops(8e9) == "8B"


def test_compute_in_a_plan_is_a_power_of_ten_on_the_page():
    critical = Crossings("one", [3e18], ["ar", "mdm"], (2e18, None), 0.95, 9, 1.0, (1e15, 1e24))
    pair = Pair(
        first="ar",
        second="mdm",
        difference=0.1,
        interval=None,
        p_second_better=None,
        winner=None,
        critical=critical,
        critical_flops=3e18,
        trusted_flops=None,
    )
    assert "3e+18 FLOPs" in critical_text(pair, 1e18)
    with for_page():
        assert "3×10¹⁸ FLOPs" in critical_text(pair, 1e18)
        assert interval_text(critical).endswith("2×10¹⁸ – open")


def test_sentences_become_html_with_their_commands_as_code():
    assert prose("run `epochal eval 'a <b>'` now") == (
        "run <code>epochal eval &#39;a &lt;b&gt;&#39;</code> now"
    )
    assert prose("a ` alone & \x1b") == "a ` alone &amp; \u241b"


def test_settings_have_no_digits_that_say_nothing():
    tree = {"flops": 25e9, "lr": 0.003, "epochs": 10.0, "seed": 1234, "share": 0.05012549714672504}
    values = dict(facts.flatten(tree, digits=4))
    assert list(values.values()) == ["2.5×10¹⁰", "0.003", "10", "1,234", "0.05013"]
    # Of two settings that differ, the difference is seen.
    assert facts.flatten({"flops": 123456789.0}) == [("flops", "123456789")]


def test_legends_fit_however_many_families_there_are(third_family):
    """Entries that do not fit beside each other stand below each other, within the drawing."""

    def paint(axes, palette):
        add_legend(axes, "if all were fresh", linestyle="--")

    plot = Plot(
        name="p", label="", title="t", x_title="", paint=paint, families=family_names(),
        header=(), rows=(),
    )  # fmt: skip
    written = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', inline(plot))
    places = {text: (float(x), float(y)) for x, y, text in written}
    entries = [*(get_family(name).title for name in family_names()), "if all were fresh"]
    for entry in entries:
        # A letter is about half as wide as it is high.
        assert 0 <= places[entry][0] < WIDTH - 0.45 * FONT * len(entry), entry
    heights = {places[entry][1] for entry in entries}
    assert len(heights) > 1
    assert max(heights) < places["0.04"][1] - FONT / 2, "the legend covers the axes"


def test_a_family_nobody_knows_today_has_its_colours_on_the_page(third_family, tmp_path):
    """Colours were typed for two families, in the drawing and in the page's style."""
    for name in ("mdm", third_family):
        make_run(tmp_path / name, name, [5.0, 4.5, 4.4])
    written = write_report([tmp_path], tmp_path / "p.html", ReportOptions(figures=("svg",)))
    source = written.path.read_text(encoding="utf-8")
    variable, third = f"--family-{third_family}", get_family(third_family)
    assert f"{variable}: {third.color}" in source
    assert f"{variable}: {third.dark_color}" in source
    assert f"var({variable})" in source.split('data-name="epochs"')[1].split("</figure>")[0]
    assert "Third kind" in source
    [drawing] = [path for path in written.figures if path.name == "epochs.svg"]
    assert third.color in drawing.read_text(encoding="utf-8")


def test_the_plot_of_memorise_has_the_colours_of_the_report():
    """AR was blue in the report and orange in the plot of `memorise`."""
    styles = run_styles(["ar", "mdm", "ar"])
    assert [style["color"] for style in styles] == [
        get_family(name).color for name in ("ar", "mdm", "ar")
    ]
    assert [style["marker"] for style in styles[:2]] == [
        get_family(name).marker for name in ("ar", "mdm")
    ]
    assert len({style["marker"] for style in styles}) == 3


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
    assert "<h1>4 runs on 100k unique tokens in 2 groups</h1>" in source
    for name in ("one", "two"):
        assert f"<strong>ar-{name} and mdm-{name}:</strong>" in source
    assert "full, dashed, dotted" in source
    assert "their NLL is not comparable" in source
    alone = write_report([*tmp_path.glob("*-one")], tmp_path / "q.html").path.read_text("utf-8")
    assert "dashed, dotted" not in alone
    assert "not comparable" not in alone


def test_a_run_without_any_validation_is_not_sent_to_eval(tmp_path):
    make_run(tmp_path / "ar", "ar", [], evaluated=False, status="diverged")
    make_run(tmp_path / "mdm", "mdm", [5.0, 4.5])
    source = write_report([tmp_path], tmp_path / "p.html").path.read_text(encoding="utf-8")
    assert "ar has no validation result yet" in source
    assert f"epochal eval {tmp_path / 'ar'}" not in source


def test_the_critical_compute_is_described_for_each_pair_of_families(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"ar{seed}", "ar", [4.0, 3.5, 3.3], seed=seed)
        make_run(tmp_path / f"mdm{seed}", "mdm", [5.0, 4.0, 3.4], seed=seed)
    [lead] = frontier_leads(group_runs(read_runs([tmp_path])))
    assert (lead.leader, lead.behind, lead.since) == ("ar", "mdm", None)
    source = write_report([tmp_path], tmp_path / "p.html").path.read_text(encoding="utf-8")
    assert "no critical compute" in source
    for seed in (0, 1):
        make_run(tmp_path / f"mdm{seed}", "mdm", [3.9, 3.6, 3.2], seed=seed)
    [lead] = frontier_leads(group_runs(read_runs([tmp_path])))
    assert (lead.leader, lead.since) == ("mdm", pytest.approx(1e15))
    # One family has no critical point.
    assert not frontier_leads(group_runs(read_runs(tmp_path.glob("ar*"))))


def test_compute_in_the_verdicts_notes_is_written_as_on_the_rest_of_the_page(tmp_path):
    make_run(tmp_path / "ar", "ar", [4.0, 3.5], flops=5.76e16)
    make_run(tmp_path / "mdm", "mdm", [5.0, 4.5], flops=2.3e17)
    source = write_report([tmp_path], tmp_path / "p.html").path.read_text(encoding="utf-8")
    assert "AR 5.76×10¹⁶, MDM 2.3×10¹⁷" in source
    assert "e+1" not in source.split("<main>")[1].split("data:text/csv")[0]


def test_three_families_have_three_pairs(third_family, tmp_path):
    """Two families were read out of the frontiers by name, and a third was passed over."""
    names = family_names()
    for seed in (0, 1):
        for place, name in enumerate(names):
            make_run(tmp_path / f"{name}{seed}", name, [4.0 + place, 3.5 + place], seed=seed)
    leads = frontier_leads(group_runs(read_runs([tmp_path])))
    assert {(lead.leader, lead.behind) for lead in leads} == set(combinations(names, 2))


def test_runs_four_levels_down_are_on_the_page(tmp_path):
    """The report saw three levels of folders, `fit` four."""
    make_run(tmp_path / "a" / "b" / "c" / "deep", "ar", [4.0, 3.5])
    assert [run.label for run in read_runs([tmp_path])] == ["deep"]


def test_renamed_keys_are_no_difference(tmp_path):
    """The same setting under its old and its present name looked like two settings."""
    runs = [make_run(tmp_path / name, "ar", [4.0, 3.5]) for name in ("new", "old")]
    file = runs[1].folder.recipe_file
    text = file.read_text(encoding="utf-8")
    assert "global_batch_size" in text
    file.write_text(text.replace("global_batch_size", "global_batch"), encoding="utf-8")
    assert facts.differences(read_runs([tmp_path])) == []


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
        half_life(longer),
    )
    assert re.fullmatch(r"half-life [\d.]+ repetitions \(95 %: .*\)", half_life(fit))


def test_contours_of_both_families_have_lines(sweep):
    """AR's losses lie far below: with common levels the other figure would stay empty."""
    ar, mdm = sweep[1].families.values()
    shift = mdm.theta.copy()
    shift[ar.form.index("E")] += 1.5  # 4.5 times the floor
    for plot in law_plots({"ar": ar, "mdm": replace(mdm, theta=shift)})["contours"]:
        labels = re.findall(r">(\d+\.\d\d)<", inline(plot))
        assert len(labels) >= 3, plot.name


def test_recipes_of_the_plan_have_the_settings_of_the_runs(sweep, tmp_path):
    runs, laws = sweep
    recipes = dict(plan_recipes(find_plan(runs, laws, 1e15), runs))
    assert set(recipes) == {"ar", "mdm"}
    for family, text in recipes.items():
        assert text.startswith("# All but size and length as in the run ")
        path = tmp_path / "plan.toml"
        path.write_text(text, encoding="utf-8")
        recipe = load_recipe(path)
        assert recipe.family == family
        assert {name: getattr(recipe.train, name) for name in SETTINGS} == SETTINGS
        assert (recipe.data.corpus, recipe.data.sequence_length) == ("my corpus", 128)
        assert "run_dir" not in text
        assert recipe.train.epochs != 4


@pytest.mark.parametrize(
    ("key", "value"), [("vocabulary", 4096), ("sequence_length", 64), ("content_sha256", "other")]
)
def test_there_is_no_plan_across_runs_that_do_not_compare(sweep, key, value):
    """The page planned across families whose runs `fit` refuses as not comparable."""
    runs, laws = sweep
    changed = []
    for run in runs:
        record = copy.deepcopy(run.record)
        record.numbers.setdefault("sequence_length", 128)
        if run.family == "mdm":
            validation = record.info["corpus"]["validation"]
            (validation if key in validation else record.numbers)[key] = value
        changed.append(replace(run, record=record))
    assert find_mismatch(runs, laws.families) is None
    assert find_plan(runs, laws, 1e15) is not None
    mismatch = find_mismatch(changed, laws.families)
    assert mismatch is not None
    refused = replace(laws, mismatch=mismatch)
    assert find_plan(changed, refused, 1e15) is None
    content = page_content(changed, group_runs(changed), refused, None, {})
    assert str(mismatch) in " ".join(content["law_notes"])


def test_a_plan_and_its_recipes_count_parameters_with_one_vocabulary(sweep):
    """The plan took the smallest vocabulary of all runs, its recipes the largest."""
    runs, laws = sweep
    odd = copy.deepcopy(runs[0].record)
    odd.numbers["vocabulary"] = 100_000
    mixed = [*runs, replace(runs[0], record=odd)]
    plan = find_plan(mixed, laws, 1e15)
    assert plan.vocabulary == 8192
    assert plan_recipes(plan, mixed) == plan_recipes(plan, runs)


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


def test_a_page_of_many_evaluations_has_fewer_and_its_files_have_all(tmp_path, monkeypatch):
    """The page's curves keep their ends, their lowest and every spike."""
    monkeypatch.setattr("epochal.report.curves.MOST_POINTS", 400)
    for seed in range(4):
        curve = 3.3 + np.exp(-np.linspace(0, 9, 300)) + seed / 100
        curve[[17, 150, 280]] = 1.0, 9.0, 0.5
        make_run(tmp_path / f"r{seed}", "mdm" if seed % 2 else "ar", curve, seed=seed)
    made = write_report([tmp_path], tmp_path / "p.html", ReportOptions(figures=("svg",)))
    source = made.path.read_text(encoding="utf-8")
    assert "about 100 points" in source
    [table] = [path for path in made.figures if path.name == "epochs.csv"]
    everything = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    offered = re.search(
        r'download="epochs\.csv" href="data:text/csv;charset=utf-8,([^"]*)"', source
    )
    fewer = list(csv.DictReader(io.StringIO(unquote(offered[1]))))
    for seed in range(4):
        all_points, points = (
            [row for row in rows if (row["run"], row["what"]) == (f"r{seed}", "validation")]
            for rows in (everything, fewer)
        )
        assert len(all_points) == 300
        assert 50 <= len(points) <= 102
        places = [all_points.index(point) for point in points]
        assert places == sorted(set(places))
        assert {0, 17, 150, 280, 299} <= set(places)

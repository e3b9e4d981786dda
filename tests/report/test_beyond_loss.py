"""Tasks and quality of texts on the page: the records' own figures, and nothing without records."""

from __future__ import annotations

import json

from epochal.report import write_report
from epochal.report.collect import group_runs, read_runs
from epochal.report.curves import curve_plots
from epochal.report.facts import task_rows
from epochal.report.options import ReportOptions
from made_runs import make_run

CURVE = [5.0, 4.0, 3.9]


def keep(run, folder, name, content):
    path = run / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def row(steps, nll):
    return {
        "steps": steps,
        "nll_nats_per_token": nll,
        "standard_error": 0.1,
        "distinct_1": 0.5,
        "distinct_2": 0.75,
        "repetition": 0.25,
    }


def test_runs_without_them_have_no_such_sections(tmp_path):
    make_run(tmp_path / "mdm", "mdm", CURVE)
    assert write_report([tmp_path / "mdm"], tmp_path / "r.html").sections == ["epochs", "flops"]
    page = (tmp_path / "r.html").read_text()
    assert 'id="tasks"' not in page
    assert 'id="steps"' not in page


def test_the_page_has_what_the_records_say(tmp_path):
    run = tmp_path / "mdm"
    make_run(run, "mdm", CURVE)
    task = {
        "task": "sciq",
        "checkpoint": "best",
        "mode": "mc",
        "metrics": {"acc": {"value": 0.4125, "standard_error": 0.0152}},
        "chance": 0.25,
        "paper": {"100M": 0.6867},
    }
    keep(run, "downstream", "sciq-best-mc.json", task)
    quality = {
        "checkpoint": "best",
        "order": "confidence",
        "judge": "runs/ar",
        "rows": [row(4, 6.2), row(1, 7.5)],
        "reference": row(None, 3.75),
    }
    keep(run, "quality", "best-confidence.json", quality)
    runs = read_runs([run])
    row_of_task = ("sciq", "mdm", "MDM", "mc, best", "acc", "41.2 ± 1.5", "25", "68.7 (100M)")
    assert task_rows(runs) == [row_of_task]
    [plot] = curve_plots(group_runs(runs))["steps"]
    assert [line[4:] for line in plot.rows] == [[1, 7.5, 0.75, 0.25], [4, 6.2, 0.75, 0.25]]
    made = write_report([run], tmp_path / "r.html", ReportOptions(figures=("svg",)))
    assert "steps" in made.sections
    assert any(path.name == "steps.svg" for path in made.figures)
    page = (tmp_path / "r.html").read_text()
    assert "41.2 ± 1.5" in page
    assert "real text: 3.750 nats" in page

"""Quality of generated texts: figures of variety, and the judge's NLL."""

from __future__ import annotations

import shutil

import pytest

from epochal.errors import OptionError
from epochal.evaluation.options import QualityOptions
from epochal.evaluation.quality import distinct, quality, repetition
from epochal.generation.config import GenerationConfig
from epochal.interop.load import load
from epochal.results import to_json
from epochal.runs import RunRecord


def test_figures_of_variety():
    some = [[1, 2, 1, 2, 1], [1, 2, 3]]
    assert distinct(some, 1) == 3 / 8
    assert distinct(some, 2) == 3 / 6  # 12 21 12 21 | 12 23
    assert repetition(some, 2) == 2 / 6
    assert repetition([[7] * 10]) == 6 / 7
    assert distinct([[1]], 2) == repetition([[1, 2]]) == 0


@pytest.fixture(scope="module")
def runs(tiny_pair, tmp_path_factory):
    return shutil.copytree(tiny_pair, tmp_path_factory.mktemp("quality") / "pair")


@pytest.fixture(scope="module")
def models(tiny_pair):
    return {family: load(tiny_pair / family, device="cpu") for family in ("ar", "mdm")}


SMALL = {"samples": 6, "tokens": 12, "device": "cpu"}


def test_quality_is_judged_and_kept(runs, models):
    found = quality(runs / "mdm", runs / "ar", QualityOptions(steps=(1, 5), **SMALL))
    assert [row.steps for row in found.rows] == [1, 5]
    assert found.reference.tokens > 0
    assert RunRecord(runs / "mdm").quality() == [to_json(found)]
    # The figure, from the same texts and the judge's logits; its padding has no part in it.
    config = GenerationConfig(tokens=12, samples=6, steps=5)
    [(_, written)] = models["mdm"].generator.generate([""], config)
    end, total, count = models["ar"].tokenizer.end_of_document, 0.0, 0
    for one in written:
        if one.new:
            logits = models["ar"].logits([[end, *one.new]])[0, :-1]
            logs = logits[:, : models["ar"].tokenizer.vocabulary].double().log_softmax(-1)
            total -= sum(float(log[x]) for log, x in zip(logs, one.new, strict=True))
            count += len(one.new)
    assert found.rows[1].nll_nats_per_token == pytest.approx(total / count, rel=1e-4)
    assert found.rows[1].tokens == count
    assert found.rows[1].distinct_1 == distinct([one.new for one in written], 1)

    back = quality(runs / "ar", f"{runs / 'mdm'}@last", QualityOptions(**SMALL))
    assert [row.steps for row in back.rows] == [12]
    assert (back.order, back.judge_family) == ("left-to-right", "mdm")
    assert 1 < back.rows[0].nll_nats_per_token < 12


@pytest.mark.parametrize(
    ("run", "judge", "options"),
    [
        ("mdm", "ar", {"tokens": 1}),
        ("mdm", "ar", {"tokens": 32}),
        ("ar", "mdm", {"steps": (2,)}),
        ("ar", "mdm", {"order": "ancestral"}),
        ("ar", "mdm", {"order": "confidence"}),
        ("mdm", "ar", {"steps": (0,)}),
    ],
)
def test_options_that_the_runs_do_not_have(runs, run, judge, options):
    with pytest.raises(OptionError) as caught:
        quality(runs / run, runs / judge, QualityOptions(**{**SMALL, **options}))
    assert caught.value.name in options

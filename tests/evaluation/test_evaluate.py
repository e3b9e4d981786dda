"""`evaluate`: what it gives, what it keeps and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import epochal.evaluation.evaluate as evaluate_module
from epochal.data.corpus import open_corpus
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.device import has_compiler
from epochal.errors import CheckpointError, OptionError, RunError, UserError
from epochal.estimates import Layout, estimate
from epochal.evaluation.evaluate import (
    Scorer,
    evaluate,
    evaluate_best,
    pays_to_compile,
    score,
)
from epochal.evaluation.options import EvalOptions
from epochal.interop.load import load
from epochal.likelihood.draws import EvalShard
from epochal.likelihood.nll import Evaluator
from epochal.runs import RunRecord


@pytest.fixture
def run(tiny_pair, tmp_path):
    """A copy of the MDM run, to be changed at will."""
    return shutil.copytree(tiny_pair / "mdm", tmp_path / "mdm")


def test_ar_is_the_sum_of_log_probabilities(tiny_pair):
    """Reckoned again from logits, window by window, in float64."""
    result = RunRecord(tiny_pair / "ar").evaluation("best")
    model = load(tiny_pair / "ar")
    tokens = torch.from_numpy(open_corpus(model.recipe.data).validation.tokens[:].astype("int64"))
    length, total, count = model.sequence_length, 0.0, 0
    for start in range(0, len(tokens) - 1, length - 1):
        window = tokens[start : start + length][None]
        if window.shape[1] < 2:
            break
        logs = model.logits(window).double().log_softmax(-1)[0, :-1]
        total -= float(logs.gather(1, window[0, 1:, None]).sum())
        count += window.shape[1] - 1
    assert count == result.tokens_scored == len(tokens) - 1
    assert result.nll_nats_per_token == pytest.approx(total / count, rel=1e-6)
    assert result.standard_error_draws == 0
    assert result.estimator == "exact"


def test_a_repeated_evaluation_is_the_same(run):
    first, second = (evaluate(run, EvalOptions(draws=9)) for _ in range(2))
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)
    assert first.draws == 9
    assert RunRecord(run).evaluation("best") == second


def test_more_draws_stay_with_the_run(run, capsys):
    folder, best = RunRecord(run).folder, lambda: RunRecord(run).evaluation("best")
    many = evaluate(run, EvalOptions(draws=10))
    sums = folder.evaluation_file("best", "stratified").with_suffix(".npz")
    before = sums.read_bytes()
    assert evaluate(run, EvalOptions(draws=3)).draws == 3
    assert best() == many
    assert sums.read_bytes() == before
    told = " ".join(capsys.readouterr().err.split())
    assert f"{run} keeps its result from 10 draws (±" in told
    assert "more precise than this one from 3" in told
    assert evaluate_best(RunRecord(run), 4) == many  # as precise as asked for already
    assert evaluate(run, EvalOptions(draws=11)) == best()
    for change in ("another step", "damaged sums", "damaged result"):
        file = folder.evaluation_file("best", "stratified")
        if change == "another step":
            file.write_text(file.read_text().replace('"step": ', '"step": 1'))
        else:
            (sums if "sums" in change else file).write_text("torn")
        few = evaluate(run, EvalOptions(draws=2))
        assert best() == few
        evaluate(run, EvalOptions(draws=3))


def test_bits_per_byte_follow_from_the_text(run):
    result = evaluate(run, EvalOptions(draws=2))
    store = open_corpus(RunRecord(run).recipe.data).validation
    per_token = store.metadata.text_bytes / store.unique_tokens
    assert result.bits_per_byte == pytest.approx(
        result.nll_nats_per_token / math.log(2) / per_token
    )


def test_the_tolerance_is_reached_with_as_few_draws_as_it_takes(run):
    loose = evaluate(run, EvalOptions(tolerance=10.0))
    assert loose.draws == 4
    wanted = loose.standard_error_draws / 1.8
    tight = evaluate(run, EvalOptions(tolerance=wanted))
    assert tight.standard_error_draws <= wanted
    assert 4 < tight.draws < 64


def test_a_tolerance_that_is_not_reached_costs_no_more_draws_than_said(run, monkeypatch):
    """The number in the message is that of the draws made, and the limit holds."""
    monkeypatch.setattr(evaluate_module, "MAX_DRAWS", 6)
    made = []
    add = Evaluator.add_draw
    monkeypatch.setattr(Evaluator, "add_draw", lambda it, *a: (made.append(1), add(it, *a))[1])
    with pytest.raises(OptionError, match="not reached with 6 draws"):
        evaluate(run, EvalOptions(tolerance=1e-6))
    assert len(made) == 6


def test_the_papers_estimator_is_kept_apart_and_agrees(run):
    ours, papers = (
        evaluate(run, EvalOptions(draws=8)),
        evaluate(run, EvalOptions(draws=16, estimator="paper")),
    )
    assert {r.estimator for r in RunRecord(run).evaluations()} == {"stratified", "paper"}
    assert papers.standard_error_draws > ours.standard_error_draws
    gap = abs(ours.nll_nats_per_token - papers.nll_nats_per_token)
    assert gap < 5 * papers.standard_error_draws + 0.05  # the first tokens of windows differ


def test_another_corpus_is_scored_and_not_kept(run, tmp_path):
    tokenizer = run / "tokenizer.json"
    (tmp_path / "other.txt").write_text("Another text of some length. " * 200)
    (tmp_path / "training.txt").write_text("Something else.")
    prepare(
        tmp_path / "training.txt",
        tmp_path / "other",
        PrepareOptions(tokenizer=tokenizer, validation_inputs=[tmp_path / "other.txt"]),
    )
    before = RunRecord(run).evaluations()
    result = evaluate(run, EvalOptions(corpus=tmp_path / "other", draws=2))
    assert result.validation_sha256 != before[0].validation_sha256
    assert RunRecord(run).evaluations() == before
    prepare("builtin", tmp_path / "bytes", PrepareOptions(tokenizer="bytes"))
    with pytest.raises(UserError, match=r"prepare the text with the run's tokenizer\.json"):
        evaluate(run, EvalOptions(corpus=tmp_path / "bytes"))


def test_a_validation_set_that_has_changed_is_refused(run, tiny_corpus, tmp_path):
    moved = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    for file in moved.glob("validation.*"):
        file.unlink()
    for file in moved.glob("train.*"):
        shutil.copy(file, moved / file.name.replace("train", "validation"))
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(str(tiny_corpus), str(moved)))
    with pytest.raises(RunError, match="has changed since"):
        evaluate(run, EvalOptions(draws=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1}, "at least 2"),
        ({"draws": 4, "tolerance": 0.1}, "not both"),
        ({"tolerance": 0.0}, "positive"),
        ({"tolerance": math.nan}, "positive"),
    ],
)
def test_settings_that_make_no_sense(run, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(run, EvalOptions(**options))


def test_a_run_without_the_checkpoint_names_what_there_is(run):
    shutil.rmtree(next((run / "checkpoints").glob("best-*")))
    with pytest.raises(CheckpointError, match="try the checkpoint `last`"):
        evaluate(run, EvalOptions(checkpoint="best", draws=2))
    assert evaluate(run, EvalOptions(draws=2)).checkpoint in ("best", "last")
    with pytest.raises(RunError, match="is not a run"):
        evaluate(run.parent)


def test_few_draws_are_not_taken_at_their_word():
    """Among many tries, the true error of what the tolerance accepts is not above it."""
    tolerance, misses = 0.3, []
    for number in range(300):
        it = _Noise(np.random.default_rng(number))
        misses.append(Scorer(None, it).estimate(None, EvalOptions(tolerance=tolerance)).nll)
    assert np.sqrt(np.mean(np.square(misses))) < 1.07 * tolerance


class _Noise:
    """An evaluator of one group and one token whose draws are of variance 1 about 0."""

    objective = SimpleNamespace(exact=False)

    def __init__(self, generator):
        self.generator, self.values = generator, []

    draws = property(lambda self: len(self.values))

    def add_draw(self, model, report):
        self.values.append(self.generator.standard_normal())

    def result(self):
        one = np.zeros(1, dtype=np.int64)
        layout = Layout(row=one, document=one, tokens=one + 1, group=one)
        return estimate(layout, np.array(self.values)[:, None], exact=False)


def test_a_run_without_a_best_checkpoint_says_that_the_last_was_used(run):
    """Also where its record names none: an imported or broken-off run."""
    folder = RunRecord(run).folder.checkpoints
    for path in folder.glob("best-*"):
        shutil.rmtree(path)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: v for k, v in info.items() if k != "best"}))
    assert evaluate(run, EvalOptions(draws=2)).checkpoint == "last"
    with pytest.raises(CheckpointError, match="no best checkpoint; try the checkpoint `last`"):
        evaluate(run, EvalOptions(checkpoint="best", draws=2))


@pytest.mark.parametrize(
    ("wanted", "device", "tokens", "compiler", "expected"),
    [
        ("auto", "cpu", 10**15, True, False),
        ("auto", "cuda", 10**6, True, False),  # as long as the compiler would take
        ("auto", "cuda", 10**12, False, True),
        ("off", "cuda", 10**12, True, False),
        ("on", "cpu", 10, True, True),
        ("on", "cpu", 10, False, False),
    ],
)
def test_a_model_is_compiled_where_it_pays(
    tiny_pair, monkeypatch, wanted, device, tokens, compiler, expected
):
    loaded = load(tiny_pair / "mdm")
    train = dataclasses.replace(loaded.recipe.train, compile=wanted)
    loaded.recipe = dataclasses.replace(loaded.recipe, train=train)
    loaded.machine = dataclasses.replace(loaded.machine, device=torch.device(device))
    monkeypatch.setattr("epochal.evaluation.evaluate.has_compiler", lambda: compiler)
    assert pays_to_compile(loaded, tokens) is expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own libraries
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler to compile with")
@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_a_compiled_model_gives_the_same_figures(tiny_pair, family, monkeypatch):
    plain = score(tiny_pair / family, EvalOptions(draws=2), EvalShard()).result
    monkeypatch.setattr("epochal.evaluation.evaluate.pays_to_compile", lambda *given: True)
    scored = score(tiny_pair / family, EvalOptions(draws=2), EvalShard())
    assert scored.loaded.machine.compiled
    found = scored.result
    assert found.nll_nats_per_token == pytest.approx(plain.nll_nats_per_token, rel=1e-5)
    assert found.standard_error == pytest.approx(plain.standard_error, rel=1e-3)

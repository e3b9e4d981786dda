"""Ensembles and averages against their definitions."""

from __future__ import annotations

import json
import shutil
from itertools import permutations

import numpy as np
import pytest
import torch
from test_oracle import JOINT, evaluator, stream, windows_of

from epochal.cli.main import main
from epochal.errors import RecipeError, RunError, UserError
from epochal.evaluation.ensemble import average, ensemble
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.options import EvalOptions
from epochal.interop.load import load
from epochal.likelihood.nll import Ensemble, Part
from epochal.runs import RunRecord
from epochal.training.train import train
from tiny_runs import overrides
from tiny_world import LENGTH, MASK, Oracle, enumerated_bound, random_joint


def test_an_ensemble_is_the_mean_of_probabilities():
    """AR, written out with the enumerated world."""
    ids, models = stream(41), (Oracle(JOINT), Oracle(JOINT, 0.7))
    it = evaluator("ar", ids)
    it.add_draw(Ensemble(models))
    total = 0.0
    for row in windows_of(ids):
        for i in range(1, len(row)):
            p = [np.exp(-model.nll(row, i, range(i, LENGTH))) for model in models]
            total -= np.log(np.mean(p))
    assert it.result().nll == pytest.approx(total / 40, rel=1e-12)


@pytest.fixture(scope="module")
def members():
    """Two models that disagree, neither of which is any joint's own conditionals."""
    return Oracle(JOINT, 0.7), Oracle(random_joint(2), 0.7)


@pytest.fixture(scope="module")
def mean_model(members):
    """The model that docs/ensembles.md names: its conditionals are the members' means."""
    model = Oracle(JOINT)
    model.conditionals = np.log(np.mean([np.exp(one.conditionals) for one in members], axis=0))
    return model


def probability(model, ids):
    """Of ids[1:] given ids[0]: the mean over all orders of the product of the conditionals."""
    each = []
    for order in permutations(range(1, LENGTH)):
        hidden, p = set(order), 1.0
        for place in order:
            p *= np.exp(-model.nll(ids, place, hidden))
            hidden.remove(place)
        each.append(p)
    return np.mean(each)


def test_the_mdm_bound_is_one_of_a_proper_distribution(mean_model):
    """All 243 texts and all 24 orders: probabilities sum to 1, and none is above its bound."""
    slack = {}
    total = np.zeros(MASK)
    for ids in np.ndindex(*JOINT.shape):
        p = probability(mean_model, np.array(ids))
        total[ids[0]] += p
        slack[ids] = enumerated_bound(mean_model, np.array(ids)) + np.log(p)
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    assert min(slack.values()) > 0
    # Orders disagree here, so that the bound is not the NLL itself.
    assert np.mean(list(slack.values())) > 0.01


@pytest.mark.parametrize("tokens", [41, 44])
def test_an_mdm_ensemble_is_scored_as_that_model(members, mean_model, tokens):
    """Draw by draw with the same masks, so what holds for one model holds for it."""
    together, alone = (evaluator("mdm", stream(tokens)) for _ in range(2))
    for _ in range(6):
        together.add_draw(Ensemble(members))
        alone.add_draw(mean_model)
    np.testing.assert_allclose(together.plain_values(), alone.plain_values(), rtol=1e-12)
    assert together.result().nll == pytest.approx(alone.result().nll, rel=1e-10)


def test_the_mdm_bound_of_an_ensemble_is_what_draws_come_to(members, mean_model):
    ids = stream(161)
    expected = sum(enumerated_bound(mean_model, window) for window in windows_of(ids)) / 160
    found = []
    for seed in range(100):
        it = evaluator("mdm", ids, seed=seed, batch=500)
        for _ in range(4):
            it.add_draw(Ensemble(members))
        found.append(it.result().nll)
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 3.5 * error
    assert error < 0.01 * expected
    # Jensen, for each window: never above the mean of the members' bounds.
    for window in windows_of(ids):
        mean = np.mean([enumerated_bound(one, window) for one in members])
        assert enumerated_bound(mean_model, window) < mean


@pytest.fixture(scope="module")
def geometric_model(members):
    """Its conditionals are the members' geometric means, normalised."""
    model = Oracle(JOINT)
    log_mean = np.mean([one.conditionals for one in members], axis=0)
    model.conditionals = log_mean - np.log(np.exp(log_mean).sum(axis=-1, keepdims=True))
    return model


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_the_mean_of_logits_is_the_geometric_mean(members, geometric_model, family):
    """Enumerated: for AR the NLL written out, for MDM draw by draw with the same masks."""
    ids = stream(44)
    together, alone = (evaluator(family, ids) for _ in range(2))
    for _ in range(4):
        together.add_draw(Ensemble(members, "logits"))
        alone.add_draw(geometric_model)
    np.testing.assert_allclose(together.plain_values(), alone.plain_values(), rtol=1e-12)
    if family == "ar":
        nll = (
            geometric_model.nll(r, i, range(i, LENGTH))
            for r in windows_of(ids)
            for i in range(1, len(r))
        )
        assert together.result().nll == pytest.approx(sum(nll) / 43, rel=1e-12)
    for window in windows_of(ids):  # a softmax of means is never worse than the mean of the NLLs
        mean = np.mean([enumerated_bound(one, window) for one in members])
        assert enumerated_bound(geometric_model, window) < mean


def test_the_geometric_mean_has_a_proper_distribution_too(geometric_model):
    total = np.zeros(MASK)
    for ids in np.ndindex(*JOINT.shape):
        total[ids[0]] += probability(geometric_model, np.array(ids))
    np.testing.assert_allclose(total, 1, rtol=1e-12)


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_twice_the_same_model_is_that_model(family, averaging):
    alone, twice = (evaluator(family, stream(81)) for _ in range(2))
    for _ in range(2):
        alone.add_draw(Oracle(JOINT))
        twice.add_draw(Ensemble((Oracle(JOINT), Oracle(JOINT)), averaging))
    assert twice.result().nll == pytest.approx(alone.result().nll, rel=1e-12)


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_checkpoints_of_a_run(tiny_pair, family, averaging):
    run = tiny_pair / family
    members = [f"{run}@best", f"{run}@last"]
    found = ensemble(members, EvalOptions(draws=3), averaging)
    assert found.average == averaging
    for result, name in zip(found.members, ("best", "last"), strict=True):
        alone = evaluate(shutil_copy(run), EvalOptions(checkpoint=name, draws=3))
        assert result.nll_nats_per_token == pytest.approx(alone.nll_nats_per_token, rel=1e-9)
    nll = [result.nll_nats_per_token for result in found.members]
    assert found.best == int(np.argmin(nll))
    assert found.ensemble.nll_nats_per_token <= np.mean(nll)  # Jensen
    assert found.gain == pytest.approx(min(nll) - found.ensemble.nll_nats_per_token)


@pytest.mark.parametrize("family", ["ar", "mdm"])
@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_parts_are_scored_as_if_alone(members, family, averaging):
    """A part's NLL is the mean of its groups', each an ensemble of its own; one pass serves all."""
    three = (*members, Oracle(random_joint(3)))
    groups = ((0, 1), (0, 2), (1, 2))
    it = evaluator(family, stream(44))
    for _ in range(3):
        it.add_draw(Ensemble(three, averaging, (Part(((1,),)), Part(groups, averaging))))
    passes, each = three[2].positions_computed, []
    for models in (three, three[1:2], *(tuple(three[n] for n in group) for group in groups)):
        alone = evaluator(family, stream(44))
        for _ in range(3):
            alone.add_draw(Ensemble(models, averaging))
        each.append(alone.plain_values())
    found = [one.plain_values() for one in (it, *it.parts)]
    for values, expected in zip(found, (*each[:2], np.mean(each[2:], axis=0)), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert three[2].positions_computed == 4 * passes  # three of these by ensembles alone
    it.clear()
    assert it.parts == []


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_the_ladder_of_a_run_s_checkpoints(tiny_pair, tmp_path, family):
    """Each K against ensembles of all pairs; twice the same member, since a run has two."""
    run = tiny_pair / family
    names = [f"{run}@best", f"{run}@last", f"{run}@best"]
    options = EvalOptions(draws=3, estimator="paper" if family == "mdm" else "stratified")
    found = ensemble(names, options)
    ladder = {(one.average, one.members): one for one in found.ladder}
    assert list(ladder) == [(a, k) for a in ("probabilities", "logits") for k in (1, 2, 3)]
    assert [one.groups for one in found.ladder] == [3, 3, 1] * 2
    alone = np.mean([one.nll_nats_per_token for one in found.members])
    for averaging in ("probabilities", "logits"):
        pairs = [ensemble([names[i], names[j]], options, averaging) for i, j in ((0, 1), (1, 2))]
        pairs = [pair.ensemble.nll_nats_per_token for pair in pairs]
        same = found.members[0].nll_nats_per_token  # best with best
        one, two, three = (ladder[averaging, k] for k in (1, 2, 3))
        assert one.nll_nats_per_token == pytest.approx(alone, rel=1e-9)
        assert (one.gain, one.gain_error) == (0, 0)
        assert two.nll_nats_per_token == pytest.approx(np.mean([*pairs, same]), rel=1e-6)
        assert two.gain == pytest.approx(alone - two.nll_nats_per_token)
        assert three.nll_nats_per_token < two.nll_nats_per_token < alone
    assert found.ensemble.nll_nats_per_token == ladder["probabilities", 3].nll_nats_per_token


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_the_snapshots_of_a_run_with_cycles(tiny_corpus, tmp_path, family):
    """The end of each of three cycles of 24 steps has a checkpoint; alone, the run is all three."""
    changes = {"family": family, "train__cycles": 3, "checkpoint__keep": 1}
    record = train(None, overrides(tiny_corpus, tmp_path / "run", **changes))
    found = ensemble([record.path], EvalOptions(draws=2))
    assert [member.step for member in found.members] == [8, 16, 24]
    assert found.names == [f"{record.path}@{step}" for step in (8, 16, 24)]
    same = ensemble(found.names, EvalOptions(draws=2))
    assert same.ensemble.nll_nats_per_token == found.ensemble.nll_nats_per_token
    with pytest.raises(UserError, match="at least two"):
        ensemble([f"{record.path}@8"])
    with pytest.raises(RecipeError, match=r"`train\.cycles` = 25 are more than the run's 24 steps"):
        train(None, overrides(tiny_corpus, tmp_path / "other", train__cycles=25))


_copies = []


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    _copies[:] = [tmp_path]


def shutil_copy(run):
    """A copy to be written into, since the pair is shared."""
    return shutil.copytree(run, _copies[0] / f"{run.name}-{len(list(_copies[0].iterdir()))}")


def test_the_average_is_the_mean_of_the_weights(tiny_pair, tmp_path):
    run = tiny_pair / "mdm"
    record = average([f"{run}@best", f"{run}@last"], tmp_path / "mean")
    members = [load(tiny_pair / "mdm", name).model for name in ("best", "last")]
    weights = [dict(model.named_parameters()) for model in members]
    for name, weight in load(record.path).model.named_parameters():
        mean = (weights[0][name].double() + weights[1][name].double()) / 2
        torch.testing.assert_close(weight.double(), mean, rtol=0, atol=1e-7)
    assert len(record.info["average_of"]) == 2
    assert evaluate(record.path, EvalOptions(draws=2)).checkpoint == "best"
    with pytest.raises(RunError, match="is already a run"):
        average([tiny_pair / "mdm"], tmp_path / "mean")


def test_what_does_not_go_together(tiny_pair, tmp_path):
    ar, mdm = tiny_pair / "ar", tiny_pair / "mdm"
    with pytest.raises(UserError, match="differ in family"):
        ensemble([ar, mdm])
    with pytest.raises(UserError, match="is not probabilities or logits"):
        ensemble([ar, ar], averaging="weights")
    with pytest.raises(UserError, match="at least two"):
        ensemble([ar])
    with pytest.raises(UserError, match="differ in family"):
        average([ar, mdm], tmp_path / "x")
    with pytest.raises(UserError, match=r"has checkpoints of \d+ steps only"):
        average([mdm], tmp_path / "x", last=9)
    with pytest.raises(UserError, match="at least 2 checkpoints"):
        average([mdm], tmp_path / "x", last=1)
    with pytest.raises(UserError, match="give a single run"):
        average([mdm, mdm], tmp_path / "x", last=2)


def test_a_single_checkpoint_has_no_average(tiny_pair, tmp_path):
    run = shutil_copy(tiny_pair / "mdm")
    for path in (run / "checkpoints").glob("last-*"):
        shutil.rmtree(path)
    with pytest.raises(UserError, match="a single checkpoint"):
        average([run], tmp_path / "x")


def command(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    told = capsys.readouterr()
    return caught.value.code, told.out, told.err


def test_the_command_line(tiny_pair, tmp_path, capsys):
    ar = str(tiny_pair / "ar")
    code, out, _ = command(capsys, "eval", f"{ar}@best", f"{ar}@last", "--ensemble", "--json")
    assert code == 0
    assert RunRecord(ar).info["best"]["step"] == json.loads(out)["members"][0]["step"]
    code, out, _ = command(capsys, "eval", f"{ar}@best", f"{ar}@last", "--ensemble")
    assert "gain over the best" in out
    assert "mean probabilities" in out
    assert "mean logits" in out
    words = ("eval", f"{ar}@best", f"{ar}@last", "--average", "logits")
    code, out, _ = command(capsys, *words, "--ensemble")
    assert "ensemble, mean logits" in out
    code, _, err = command(capsys, *words[:2], *words[3:])
    assert code == 2
    assert "--average needs --ensemble" in err
    code, out, _ = command(capsys, "average", ar, "--last", "2", "--out", str(tmp_path / "mean"))
    assert code == 0
    assert "the mean of 2 checkpoints" in out
    code, _, err = command(capsys, "eval", ar, "--ensemble")
    assert code == 2
    assert "at least two" in err

"""One step: independent of how it is cut up, true to its definition, stopped before a NaN."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from epochal.data.rows import RowOrder
from epochal.device import find_machine
from epochal.errors import TrainingDiverged
from epochal.objectives import objective
from epochal.recipe import load_recipe
from epochal.training.optim import grad_clip_microbatches, make_optimizer
from epochal.training.step import Stepper
from epochal.training.train import build_model

VOCABULARY = 90


def stepper(family="mdm", **changes):
    values = {
        "family": family,
        "data.sequence_length": 16,
        "model.d_model": 32,
        "model.layers": 2,
        "model.heads": 2,
        "train.steps": 10,
        "train.global_batch_size": 6,
        "train.device": "cpu",
    }
    recipe = load_recipe(None, values | {k.replace("__", "."): v for k, v in changes.items()})
    model = build_model(recipe, VOCABULARY)
    tokens = np.random.default_rng(5).integers(0, VOCABULARY, 333)
    return Stepper(
        recipe,
        model,
        make_optimizer(model, recipe.train, grad_clip_microbatches(recipe)),
        objective(recipe, VOCABULARY),
        RowOrder(tokens, 16, recipe.seed),
        find_machine(recipe.train),
    )


def weights(one):
    return torch.cat([w.detach().flatten() for w in one.model.parameters()])


@pytest.mark.parametrize(
    ("family", "settings"),
    [("ar", {}), ("mdm", {"mdm__noise": "iid"}), ("mdm", {"mdm__noise": "stratified"})],
)
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_change_nothing_but_rounding(family, settings, micro):
    whole = stepper(family, **settings)
    parts = stepper(family, **settings, train__micro_batch_size=micro)
    a, b = whole(3, 0.0), parts(3, 0.0)
    assert a.loss == pytest.approx(b.loss, rel=1e-6)
    assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-5)
    assert a.scored == b.scored


def test_the_loss_of_ar_is_the_mean_cross_entropy():
    one = stepper("ar")
    rows = torch.from_numpy(one.order.batch(12, 6).tokens)
    logits = one.model.logits(rows[:, :-1], "causal").detach()
    expected = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    assert one(2, 0.0).loss == pytest.approx(float(expected), rel=1e-6)


def test_the_loss_of_mdm_is_the_weighted_sum_over_masked_tokens():
    one = stepper("mdm")
    [problem] = one.problems(2)
    logits = one.model.logits(problem.inputs, "bidirectional").detach()
    nll = F.cross_entropy(logits.transpose(1, 2), problem.targets, reduction="none")
    expected = (nll * problem.weights).sum() / (6 * 16)
    assert (problem.inputs == VOCABULARY).any()
    assert one(2, 0.0).loss == pytest.approx(float(expected), rel=1e-6)


def test_clipping_bounds_the_step_but_not_the_norm_that_is_told():
    free, bound = stepper("ar", train__grad_clip=0.0), stepper("ar", train__grad_clip=1e-3)
    assert free(0, 0.0).grad_norm == pytest.approx(bound(0, 0.0).grad_norm, rel=1e-6)
    moment = [s["exp_avg"] for s in bound.optimizer.state.values()]
    norm = torch.cat([m.flatten() for m in moment]).norm() / 0.1  # (1 − β₁) of the gradient
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("clip", [1.0, 50.0])
def test_clipping_the_sum_is_what_the_originals_engine_does(clip):
    """Gradients of micro-batches' means summed, clipped, given to AdamW; written out here."""
    changes = {"train__micro_batch_size": 2, "train__grad_clip": clip, "train__adam_eps": 1e-3}
    ours = stepper("ar", train__grad_clip_reduction="sum", **changes)
    theirs = stepper("ar", **changes)
    assert ours(0, 1e-3).grad_norm == stepper("ar", **changes)(0, 1e-3).grad_norm
    optimizer = torch.optim.AdamW(
        theirs.model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.0
    )
    for problem in theirs.problems(0):
        logits = theirs.model.logits(problem.inputs, "causal")
        loss = F.cross_entropy(logits.flatten(0, 1), problem.targets.flatten(), reduction="sum")
        (loss / problem.denominator).backward()
    norm = torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), clip)
    assert (norm > clip) == (clip == 1.0)
    for weight in theirs.model.parameters():
        if weight.dim() > 1:
            weight.data.mul_(1 - 1e-3 * 0.1)
    optimizer.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-7)


def test_a_step_repeats_exactly_also_with_dropout():
    changes = {"train__attention_dropout": 0.2, "train__hidden_dropout": 0.2}
    first, second = stepper("mdm", **changes), stepper("mdm", **changes)
    for number in range(3):
        torch.manual_seed(number)  # the state of torch's own generator must not matter
        first(number, 1e-3)
    for number in range(3):
        second(number, 1e-3)
    assert torch.equal(weights(first), weights(second))
    without = stepper("mdm")
    for number in range(3):
        without(number, 1e-3)
    assert not torch.equal(weights(first), weights(without))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_not_taken(bad):
    one = stepper("ar")
    with torch.no_grad():
        one.model.final_norm.weight[3] = bad
    before = weights(one).nan_to_num(7.0)
    with pytest.raises(TrainingDiverged, match=r"step 5: the loss is .*update was not made"):
        one(4, 1e-3)
    assert torch.equal(weights(one).nan_to_num(7.0), before)
    assert not one.optimizer.state


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_problems_made_ahead_change_no_bit(family):
    """Also where a step does not follow the last one, as after a resume."""
    plain, ahead = (stepper(family, train__hidden_dropout=0.1) for _ in range(2))
    ahead._maker = ThreadPoolExecutor(1)
    for step in (0, 1, 2, 7, 8):
        expected, found = plain(step, 1e-3), ahead(step, 1e-3)
        assert (found.loss, found.grad_norm) == (expected.loss, expected.grad_norm)
        assert ahead._ahead[0] == step + 1
    assert torch.equal(weights(plain), weights(ahead))

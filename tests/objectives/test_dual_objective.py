"""The dual objective: causal and masked rows, against the enumerated world and against AR."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epochal import rng
from epochal.data.rows import ScoredWindows
from epochal.families.dual_objective import DualOptions
from epochal.families.masked_diffusion import MaskedDiffusionOptions
from epochal.generation import unmasking, unmasking_next
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import sample_keys
from epochal.generation.writer import Task
from epochal.likelihood.nll import Evaluator, row_nll
from epochal.models import Transformer, initialise
from epochal.objectives import Autoregressive, MaskedDiffusion, Rows, objective
from epochal.objectives.dual_objective import DualObjective, MaskedNextToken
from epochal.recipe import identity, load_recipe
from epochal.sizes import Architecture
from tiny_world import LENGTH, MACHINE, MASK, VOCABULARY, Oracle, enumerated_bound, random_joint

JOINT = random_joint(5)


class SamePlace(Oracle):
    """Knows the joint, and gives what is hidden at its own position."""

    def __call__(self, ids, rule, positions=None, log_snr=None, caches=None):
        return super().__call__(ids, rule)


class NextOracle(SamePlace):
    """Knows the joint, and gives what is hidden at the position before it."""

    def __call__(self, ids, rule, positions=None, log_snr=None, caches=None):
        found = super().__call__(ids, rule)
        return found.roll(-1, dims=1) if rule == "bidirectional" else found


def dual(share):
    return DualObjective(DualOptions(causal_share=share), MASK)


def tokens(rows, length=LENGTH + 1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, length), generator=generator)


def rows_of(count, step=0):
    keys = rng.row_keys(rng.stream_key(1, "rows", step), np.arange(count))
    return Rows(keys, np.arange(count), count, rng.stream_key(1, "step", step), step)


def causal_rows(problem, count=8):
    if isinstance(problem.attention, str):
        return torch.full((count,), problem.attention == "causal")
    return problem.attention.causal


def test_with_causal_rows_alone_it_is_ar():
    ids, rows = tokens(8), rows_of(8)
    one, ar = dual(1).training_problem(ids, rows), Autoregressive().training_problem(ids, rows)
    for name in ("inputs", "targets", "weights"):
        assert torch.equal(getattr(one, name), getattr(ar, name))
    assert (one.attention, one.denominator) == (ar.attention, ar.denominator)


@pytest.mark.parametrize("share", [0, 1 / 64, 0.3, 0.75])
def test_the_share_of_causal_rows(share):
    each = [
        int(causal_rows(dual(share).training_problem(tokens(8), rows_of(8, step))).sum())
        for step in range(64)
    ]
    assert abs(sum(each) - share * 8 * 64) < 1
    assert max(each) - min(each) <= 1


@pytest.mark.parametrize(
    ("epochs", "share"), [(1, 63 / 64), (16, 63 / 64), (32, 1 / 2), (128, 1 / 8)]
)
def test_the_rule_of_the_paper(epochs, share):
    """arXiv 2512.14549: the causal part sees the text some 16 times, at most 63/64 of the rows."""
    recipe = load_recipe(None, ["family=dual", "dual.causal_share=16/R", "train.epochs=1"])
    assert objective(recipe, MASK, epochs).share == share
    assert identity(recipe)["dual.causal_share"] == "16/R"
    assert load_recipe(None, ["family=dual", "train.epochs=1"]).options.causal_share == 0.75


def test_a_target_cannot_be_read_from_its_input():
    ids = tokens(8)
    problem = dual(0.5).training_problem(ids, rows_of(8))
    causal = causal_rows(problem)
    assert causal.tolist() == [True] * 4 + [False] * 4
    assert torch.equal(problem.inputs[causal], ids[:4, :-1])
    assert (problem.weights[causal] == 1).all()
    asked = problem.weights[~causal] > 0
    hidden = torch.zeros_like(asked)
    hidden[:, 1:] = asked[:, :-1]
    assert not asked[:, -1].any()  # its target is not among the inputs
    assert torch.equal(problem.inputs[~causal] == MASK, hidden)
    seen = torch.where(hidden, MASK, ids[4:, :-1])
    assert torch.equal(problem.inputs[~causal], seen)
    assert torch.equal(problem.targets[:, :-1], ids[:, 1:-1])
    assert problem.denominator == 4 * LENGTH + 4 * (LENGTH - 1)


def test_training_does_not_depend_on_the_micro_batch():
    ids, rows = tokens(8), rows_of(8)
    whole, denominator = dual(0.6).training_problem(ids, rows), 0
    for start in range(0, 8, 3):
        part = slice(start, start + 3)
        cut = Rows(rows.keys[part], rows.place[part], 8, rows.step_key)
        problem = dual(0.6).training_problem(ids[part], cut)
        for name in ("inputs", "targets", "weights"):
            where = causal_rows(whole)[part]
            mine, theirs = getattr(problem, name), getattr(whole, name)[part]
            # The target of a row's last position has no weight in a masked row.
            assert torch.equal(mine[where], theirs[where])
            assert torch.equal(mine[~where][:, :-1], theirs[~where][:, :-1])
        assert torch.equal(causal_rows(problem, len(ids[part])), causal_rows(whole)[part])
        denominator += problem.denominator
    assert denominator == whole.denominator


def test_causal_and_masked_rows_in_one_pass_are_those_of_two():
    model = Transformer(Architecture(16, 2, 2, 8, 20), VOCABULARY)
    initialise(model, 3, std=0.3)
    problem = dual(0.5).training_problem(tokens(8), rows_of(8))
    ids, rule, *_ = problem.arguments(torch.device("cpu"))
    with torch.no_grad():
        found = model(ids, rule)
        torch.testing.assert_close(found[:4], model(ids[:4], "causal"))
        torch.testing.assert_close(found[4:], model(ids[4:], "bidirectional"))


def test_masked_rows_train_on_the_bound():
    """Over levels and masks the mean of a row's sum is the enumerated bound, given its start."""
    ids = torch.tensor([[0, 1, 2, 2, 0, 1]])
    oracle, count = NextOracle(JOINT, distort=0.5), 8_000
    problem = dual(0).training_problem(ids.expand(count, -1), rows_of(count))
    sums = row_nll(oracle, problem, MACHINE)
    expected = enumerated_bound(oracle, ids[0, :-1].numpy())
    assert abs(sums.mean() - expected) < 4 * sums.std() / np.sqrt(count)
    assert problem.denominator == count * (LENGTH - 1)


def test_read_with_masks_it_has_the_bound_of_masked_diffusion():
    """The same estimate, draw by draw, from a network with the other output convention."""
    ids = np.random.default_rng(2).integers(VOCABULARY, size=40).astype(np.uint16)
    same_place = MaskedDiffusion(MaskedDiffusionOptions(), MASK)
    found = []
    for goal, kind in ((same_place, SamePlace), (MaskedNextToken(MASK), NextOracle)):
        windows, starts = ScoredWindows(ids, LENGTH), np.array([0, 13, 40])
        it = Evaluator(goal, MACHINE, windows, starts, VOCABULARY, 7)
        oracle = kind(JOINT, 0.5)
        for _ in range(3):
            it.add_draw(oracle)
        found.append((it.result(), it.by_place(), it.by_level()))
    (one, *parts), (other, *others) = found
    assert (one.nll, one.error_draws) == pytest.approx((other.nll, other.error_draws), rel=1e-12)
    np.testing.assert_allclose(parts[0], others[0])
    np.testing.assert_allclose(parts[1], others[1])


def filled(writer, model, ids, **config):
    task = Task(
        model=model.eval(),
        machine=MACHINE,
        ids=ids,
        config=GenerationConfig(**config),
        keys=sample_keys(0, "", len(ids)),
        mask=MASK,
        end=-1,
        vocabulary=VOCABULARY,
    )
    *_, last = writer.WRITER.generate(task)
    return last.ids


@pytest.mark.parametrize("config", [{}, {"order": "ancestral", "steps": 2}, {"block": 2}])
def test_gaps_are_filled_as_by_masked_diffusion(config):
    ids = torch.tensor([[1, MASK, 2, MASK, MASK]]).expand(40, -1)
    text = filled(unmasking_next, NextOracle(JOINT), ids, **config)
    assert torch.equal(text, filled(unmasking, SamePlace(JOINT), ids, **config))
    assert len(text.unique(dim=0)) > 1


def test_gaps_with_a_cached_prefix():
    """The prefix ends before the position that predicts the first hidden token of a block."""
    model = Transformer(Architecture(16, 1, 2, 8, 20), VOCABULARY)
    initialise(model, 3, std=0.5)
    ids = torch.tensor([[1, 2, MASK, MASK, 0, MASK, MASK]]).expand(6, -1)
    one, other = (filled(unmasking_next, model, ids, block=2, cached=c) for c in (False, True))
    assert torch.equal(one, other)

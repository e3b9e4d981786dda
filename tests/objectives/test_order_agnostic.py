"""Any-order reading: an enumerated world, AR from left to right, and the cached writer of gaps."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from epochal import rng
from epochal.data.rows import ScoredWindows
from epochal.families.order_agnostic import AnyOrderOptions as Options
from epochal.generation import any_order
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import sample_keys
from epochal.generation.writer import Task
from epochal.likelihood.nll import Evaluator, row_nll
from epochal.models import Transformer, initialise
from epochal.objectives import Autoregressive, Draw, Rows, objective
from epochal.objectives.order_agnostic import AnyOrder, RandomOrders, random_orders
from epochal.recipe import load_recipe
from epochal.sizes import Architecture
from tiny_world import LENGTH, MACHINE, MASK, VOCABULARY, Oracle, random_joint, true_nll

JOINT = random_joint(5)


class ToldOracle(Oracle):
    """Knows the joint; gives the token of the place that a position is told, from what it sees."""

    def __call__(self, ids, rule, positions=None, log_snr=None):
        if positions is None:
            return super().__call__(ids, rule)
        hidden = torch.zeros(*ids.shape, VOCABULARY, dtype=torch.float64)
        for row in range(len(ids)):
            for place in range(ids.shape[1]):
                seen, full = rule[row, 0, place], np.full(LENGTH, MASK)
                full[positions[0, row][seen]] = ids[row][seen]
                target = min(int(positions[1, row, place]) + 1, LENGTH - 1)
                hidden[row, place] = torch.from_numpy(self.conditionals[(*full, target)])
        return hidden


def rows_of(count):
    keys = rng.row_keys(rng.stream_key(1, "rows"), np.arange(count))
    return Rows(keys, np.arange(count), count, 0)


def tokens(rows, length=LENGTH, of=VOCABULARY):
    return torch.randint(of, (rows, length), generator=torch.Generator().manual_seed(3))


def small_model():
    model = Transformer(Architecture(d_model=32, d_ff=64, head_dim=8, heads=4, layers=2), 50)
    initialise(model, 3, std=0.3)
    return model.double().eval()


def test_of_a_known_joint_every_order_has_its_nll():
    ids = tokens(20)
    scored = torch.ones(ids.shape, dtype=torch.bool)
    scored[:, 0] = False
    draw = Draw(np.zeros(20), rows_of(20).keys)
    expected = [true_nll(JOINT, row) for row in ids.tolist()]
    for how in (RandomOrders(MASK), AnyOrder(Options())):
        problem = how.likelihood_problem(ids, scored, draw)
        found = row_nll(ToldOracle(JOINT), problem, MACHINE)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_bound_is_the_mean_over_all_orders():
    """Of a model whose orders disagree, through the evaluator, with its standard error."""
    oracle, stream = ToldOracle(JOINT, distort=0.7), tokens(1, 2 * LENGTH - 1)[0].numpy()
    windows = ScoredWindows(stream, LENGTH)
    total = 0.0
    for row in windows.rows(0, 2).tolist():
        each = []
        for order in permutations(range(1, LENGTH)):
            hidden = [order[k:] for k in range(len(order))]
            each.append(sum(oracle.nll(row, masked[0], masked) for masked in hidden))
        assert max(each) - min(each) > 0.5
        total += np.mean(each)
    expected = total / (2 * LENGTH - 2)
    evaluator = Evaluator(
        RandomOrders(MASK), MACHINE, windows, np.array([0, len(stream)]), VOCABULARY, 2
    )
    for _ in range(150):
        evaluator.add_draw(oracle)
    result = evaluator.result()
    assert 0 < result.error_draws < 0.05
    assert abs(result.nll - expected) < 4 * result.error_draws


def test_scored_tokens_come_after_the_others_in_uniform_orders():
    given = np.array([True, False, True, False, False])
    orders = random_orders(rows_of(3000).keys, np.tile(given, (3000, 1)))
    assert (orders[:, :2] == torch.tensor([0, 2])).all()
    found, counts = orders[:, 2:].unique(dim=0, return_counts=True)
    assert len(found) == 6
    assert counts.min() > 400


def test_training_is_a_draw_of_the_bound():
    """The same order, read in the order with a causal rule, and in place with a mask."""
    model, ids = small_model(), tokens(4, 10, 50)
    rows = rows_of(4)
    scored = torch.ones(ids.shape, dtype=torch.bool)
    scored[:, 0] = False
    draw = Draw(np.zeros(4), rows.keys)
    trained = row_nll(model, AnyOrder(Options()).training_problem(ids, rows), MACHINE)
    bound = row_nll(model, RandomOrders(50).likelihood_problem(ids, scored, draw), MACHINE)
    np.testing.assert_allclose(trained, bound, rtol=1e-6)


def test_from_left_to_right_it_is_ar():
    model, ids, rows = small_model(), tokens(4, 10, 50), rows_of(4)
    recipe = load_recipe(None, ["family=anyorder", "train.steps=1", "anyorder.left_to_right=1"])
    problem = objective(recipe, 50).training_problem(ids, rows)
    plain = Autoregressive().training_problem(ids, rows)
    assert torch.equal(problem.inputs, plain.inputs)
    assert torch.equal(problem.targets, plain.targets)
    with torch.no_grad():
        assert torch.equal(
            model(problem.inputs, "causal", problem.positions), model(plain.inputs, "causal")
        )
    count = AnyOrder(Options(left_to_right=0.25)).training_problem(tokens(400, 10), rows_of(400))
    straight = (count.positions[0] == torch.arange(9)).all(dim=1)
    assert abs(int(straight.sum()) - 100) < 4 * np.sqrt(75)


def test_a_state_knows_which_place_it_predicts():
    model, ids = small_model(), tokens(1, 6, 50)
    own = torch.tensor([0, 4, 2, 1, 5, 3])[None]
    with torch.no_grad():
        first = model(ids, "causal", torch.stack((own, own)))
        other = own.clone()
        other[0, 3] = 4
        second = model(ids, "causal", torch.stack((own, other)))
    changed = (first - second).abs().amax(dim=2)[0] > 1e-6
    assert changed.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("gaps", [(2, 3, 6), (1, 8)])
def test_gaps_are_written_with_an_exact_cache(gaps):
    model, ids, mask = small_model().float(), tokens(2, 9, 50), 50
    ids[:, list(gaps)] = mask
    config, keys = GenerationConfig(temperature=0.7), sample_keys(1, "x", 2)
    task = Task(
        model=model,
        machine=MACHINE,
        ids=ids,
        config=config,
        keys=keys,
        mask=mask,
        end=0,
        vocabulary=50,
    )
    states = list(any_order.WRITER.generate(task))
    assert [state.settled for state in states] == [*gaps[1:], 9]
    last = states[-1]
    kept = [place for place in range(9) if place not in gaps]
    assert torch.equal(last.ids[:, kept], ids[:, kept])
    order = torch.tensor([*kept, *gaps])
    positions = torch.stack((order[:-1], order[1:] - 1))[:, None]
    with torch.no_grad():
        read = last.ids[:, order]
        logs = (model(read[:, :-1], "causal", positions) @ model.table[:50].T).log_softmax(-1)
    whole = logs.gather(2, read[:, 1:, None]).squeeze(2)[:, -len(gaps) :]
    torch.testing.assert_close(last.log_probs[:, list(gaps)], whole, rtol=0, atol=1e-4)
    again = list(any_order.WRITER.generate(task))[-1]
    assert torch.equal(again.ids, last.ids)

"""Conditional likelihoods against an enumerated world and against reading one at a time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from epochal import rng
from epochal.errors import UserError
from epochal.likelihood.conditional import (
    Request,
    chain_rule,
    exact,
    greedy_match,
    mask_plan,
    monte_carlo,
)
from epochal.likelihood.queries import Query, Reader
from epochal.models import Transformer, initialise
from epochal.sizes import Architecture
from tiny_world import LENGTH, MACHINE, MASK, VOCABULARY, Oracle, random_joint

JOINT = random_joint(1)
ROWS = [(0, 1, 2, 0, 0), (0, 0, 1, 1, 2), (2, 0, 0, 0, 0), (1, 2, 1, 0, 2)]


class LeftToRight(Oracle):
    """Also says what follows a row's last token, which `Oracle` leaves out."""

    def __call__(self, ids, rule, positions=None, log_snr=None):
        longer = torch.cat((ids, torch.zeros_like(ids[:, :1])), dim=1)
        return super().__call__(longer, rule)[:, :-1]


def quiet(done):
    """A report that nobody hears."""


def request(ids, scored, key=0):
    return Request(np.array(ids, dtype=np.int32), scored, key)


def reader_of(model, causal=False, batch=1000, vocabulary=VOCABULARY, **more):
    return Reader(model, MACHINE, causal, vocabulary, batch, **more)


def true_log_prob(ids, scored):
    """log p(the last `scored` | those before) of the joint itself."""
    start = len(ids) - scored
    later = tuple(range(start, LENGTH))
    return np.log(JOINT[ids] / JOINT.sum(axis=later)[ids[:start]])


REQUESTS = [request(ids, m) for ids in ROWS for m in (1, 2, 3, 4)]
TRUE = np.array([true_log_prob(ids, m) for ids in ROWS for m in (1, 2, 3, 4)])


def log_probs(found):
    return np.array([one.log_prob for one in found])


# --- the numbers are right ---------------------------------------------------------------------


def test_a_model_that_knows_the_joint_gives_its_conditionals_in_every_mode():
    """AR, left to right and any order: all three are the joint's own log p."""
    causal = reader_of(LeftToRight(JOINT), True)
    np.testing.assert_allclose(log_probs(exact(causal, REQUESTS, quiet)), TRUE)
    oracle = Oracle(JOINT)
    chain = chain_rule(reader_of(oracle), REQUESTS, MASK, quiet)
    np.testing.assert_allclose(log_probs(chain), TRUE)
    # Up to 4 tokens have at most 15 masks: with 15 passes nothing is left to chance.
    every = monte_carlo(reader_of(oracle), REQUESTS, MASK, 15, 0, quiet)
    np.testing.assert_allclose(log_probs(every), TRUE)
    assert all(one.standard_error == 0 for one in every)


def enumerated(oracle, ids, scored):
    """−E_K E_M [m/K · Σ NLL], written out over all masks M of the last m places."""
    total, start = 0.0, len(ids) - scored
    for size in range(1, scored + 1):
        subsets = list(combinations(range(start, len(ids)), size))
        total += np.mean([sum(oracle.nll(ids, i, m) for i in m) for m in subsets]) / size
    return -total


def test_a_model_with_errors_gives_the_enumerated_bound_and_chain():
    oracle = Oracle(JOINT, distort=0.7)
    bound = [enumerated(oracle, ids, m) for ids in ROWS for m in (1, 2, 3, 4)]
    every = monte_carlo(reader_of(oracle), REQUESTS, MASK, 15, 0, quiet)
    np.testing.assert_allclose(log_probs(every), bound)
    chain = [
        -sum(oracle.nll(ids, i, range(i, LENGTH)) for i in range(LENGTH - m, LENGTH))
        for ids in ROWS
        for m in (1, 2, 3, 4)
    ]
    found = chain_rule(reader_of(oracle), REQUESTS, MASK, quiet)
    np.testing.assert_allclose(log_probs(found), chain)
    # Either is a bound of its own; with errors in the model they differ.
    assert np.abs(np.array(chain) - bound).max() > 0.05


def test_drawn_masks_are_unbiased_with_an_honest_error():
    """7 of the 15 masks of four tokens, 2000 times, against the enumerated bound."""
    oracle = Oracle(JOINT, distort=0.7)
    asked = [request(ROWS[0], 4, key) for key in range(2000)]
    found = monte_carlo(reader_of(oracle), asked, MASK, 7, 5, quiet)
    values, errors = log_probs(found), np.array([one.standard_error for one in found])
    standard = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - enumerated(oracle, ROWS[0], 4)) < 4 * standard
    assert values.std() > 0.01
    assert 0.8 < values.std() / np.sqrt(np.square(errors).mean()) < 1.25


@pytest.mark.parametrize(("tokens", "draws"), [(1, 7), (3, 7), (5, 32), (6, 32), (9, 8), (40, 33)])
def test_each_token_weighs_one_on_average(tokens, draws):
    plans = [mask_plan(tokens, draws, rng.stream_key(0, "t", n)) for n in range(400)]
    weight = np.array([(plan.weights[:, None] * plan.masks).sum(axis=0) for plan in plans])
    np.testing.assert_allclose(weight.sum(axis=1), tokens)
    spread = weight.std(axis=0) / 20
    assert (np.abs(weight.mean(axis=0) - 1) < 4.5 * spread + 1e-9).all()
    assert all(len(plan.masks) <= draws for plan in plans)
    assert all(plan.masks.any(axis=1).all() for plan in plans)


def test_counts_are_uniform():
    """Each count of masked tokens has the probability 1/m."""
    tokens, seen = 7, np.zeros(8)
    for n in range(3000):
        plan = mask_plan(tokens, 9, rng.stream_key(1, "u", n))
        sizes = plan.masks.sum(axis=1)
        np.add.at(seen, sizes, plan.weights * sizes / tokens)
    np.testing.assert_allclose(seen[1:] / 3000, 1 / 7, atol=0.006)


def test_too_few_draws():
    with pytest.raises(UserError, match="draws = 6: at least 7"):
        monte_carlo(reader_of(Oracle(JOINT)), REQUESTS, MASK, 6, 0, quiet)


# --- greedy ------------------------------------------------------------------------------------


def test_greedy_is_what_the_samplers_write():
    oracle = Oracle(JOINT, distort=0.7)
    for start in range(1, LENGTH):
        for first in ROWS:
            ids = np.full(LENGTH, MASK)
            ids[:start] = first[:start]
            by_confidence, left_to_right = ids.copy(), ids.copy()
            for place in range(start, LENGTH):
                left_to_right[place] = oracle.conditionals[(*left_to_right, place)].argmax()
            while (masked := np.flatnonzero(by_confidence == MASK)).size:
                logs = oracle.conditionals[tuple(by_confidence)][masked]
                surest = logs.max(axis=1).argmax()
                by_confidence[masked[surest]] = logs[surest].argmax()
            scored = LENGTH - start
            asked = [request(by_confidence, scored), request(left_to_right, scored)]
            wrong = by_confidence.copy()
            wrong[-1] = (wrong[-1] + 1) % VOCABULARY
            asked.append(request(wrong, scored))
            same = bool((by_confidence == left_to_right).all())
            reader = reader_of(oracle)
            assert greedy_match(reader, asked, MASK, quiet) == [True, same, False]
            chain = chain_rule(reader, asked[:2], MASK, quiet)
            assert [one.greedy for one in chain] == [same, True]
            causal = exact(reader_of(LeftToRight(JOINT, distort=0.7), True), asked[:2], quiet)
            assert [one.greedy for one in causal] == [same, True]


# --- batching changes nothing ------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    it = Transformer(Architecture(16, 2, 2, 8, 20), 30)
    initialise(it, 3)
    with torch.no_grad():
        for weight in it.parameters():
            weight.mul_(5.0)
    return it.eval()


def some_requests(count, seed=1):
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        length = int(random.integers(4, 24))
        ids = random.integers(1, 30, length).astype(np.int32)
        made.append(Request(ids, int(random.integers(1, length)), n // 2))
    return made


@pytest.mark.parametrize("batch", [1, 60, 5000])
def test_batches_of_rows_of_any_length_answer_like_single_rows(model, batch):
    random = np.random.default_rng(2)
    for causal in (True, False):
        queries = []
        for asked in some_requests(23):
            places = np.sort(random.choice(len(asked.ids), 3, replace=False))
            queries.append(Query(asked.ids, places, random.integers(0, 30, 3)))
        queries.append(queries[4])
        reader = reader_of(model, causal, batch, vocabulary=30)
        answers = reader.answer(queries)
        assert reader.rows_read == 23  # the row that is there twice is read once
        rule = "causal" if causal else "bidirectional"
        for query, answer in zip(queries, answers, strict=True):
            ids = torch.from_numpy(query.ids.astype(np.int64))[None]
            logs = model.logits(ids, rule)[0, :, :30].log_softmax(-1)[query.places]
            expected = logs.gather(1, torch.from_numpy(query.targets)[:, None])[:, 0]
            np.testing.assert_allclose(answer.log_probs, expected.detach(), rtol=2e-4, atol=2e-4)
            assert (answer.best == logs.argmax(-1).numpy()).all()
            np.testing.assert_allclose(
                answer.best_log_probs, logs.max(-1)[0].detach(), rtol=2e-4, atol=2e-4
            )


def test_scores_do_not_depend_on_company_or_order(model):
    asked = some_requests(12)
    ways = {
        "exact": lambda some: exact(reader_of(model, True, 200, 30), some, quiet),
        "chain": lambda some: chain_rule(reader_of(model, False, 200, 30), some, 30, quiet),
        "mc": lambda some: monte_carlo(reader_of(model, False, 200, 30), some, 30, 9, 0, quiet),
    }
    for way in ways.values():
        together, alone = way(asked), [way([one])[0] for one in asked]
        np.testing.assert_allclose(log_probs(together), log_probs(alone), rtol=1e-4)
        np.testing.assert_allclose(log_probs(way(asked[::-1]))[::-1], log_probs(alone), rtol=1e-4)


def test_padding_with_masks_is_ordinary_input(model):
    [asked] = some_requests(1)
    padded = reader_of(model, False, 200, 30, pad_to=40, pad_id=30)
    ids = np.concatenate([asked.ids, np.full(40 - len(asked.ids), 30)]).astype(np.int32)
    logs = model.logits(torch.from_numpy(ids.astype(np.int64))[None], "bidirectional")
    logs = logs[0, :, :30].log_softmax(-1).detach()
    [answer] = padded.answer([Query(asked.ids, np.array([2]), np.array([5]))])
    assert answer.log_probs[0] == pytest.approx(float(logs[2, 5]), rel=1e-4)


def test_an_empty_continuation_is_certain(model):
    nothing = request([3, 4], 0)
    assert log_probs(exact(reader_of(model, True, 99, 30), [nothing], quiet)) == [0.0]
    reader = reader_of(model, False, 99, 30)
    assert log_probs(monte_carlo(reader, [nothing], 30, 9, 0, quiet)) == [0.0]
    assert greedy_match(reader, [nothing], 30, quiet) == [True]


def test_progress_is_told(model):
    heard = []
    exact(reader_of(model, True, 10, 30), some_requests(9), heard.append)
    assert heard[-1] == 9
    assert heard == sorted(heard)


def test_choices_of_a_padded_question_share_rows_and_the_first_step(model):
    """With all their tokens masked, choices of any length are one row of context and masks."""
    context = [3, 4, 5]
    asked = [request([*context, *choice], len(choice)) for choice in ([7], [8, 9], [7, 11])]
    padded = reader_of(model, False, 999, 30, pad_to=12, pad_id=30)
    found = monte_carlo(padded, asked, 30, 9, 0, quiet)
    # 1 + 3 + 3 masks; the three of everything, and [7, mask] of the third, are one row each.
    assert padded.rows_read == 1 + 2 * 2
    alone = [
        monte_carlo(reader_of(model, False, 999, 30, pad_to=12, pad_id=30), [one], 30, 9, 0, quiet)
        for one in asked
    ]
    np.testing.assert_allclose(log_probs(found), [one.log_prob for [one] in alone], rtol=1e-5)
    matches = greedy_match(padded, asked, 30, quiet)
    assert all(one.greedy in (None, match) for one, match in zip(found, matches, strict=True))
    assert found[0].greedy is not None

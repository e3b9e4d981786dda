"""Order perturbation and token masking of the autoregressive objective."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from epochal import rng
from epochal.errors import RecipeError
from epochal.families.autoregressive import AutoregressiveOptions as Options
from epochal.models import Transformer, initialise
from epochal.objectives import Autoregressive, Draw, Rows, objective
from epochal.objectives.attention_mask import RandomCausalMask, masking_probability
from epochal.objectives.autoregressive import order_lists, row_orders
from epochal.recipe import load_recipe
from epochal.sizes import Architecture


def rows_of(count, seed=0):
    keys = rng.row_keys(rng.stream_key(seed, "rows"), np.arange(count))
    return Rows(keys, np.arange(count), count, rng.stream_key(seed, "step"))


def perturbed(orders, length, kind="noise_sorted"):
    return Autoregressive(
        Options(orders=orders, order_kind=kind), sequence_length=length, seed=1234
    )


def test_the_papers_worked_example(monkeypatch):
    """paper.md §8: π = [2,0,1,4,5,3] reads [0,3,1,2,5,6] and asks for [3,1,2,5,6,4]."""
    one = perturbed(2, 6)
    monkeypatch.setattr(one, "_orders", np.array([[2, 0, 1, 4, 5, 3]]))
    problem = one.training_problem(torch.arange(7)[None], rows_of(1))
    assert problem.inputs.tolist() == [[0, 3, 1, 2, 5, 6]]
    assert problem.targets.tolist() == [[3, 1, 2, 5, 6, 4]]
    assert problem.positions.tolist() == [[0, 3, 1, 2, 5, 6]]
    assert (problem.attention, problem.denominator) == ("causal", 6)


@pytest.mark.parametrize("kind", ["noise_sorted", "random"])
def test_lists_are_permutations_and_the_first_is_left_to_right(kind):
    lists = order_lists(16, 50, kind, 1234)
    assert lists.shape == (16, 50)
    assert lists[0].tolist() == list(range(50))
    assert (np.sort(lists, axis=1) == np.arange(50)).all()
    assert len({tuple(one) for one in lists[2:].tolist()}) == 14
    assert np.array_equal(lists, order_lists(16, 50, kind, 1234))
    assert np.array_equal(lists[:4], order_lists(4, 50, kind, 1234))  # more orders keep the first
    assert not np.array_equal(lists[5:], order_lists(16, 50, kind, 1235)[5:])


def test_noise_grows_with_the_number_of_the_list():
    """List i sorts j + i·N(0, 1): away from the ends, place r holds j = r − i·N(0, 1)."""
    lists = order_lists(31, 20_000, "noise_sorted", 7)
    for number in (3, 15, 30):
        moved = (lists[number] - np.arange(20_000))[200:-200]
        assert stats.kstest(moved / number, "norm").statistic < 0.5 / number + 0.02


def test_random_lists_are_uniform():
    seen = Counter(tuple(one) for one in order_lists(6000, 3, "random", 3)[1:].tolist())
    assert len(seen) == 6
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_each_row_draws_its_own_list():
    lists = order_lists(4, 30, "random", 1)
    places = row_orders(lists, rows_of(8000))
    assert (places[:, 0] == 0).all()
    drawn = (places[:, None, 1:] - 1 == lists[None]).all(axis=2)
    assert (drawn.sum(axis=1) == 1).all()
    assert stats.chisquare(drawn.sum(axis=0)).pvalue > 1e-3


def small_model():
    model = Transformer(Architecture(d_model=32, d_ff=64, head_dim=8, heads=4, layers=2), 50)
    initialise(model, 3)
    return model.double().eval()


def test_positions_move_with_their_tokens():
    """The same as leaving the tokens in place and hiding by a mask what is read later."""
    length, rows = 12, 5
    ids = torch.randint(50, (rows, length + 1), generator=torch.Generator().manual_seed(2))
    problem = perturbed(6, length, "random").training_problem(ids, rows_of(rows))
    model = small_model()
    with torch.no_grad():
        found = model(problem.inputs, "causal", problem.positions)
        for row in range(rows):
            order = problem.positions[row]
            rank = torch.full((length + 1,), length + 1)
            rank[order] = torch.arange(length)
            seen = rank[None, :] <= rank[:, None]
            place = torch.arange(length + 1)
            hidden = model(ids[row][None], seen[None, None], place)[0]
            torch.testing.assert_close(found[row], hidden[order], rtol=1e-5, atol=1e-5)
            later = ids[row][torch.cat((order[1:], (rank == length + 1).nonzero()[0]))]
            assert torch.equal(problem.targets[row], later)


def test_evaluation_reads_left_to_right():
    ids = torch.arange(9)[None]
    one = Autoregressive(Options(orders=9, token_masking=1.0), sequence_length=8, seed=1)
    scored = torch.ones(1, 9, dtype=torch.bool)
    for problem in (one.likelihood_problem(ids, scored, None), one.paper_problem(ids, None)):
        assert problem.attention == "causal"
        assert problem.positions is None
        assert problem.inputs[0, :8].tolist() == list(range(8))


# --- token masking ----


def masks(rows, length, share, seed=0):
    it = Autoregressive(Options(token_masking=share))
    ids = torch.zeros(rows, length + 1, dtype=torch.long)
    problem = it.training_problem(ids, rows_of(rows, seed))
    assert isinstance(problem.attention, RandomCausalMask)
    mask = problem.arguments(torch.device("cpu"))[1]
    assert mask.shape == (rows, 1, length, length)
    assert mask.dtype == torch.bool
    return mask[:, 0].numpy()


def test_draws_on_the_device_are_rngs():
    keys = rng.row_keys(3, np.arange(4))
    probability = rng.uniforms(rng.row_keys(4, np.arange(4)), 9)
    found = RandomCausalMask.drawn(keys, probability).mask(torch.device("cpu"))[:, 0].numpy()
    draws = rng.uniforms(keys, 81).reshape(4, 9, 9)
    causal = np.tril(np.ones((9, 9), dtype=bool))
    expected = causal & ~(draws < probability[:, :, None]) | np.eye(9, dtype=bool)
    assert np.array_equal(found, expected)


def test_nobody_is_blind_to_itself_or_sees_ahead():
    mask = masks(50, 12, 1.0)
    assert mask[:, np.arange(12), np.arange(12)].all()
    assert not np.triu(mask, 1).any()
    assert 0 < np.tril(mask, -1).sum() < 50 * 66


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_hidden_with_the_originals_probability(share):
    """p = ε + (1−ε)·t at a share of the positions, one t for all that a position sees."""
    eps, rows = 1e-3, 10_000
    mask = masks(rows, 5, share)
    one = 1 - share * (eps + (1 - eps) / 2)
    both = 1 - share + share * (1 - eps) ** 2 / 3  # E (1−p)² with 1−p = (1−ε)(1−t)
    for i in range(1, 5):
        for j in range(i):
            assert abs(mask[:, i, j].mean() - one) < 4 * np.sqrt(one * (1 - one) / rows)
    pair = (mask[:, 4, 0] & mask[:, 4, 2]).mean()
    assert abs(pair - both) < 4 * np.sqrt(both * (1 - both) / rows)
    apart = (mask[:, 4, 0] & mask[:, 3, 0]).mean()  # other positions have other draws
    assert abs(apart - one**2) < 4 * np.sqrt(one**2 * (1 - one**2) / rows)


def test_a_share_of_the_positions_is_chosen():
    probability = masking_probability(rng.row_keys(1, np.arange(4000)), 10, 0.3, 1e-3)
    chosen = probability > 0
    assert stats.binomtest(int(chosen.sum()), chosen.size, 0.3).pvalue > 1e-3
    t = (probability[chosen] - 1e-3) / (1 - 1e-3)
    assert stats.kstest(t, "uniform").pvalue > 1e-3


def test_masks_do_not_depend_on_the_micro_batch_and_go_with_orders():
    it = Autoregressive(Options(token_masking=0.5, orders=3), sequence_length=7, seed=1)
    ids = torch.arange(8).repeat(6, 1)
    rows = rows_of(6)
    whole = it.training_problem(ids, rows)
    mask = whole.arguments(torch.device("cpu"))[1]
    for start in range(0, 6, 2):
        part = slice(start, start + 2)
        cut = it.training_problem(ids[part], Rows(rows.keys[part], rows.place[part], 6, 0))
        assert torch.equal(cut.arguments(torch.device("cpu"))[1], mask[part])
        assert torch.equal(cut.positions, whole.positions[part])


def test_a_hidden_token_has_no_influence():
    model, ids = small_model(), torch.randint(50, (1, 9))
    it = Autoregressive(Options(token_masking=1.0))
    problem = it.training_problem(ids, rows_of(1, 5))
    mask = problem.arguments(torch.device("cpu"))[1]
    with torch.no_grad():
        before = model(problem.inputs, mask)
        for j in range(8):
            changed = problem.inputs.clone()
            changed[0, j] = (changed[0, j] + 1) % 50
            moved = (model(changed, mask) - before).abs().amax(dim=2)[0] > 1e-9
            reach = mask[0, 0].double()
            reach = (reach @ reach)[:, j] > 0  # two layers: directly, or through another token
            assert torch.equal(moved, reach)


# --- replacement -------------------------------------------------------------------------------


def test_replacement_changes_a_share_of_the_inputs_and_no_target():
    ids = torch.randint(7, (200, 101), generator=torch.Generator().manual_seed(1)) + 7
    it = Autoregressive(Options(replacement=0.2), vocabulary=7)
    problem = it.training_problem(ids, rows_of(200))
    assert torch.equal(problem.targets, ids[:, 1:])
    assert (problem.weights == 1).all()
    replaced = problem.inputs != ids[:, :-1]  # the vocabulary that is drawn from is another
    count = int(replaced.sum())
    assert abs(count - 4000) < 4 * np.sqrt(20_000 * 0.2 * 0.8)
    drawn = torch.bincount(problem.inputs[replaced], minlength=7).numpy()
    assert len(drawn) == 7
    assert stats.chisquare(drawn).pvalue > 1e-3
    part = rows_of(200)
    cut = Rows(part.keys[3:9], part.place[3:9], 200, part.step_key)
    assert torch.equal(it.training_problem(ids[3:9], cut).inputs, problem.inputs[3:9])
    orders = Options(replacement=0.2, orders=3)
    both = Autoregressive(orders, sequence_length=100, seed=1, vocabulary=7)
    moved = both.training_problem(ids, part)
    assert torch.equal(moved.inputs != ids.gather(1, moved.positions), replaced)


def test_evaluation_replaces_nothing():
    ids = torch.randint(7, (4, 9))
    it = Autoregressive(Options(replacement=1.0), vocabulary=7)
    scored = torch.ones(ids.shape, dtype=torch.bool)
    draw = Draw(np.zeros(4), rows_of(4).keys)
    assert torch.equal(it.likelihood_problem(ids, scored, draw).inputs, ids)
    assert torch.equal(it.paper_problem(ids, draw).inputs, ids[:, :-1])


# --- direction, offset, masked copy --------------------------------------------------------------


def as_the_sources_code(tokens, vocabulary, backwards, offset):
    """One row, written out: its markers, and what each position predicts (None: nothing)."""
    read = list(reversed(tokens)) if backwards else list(tokens)
    markers = [vocabulary + 1] * backwards + [vocabulary + offset] * (offset > 1)
    inputs = (markers + read)[: len(tokens) - 1]
    targets = []
    for position in range(len(inputs)):
        last_read = position - len(markers)  # −1: all markers and nothing of the row
        ahead = last_read + offset
        known = last_read >= -1 and ahead < len(read)
        targets.append(read[ahead] if known else None)
    return inputs, targets


@pytest.mark.parametrize(("share", "largest"), [(0.5, 1), (0, 5), (0.5, 5)])
def test_directions_and_offsets_are_the_sources(share, largest):
    ids = torch.randint(50, (400, 12), generator=torch.Generator().manual_seed(1))
    it = Autoregressive(Options(right_to_left=share, largest_offset=largest), vocabulary=50)
    problem = it.training_problem(ids, rows_of(400))
    kinds = Counter()
    for row, tokens in enumerate(ids.tolist()):
        found = problem.inputs[row].tolist()
        backwards = found[0] == 51
        marker = found[1] if backwards else found[0]
        offset = marker - 50 if marker > 51 else 1
        inputs, targets = as_the_sources_code(tokens, 50, backwards, offset)
        assert found == inputs
        weights, wanted = problem.weights[row].tolist(), problem.targets[row].tolist()
        assert [t if w else None for t, w in zip(wanted, weights, strict=True)] == targets
        kinds[backwards, offset] += 1
    assert problem.denominator == int(problem.weights.sum())
    by_offset = np.exp(-np.arange(largest)) / np.exp(-np.arange(largest)).sum()
    expected = {
        (d, i + 1): (share if d else 1 - share) * p
        for i, p in enumerate(by_offset)
        for d in (False, True)
    }
    kept = [(kinds[kind], 400 * p) for kind, p in expected.items() if p]
    assert sum(count for count, _ in kept) == 400
    assert stats.chisquare(*zip(*kept, strict=True)).pvalue > 1e-3
    cut = rows_of(400)
    part = it.training_problem(ids[7:9], Rows(cut.keys[7:9], cut.place[7:9], 400, 0))
    assert torch.equal(part.inputs, problem.inputs[7:9])


def test_markers_are_never_replaced():
    it = Autoregressive(Options(right_to_left=0.5, replacement=1.0), vocabulary=50)
    problem = it.training_problem(torch.zeros(60, 9, dtype=torch.long), rows_of(60))
    marked = problem.inputs[:, 0] == 51
    assert 15 < marked.sum() < 45
    assert (problem.inputs[:, 1:] < 50).all()


def test_a_masked_copy_follows_each_row():
    ids = torch.randint(50, (500, 41), generator=torch.Generator().manual_seed(1))
    it = Autoregressive(Options(masked_copy=0.4, orders=3), sequence_length=40, vocabulary=50)
    plain = Autoregressive(Options(orders=3), sequence_length=40).training_problem(
        ids, rows_of(500)
    )
    problem = it.training_problem(ids, rows_of(500))
    assert torch.equal(problem.inputs[::2], plain.inputs)
    masked = problem.inputs[1::2] == 50
    assert torch.equal(problem.inputs[1::2][~masked], plain.inputs[~masked])
    for name in ("targets", "positions"):
        for first in (0, 1):
            assert torch.equal(getattr(problem, name)[first::2], getattr(plain, name))
    assert (problem.weights[::2] == 1).all()
    assert (problem.weights[1::2] == torch.tensor(0.4)).all()
    assert problem.denominator == plain.denominator
    assert not masked[:, :8].any()
    counts = masked[:, 8:].sum(dim=1).double()
    # A share from U(0, ½) of 32: mean 8, variance E[32·p·(1 − p)] + 32²·(½)²/12.
    assert abs(counts.mean() - 8) < 4 * np.sqrt(26.67 / 500)
    assert abs(counts.var() - (32 * (1 / 4 - 1 / 12) + 32**2 / 48)) < 5


def test_the_loss_of_a_copy_is_added():
    """NTP + 0.4 · masked NTP, each the mean over the row's tokens."""
    model, ids = small_model(), torch.randint(50, (3, 21))
    problem = Autoregressive(Options(masked_copy=0.4), vocabulary=50).training_problem(
        ids, rows_of(3)
    )
    with torch.no_grad():
        logs = model.logits(problem.inputs, "causal").log_softmax(-1)
        nll = -logs.gather(2, problem.targets[..., None]).squeeze(2)
    loss = (problem.weights * nll).sum() / problem.denominator
    torch.testing.assert_close(loss, nll[::2].mean() + 0.4 * nll[1::2].mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        Options(token_masking=0.1, masked_copy=0.4),
        Options(token_masking=0.1, right_to_left=0.5),
        Options(orders=2, largest_offset=5),
    ],
)
def test_options_that_exclude_each_other(options):
    with pytest.raises(RecipeError, match="cannot be combined"):
        Autoregressive(options, sequence_length=8, vocabulary=50)


def test_a_table_without_rows_for_markers_names_the_key():
    words = ["model.size=7M", "train.steps=1", "model.padded_vocab_size=128", "ar.largest_offset=5"]
    recipe = load_recipe(None, words)
    assert objective(recipe, 122).options.largest_offset == 5
    with pytest.raises(RecipeError, match="padded_vocab_size"):
        objective(recipe, 123)
    assert objective(load_recipe(None, words[:3]), 128)

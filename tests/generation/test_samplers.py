"""Whole samplers: against enumerated worlds, and cached against uncached."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from epochal.errors import OptionError
from epochal.generation import autoregressive, unmasking
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import certainty, sample_keys
from epochal.generation.unmasking import blocks
from epochal.generation.writer import Task
from epochal.models import Transformer, initialise
from epochal.sizes import Architecture
from tiny_world import LENGTH, MACHINE, MASK, VOCABULARY, Oracle, random_joint

V, M, END = 30, 30, 0  # of the small transformer


def small_model(layers=2, seed=3):
    it = Transformer(Architecture(16, layers, 2, 8, 20), V)
    initialise(it, seed)
    with torch.no_grad():
        for weight in it.parameters():
            weight.mul_(6.0)
    return it.eval()


@pytest.fixture(scope="module")
def model():
    return small_model()


def prompts(rows, length, seed=1):
    return torch.randint(1, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def task(model, ids, config, seed=0, keys=None, mask=M, end=-1, vocabulary=V):
    keys = sample_keys(seed, "", len(ids)) if keys is None else keys
    rows = {"model": model, "machine": MACHINE, "ids": ids, "config": config, "keys": keys}
    return Task(**rows, mask=mask, end=end, vocabulary=vocabulary)


def continued(model, prompt, tokens, temperature=0, **more):
    """[B, up to `tokens`] what is written after the prompts."""
    config = GenerationConfig(tokens=tokens, temperature=temperature)
    *_, last = autoregressive.WRITER.generate(task(model, prompt, config, **more))
    assert last.settled == last.ids.shape[1]
    return last.ids[:, prompt.shape[1] :]


def states(model, ids, seed=0, keys=None, mask=M, vocabulary=V, temperature=0, **config):
    options = GenerationConfig(temperature=temperature, **config)
    rows = task(model, ids, options, seed, keys, mask, vocabulary=vocabulary)
    return list(unmasking.WRITER.generate(rows))


def fill(*given, **more):
    return states(*given, **more)[-1].ids


# --- autoregressive ----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("prefill", [1, 2, 3, 100])
def test_greedy_text_with_the_cache_is_that_without(model, length, prefill, monkeypatch):
    monkeypatch.setattr(autoregressive, "PREFILL_TOKENS", prefill)
    prompt = prompts(3, length)
    ids = prompt
    for _ in range(12):
        logits = model.logits(ids, "causal")[:, -1, :V]
        ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
    assert torch.equal(continued(model, prompt, 12), ids[:, length:])


def test_after_the_end_there_is_only_the_end(model):
    prompt = prompts(6, 3)
    free = continued(model, prompt, 15, temperature=1, seed=2)
    end = int(free[2, 4])
    found = continued(model, prompt, 15, temperature=1, seed=2, end=end)
    for row in found.tolist():
        if end in row:
            assert set(row[row.index(end) :]) == {end}
    one = continued(model, prompt[2:3], 15, end=int(continued(model, prompt[2:3], 1)[0, 0]))
    assert one.shape == (1, 1)  # all samples have ended


class LeftToRight(Oracle):
    """Also says what follows a row's last token, and reads after a cache."""

    def new_caches(self, rows, capacity):
        self.read = torch.zeros((rows, 0), dtype=torch.long)
        return []

    def __call__(self, ids, rule, caches=None):
        self.read = torch.cat((self.read, ids), dim=1)
        longer = torch.cat((self.read, torch.zeros_like(ids[:, :1])), dim=1)
        return super().__call__(longer, rule)[:, :-1][:, -ids.shape[1] :]


SAMPLES = 20_000


def frequencies(rows):
    """How often each of the V^4 continuations of token 0 was written."""
    number = (rows * VOCABULARY ** torch.arange(LENGTH - 2, -1, -1)).sum(dim=1)
    return torch.bincount(number, minlength=VOCABULARY ** (LENGTH - 1)).numpy()


def fits(counts, probabilities):
    """Chi-square of counts against probabilities, rare cells together; p > 0.001."""
    expected = probabilities / probabilities.sum() * counts.sum()
    common = expected >= 8
    counts = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    return chisquare(counts, expected).pvalue > 1e-3


def test_ar_samples_have_the_joint_distribution():
    joint = random_joint(4, concentration=1.0)
    oracle = LeftToRight(joint)
    start, config = torch.zeros((SAMPLES, 1), dtype=torch.long), GenerationConfig(tokens=LENGTH - 1)
    *_, last = autoregressive.WRITER.generate(
        task(oracle, start, config, 5, None, MASK, -1, VOCABULARY)
    )
    assert fits(frequencies(last.ids[:, 1:]), joint[0].ravel())


# --- masked diffusion, in distribution ---------------------------------------------------------


class Knower(Oracle):
    """With the signature that the sampler calls."""

    def __call__(self, ids, rule, caches=None):
        assert caches is None
        return super().__call__(ids, rule)


def written(oracle, samples=SAMPLES, **config):
    ids = torch.full((samples, LENGTH), MASK)
    ids[:, 0] = 0
    rows = fill(oracle, ids, 6, mask=MASK, vocabulary=VOCABULARY, temperature=1, **config)
    return frequencies(rows[:, 1:])


def by_orders(oracle, weights):
    """[V^4] distribution of filling one place at a time, averaged over given orders."""
    total = np.zeros((VOCABULARY,) * (LENGTH - 1))
    for order, weight in weights.items():
        for tokens in product(range(VOCABULARY), repeat=LENGTH - 1):
            seen, p = [0, *[MASK] * (LENGTH - 1)], weight
            for place in order:
                p *= np.exp(oracle.conditionals[(*seen, place, tokens[place - 1])])
                seen[place] = tokens[place - 1]
            total[tokens] += p
    return total.ravel()


@pytest.mark.parametrize("order", ["ancestral", "confidence"])
def test_one_place_a_step_by_a_model_that_knows_the_joint_gives_the_joint(order):
    """Blocks of one: whatever the measure, the order is then left to right."""
    joint = random_joint(4, concentration=1.0)
    counts = written(Knower(joint), steps=LENGTH - 1, order=order, block=1)
    assert fits(counts, joint[0].ravel())


def test_ancestral_steps_give_the_average_over_orders():
    """Many steps: each place comes alone, in a random order, also with a model that errs."""
    oracle = Knower(random_joint(4, concentration=1.0), distort=0.5)
    orders = {}
    places = range(1, LENGTH)
    for order in product(places, repeat=LENGTH - 1):
        if len(set(order)) == LENGTH - 1:
            orders[order] = 1 / 24
    expected = by_orders(oracle, orders)
    assert expected.sum() == pytest.approx(1)
    # With 150 steps two of the four places meet in one step in 4 % of the samples; the model's
    # joint of two places in a step differs little from that of one after the other.
    slow, fast = (written(oracle, 8000, steps=steps, order="ancestral") for steps in (150, 1))
    assert fits(slow, expected)
    assert not fits(fast, expected)


@pytest.mark.parametrize("remask", [0.0, 0.5, 0.9])
def test_the_masked_share_is_the_schedule_s_with_and_without_remasking(model, remask):
    """4 steps: a quarter is unmasked in each; remasking unmasks as many more as it masks."""
    ids = torch.full((120, 20), M)
    found = states(model, ids, steps=4, order="ancestral", remask=remask, temperature=1)
    shares = [(state.ids == M).double().mean().item() for state in found]
    for share, expected in zip(shares, (0.75, 0.5, 0.25, 0), strict=True):
        assert share == pytest.approx(expected, abs=4.5 * (0.25 / 2400) ** 0.5)
    hidden = (found[0].ids != M) & (found[1].ids == M)
    assert hidden.any().item() == (remask > 0)


# --- masked diffusion, step by step ------------------------------------------------------------

ORDERS = ["confidence", "margin", "entropy", "ancestral"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 3, 10, 50])
@pytest.mark.parametrize("more", [{}, {"remask": 0.4}, {"block": 5}, {"block": 4, "remask": 0.3}])
def test_every_mask_is_filled_and_nothing_else_touched(model, order, steps, more):
    ids = prompts(3, 14)
    ids[:, [2, 3, 5, 6, 7, 10, 11, 13]] = M
    hidden, before = ids == M, ids.clone()
    steps = max(steps, 2 if "block" in more else 1)
    found = states(model, ids, steps=steps, order=order, temperature=1, **more)
    assert torch.equal(ids, before)  # the argument is left alone
    assert torch.equal(found[-1].ids[~hidden], before[~hidden])
    assert found[-1].ids.max() < V
    assert found[-1].settled == 14
    for state in found:
        assert torch.equal(state.ids[:, : state.settled], found[-1].ids[:, : state.settled])
    assert (found[-1].log_probs[hidden] < 0).all()
    assert (found[-1].log_probs[~hidden] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("order", ["confidence", "margin", "entropy"])
@pytest.mark.parametrize("remask", [0.0, 0.5])
def test_the_surest_come_first_equally_many_per_step(model, order, remask):
    """Greedy, against a loop written out: ⌈masked / steps left⌉ surest, the least sure again."""
    ids = torch.full((1, 11), M)
    ids[0, 3] = 7
    steps, sure, expected = 4, {}, ids[0].tolist()
    found = states(model, ids, steps=steps, order=order, remask=remask)
    for step in range(steps):
        logits = model.logits(torch.tensor([expected]), "bidirectional")[0, :, :V]
        token = logits.argmax(-1)
        score = certainty(logits, token, order).tolist()
        masked = [i for i in range(11) if expected[i] == M]
        again = int(remask * len(sure)) if step < steps - 1 else 0
        hide = sorted(sure, key=lambda i: sure[i])[:again]
        masked.sort(key=lambda i, score=score: -score[i])
        for place in masked[: -(-len(masked) // (steps - step)) + again]:
            expected[place], sure[place] = int(token[place]), score[place]
        for place in hide:
            expected[place] = M
            del sure[place]
        assert found[step].ids[0].tolist() == expected
    assert len(found) == steps


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("remask", [0.0, 0.2])
def test_a_sample_does_not_depend_on_its_batch(model, order, block, remask):
    ids = torch.full((6, 12), M)
    ids[:, 0] = 9  # places of a row of masks alone are all equally sure, up to rounding
    keys = sample_keys(1, "", 6)
    # Of 6 steps a block, some rows need fewer by chance: the next block must not notice.
    config = {"steps": 18, "order": order, "block": block, "remask": remask, "temperature": 1}
    together = fill(model, ids, keys=keys, **config)
    alone = [fill(model, ids[:1], keys=keys[i : i + 1], **config) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together[0], together[1])
    prompt = prompts(1, 3).repeat(6, 1)
    texts = continued(model, prompt, 9, temperature=1, keys=keys)
    for i in range(6):
        assert torch.equal(
            texts[i : i + 1], continued(model, prompt[:1], 9, temperature=1, keys=keys[i : i + 1])
        )


def test_blocks_are_filled_from_left_to_right(model):
    ids = prompts(2, 13)
    ids[:, [1, 2, 4, 6, 7, 8, 10, 12]] = M
    found = states(model, ids, steps=6, block=3, temperature=1)
    for left, right in pairwise([[1, 2, 4], [6, 7, 8], [10, 12]]):
        for state in found:
            if (state.ids[:, right] != M).any():
                assert (state.ids[:, left] != M).all()
    parts = blocks(GenerationConfig(steps=6, block=3), 8)
    assert [end - first for first, end, _ in parts] == [3, 3, 2]
    assert [steps for *_, steps in parts] == [2, 2, 2]
    assert sum(steps for *_, steps in blocks(GenerationConfig(steps=7, block=3), 8)) == 7


@pytest.mark.parametrize(("layers", "steps", "same"), [(2, 3, True), (1, 12, True), (3, 12, False)])
def test_the_cached_prefix_is_exact_where_it_is_said_to_be(layers, steps, same):
    """One step a block, or one layer: equal. Otherwise an approximation, and a different one."""
    model = small_model(layers, seed=4)
    ids = prompts(8, 16)
    ids[:, 4:] = M
    plain = states(model, ids, steps=steps, block=4, seed=3)
    kept = states(model, ids, steps=steps, block=4, cached=True, seed=3)
    assert len(plain) == len(kept)
    assert torch.equal(plain[-1].ids, kept[-1].ids) == same
    if same:
        torch.testing.assert_close(plain[-1].log_probs, kept[-1].log_probs, rtol=1e-3, atol=1e-3)


def test_the_cache_reads_only_from_the_block_on(model):
    ids = torch.full((1, 12), M)
    read = []
    hook = model.register_forward_pre_hook(lambda module, given: read.append(given[0].shape[1]))
    states(model, ids, steps=6, block=4, cached=True)
    hook.remove()
    assert read == [12, 12, 12, 8, 12, 4]


def test_nothing_masked_needs_no_pass(model):
    assert states(model, prompts(1, 5), steps=3) == []


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"remask": 1.0}, {"remask": -0.1}, {"block": 0}, {"tokens": 0}]
)
def test_values_out_of_range_name_their_option(settings):
    with pytest.raises(OptionError) as caught:
        GenerationConfig(**settings)
    [(name, value)] = settings.items()
    assert (caught.value.name, caught.value.value) == (name, value)


def test_options_that_do_not_go_together():
    with pytest.raises(OptionError, match="3 blocks of 4 tokens"):
        blocks(GenerationConfig(steps=2, block=4), 12)
    with pytest.raises(OptionError, match="needs blocks"):
        blocks(GenerationConfig(cached=True), 12)

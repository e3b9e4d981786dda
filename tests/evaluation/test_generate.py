"""Samplers against references: cache, seeds, unmasking, top-k and top-p."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import UserError
from epochal.evaluation.generate import Sampling, continue_text, unmask
from epochal.models import Transformer, initialise
from epochal.sizes import Architecture

VOCABULARY, MASK, END = 30, 30, 0
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model():
    it = Transformer(Architecture(16, 2, 2, 8, 20), VOCABULARY)
    initialise(it, 3)
    with torch.no_grad():
        for weight in it.parameters():
            weight.mul_(6.0)
    return it.eval()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts(rows, length, seed=1):
    return torch.randint(1, VOCABULARY, (rows, length), generator=generator(seed))


def go_on(model, prompt, tokens, sampling=GREEDY, seed=0, end=-1, **more):
    return continue_text(
        model,
        prompt,
        tokens,
        end=end,
        vocabulary=VOCABULARY,
        sampling=sampling,
        generator=generator(seed),
        **more,
    )


def fill(model, ids, steps, sampling=GREEDY, order="confidence", seed=0, **more):
    return unmask(
        model,
        ids,
        steps,
        mask=MASK,
        vocabulary=VOCABULARY,
        order=order,
        sampling=sampling,
        generator=generator(seed),
        **more,
    )


# --- autoregressive ----------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5])
def test_greedy_text_with_the_cache_is_that_without(model, length):
    prompt = prompts(3, length)
    ids = prompt
    for _ in range(12):
        logits = model.logits(ids, "causal")[:, -1, :VOCABULARY]
        ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
    assert torch.equal(go_on(model, prompt, 12), ids[:, length:])


def test_bf16_autocast_works_with_the_cache(model):
    with torch.autocast("cpu", torch.bfloat16):
        found = go_on(model, prompts(2, 4), 6)
    assert found.shape == (2, 6)


def test_the_seed_decides_the_text(model):
    prompt, hot = prompts(4, 3), Sampling(temperature=1.5)
    first = go_on(model, prompt, 20, hot, seed=5)
    torch.manual_seed(99)
    assert torch.equal(first, go_on(model, prompt, 20, hot, seed=5))
    assert not torch.equal(first, go_on(model, prompt, 20, hot, seed=6))
    assert first.max() < VOCABULARY


def test_after_the_end_there_is_only_the_end(model):
    prompt = prompts(6, 3)
    free = go_on(model, prompt, 15, Sampling(), seed=2)
    end = int(free[2, 4])
    found = go_on(model, prompt, 15, Sampling(), seed=2, end=end)
    for row in found.tolist():
        if end in row:
            assert set(row[row.index(end) :]) == {end}
    heard = []
    one = go_on(
        model,
        prompt[2:3],
        15,
        GREEDY,
        end=int(go_on(model, prompt[2:3], 1)[0, 0]),
        report=heard.append,
    )
    assert one.shape == (1, 1)  # all samples have ended
    assert heard == [1]


def test_no_new_tokens(model):
    assert go_on(model, prompts(2, 3), 0).shape == (2, 0)


# --- masked diffusion --------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["confidence", "ancestral"])
@pytest.mark.parametrize("steps", [1, 3, 10, 50])
def test_every_mask_is_filled_and_nothing_else_touched(model, order, steps):
    ids = prompts(3, 14)
    hidden = torch.rand(ids.shape, generator=generator(4)) < 0.6
    masked = ids.masked_fill(hidden, MASK)
    before = masked.clone()
    found = fill(model, masked, steps, Sampling(), order)
    assert torch.equal(masked, before)  # the argument is left alone
    assert torch.equal(found[~hidden], ids[~hidden])
    assert found.max() < VOCABULARY


@pytest.mark.parametrize("order", ["confidence", "ancestral"])
def test_the_seed_decides_the_fill(model, order):
    ids = torch.full((2, 12), MASK)
    first = fill(model, ids, 6, Sampling(), order, seed=1)
    assert torch.equal(first, fill(model, ids, 6, Sampling(), order, seed=1))
    assert not torch.equal(first, fill(model, ids, 6, Sampling(), order, seed=2))


def masked_counts(model, work):
    """Number of masked positions that each forward pass saw."""
    counts = []
    hook = model.register_forward_pre_hook(
        lambda module, given: counts.append((given[0] == MASK).sum().item())
    )
    work()
    hook.remove()
    return counts


@torch.no_grad()
def test_the_most_confident_come_first_equally_many_per_step(model):
    """Greedy, against a loop written out: ⌈remaining / steps left⌉ of highest probability."""
    ids = torch.full((1, 11), MASK)
    ids[0, 3] = 7
    expected, steps = ids.clone(), 4
    counts = masked_counts(model, lambda: fill(model, ids, steps))
    assert counts == [10, 7, 4, 2]
    for step in range(steps):
        probs = model.logits(expected, "bidirectional")[0, :, :VOCABULARY].softmax(-1)
        best, token = probs.max(dim=-1)
        masked = [i for i in range(11) if expected[0, i] == MASK]
        masked.sort(key=lambda i, best=best: -best[i].item())
        for place in masked[: -(-len(masked) // (steps - step))]:
            expected[0, place] = token[place]
    heard = []
    assert torch.equal(fill(model, ids, steps, report=heard.append), expected)
    assert heard == [1, 2, 3, 4]


def test_ancestral_steps_reveal_evenly(model):
    """With 4 steps, a quarter of the masks come to light in the first."""
    ids = torch.full((100, 20), MASK)
    counts = masked_counts(model, lambda: fill(model, ids, 4, Sampling(), "ancestral"))
    shares = [count / 2000 for count in counts]
    assert shares[0] == 1
    for share, expected in zip(shares, (1, 0.75, 0.5, 0.25), strict=True):
        assert share == pytest.approx(expected, abs=4 * (0.25 / 2000) ** 0.5)


def test_nothing_masked_needs_no_pass(model):
    heard = []
    ids = prompts(1, 5)
    assert torch.equal(fill(model, ids, 3, report=heard.append), ids)
    assert heard == []


def test_steps_must_be_positive(model):
    with pytest.raises(UserError, match="steps = 0: give at least 1"):
        fill(model, torch.full((1, 3), MASK), 0)


# --- choosing a token --------------------------------------------------------------------------


def reference_probabilities(logits, temperature, top_k, top_p):
    """The same rules for one position, with plain lists."""
    p = torch.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, 0).tolist()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    kept = order[:top_k] if top_k else order
    if top_p:
        whole, so_far, nucleus = sum(p[i] for i in kept), 0.0, []
        for i in kept:
            if so_far >= top_p * whole:
                break
            nucleus.append(i)
            so_far += p[i]
        kept = nucleus
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(p))]


@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=12, unique=True),
    st.floats(0.3, 3),
    st.none() | st.integers(1, 15),
    st.none() | st.floats(0.05, 1),
)
def test_top_k_and_top_p(values, temperature, top_k, top_p):
    logits = [value / 10 for value in values]
    found = Sampling(temperature, top_k, top_p).probabilities(torch.tensor([logits]))[0]
    expected = reference_probabilities(logits, temperature, top_k, top_p)
    if top_p is not None and abs(min(abs(c - top_p) for c in cumulated(expected))) < 1e-5:
        return  # at the very edge of the nucleus, float32 may decide otherwise
    torch.testing.assert_close(
        found.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-6
    )


def cumulated(probabilities):
    ordered = sorted(probabilities, reverse=True)
    return [sum(ordered[: n + 1]) for n in range(len(ordered))]


def test_samples_follow_the_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(40_000, 1)
    sampling = Sampling(temperature=0.7, top_k=3)
    tokens, own = sampling.sample(logits, generator(1))
    share = torch.bincount(tokens, minlength=4).double() / 40_000
    expected = sampling.probabilities(logits[:1])[0].double()
    assert expected[3] == share[3] == 0
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / 40_000).sqrt() + 1e-9).all()
    # The confidence is the model's own probability, before temperature and cuts.
    torch.testing.assert_close(own, torch.softmax(logits, -1)[torch.arange(40_000), tokens])


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert GREEDY.sample(logits, generator())[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0: give 0 or a positive number"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"temperature": float("inf")}, "temperature = inf"),
        ({"top_k": 0}, "top_k = 0: give at least 1"),
        ({"top_p": 0.0}, "top_p = 0.0: give a share above 0 and up to 1"),
        ({"top_p": 1.5}, "top_p = 1.5"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(UserError) as caught:
        Sampling(**settings)
    assert str(caught.value).startswith(message)

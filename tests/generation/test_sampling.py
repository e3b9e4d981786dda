"""Choosing a token: against plain lists, against transformers' warpers, and in frequency."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import OptionError
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import certainty, probabilities, sample, sample_keys, uniforms


def drawn(temperature=1.0, top_k=None, top_p=None):
    return GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p)


LOGITS = st.lists(st.integers(-60, 60), min_size=2, max_size=12, unique=True)


def reference_probabilities(logits, temperature, top_k, top_p):
    """The same rules for one place, with plain lists."""
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


def at_the_edge(expected, top_p):
    """Whether float32 may decide otherwise about the last token of the nucleus."""
    ordered = sorted(expected, reverse=True)
    sums = [sum(ordered[: n + 1]) for n in range(len(ordered))]
    return top_p is not None and min(abs(one - top_p) for one in sums) < 1e-4


@given(LOGITS, st.floats(0.3, 3), st.none() | st.integers(1, 15), st.none() | st.floats(0.05, 1))
def test_top_k_and_top_p(values, temperature, top_k, top_p):
    logits = [value / 10 for value in values]
    found = probabilities(torch.tensor([logits]), drawn(temperature, top_k, top_p))[0]
    expected = reference_probabilities(logits, temperature, top_k, top_p)
    if at_the_edge(expected, top_p):
        return
    torch.testing.assert_close(
        found.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-6
    )


def test_the_warpers_of_transformers_agree():
    warp = pytest.importorskip("transformers.generation.logits_process")
    random = torch.Generator().manual_seed(3)
    for temperature, top_k, top_p in ((0.7, 5, 0.8), (1.3, None, 0.5), (1.0, 3, None)):
        logits = 3 * torch.randn(200, 20, generator=random)
        expected = warp.TemperatureLogitsWarper(temperature)(None, logits)
        if top_k:
            expected = warp.TopKLogitsWarper(top_k)(None, expected)
        if top_p:
            expected = warp.TopPLogitsWarper(top_p)(None, expected)
        found = probabilities(logits, drawn(temperature, top_k, top_p))
        torch.testing.assert_close(found, expected.softmax(-1), rtol=1e-4, atol=1e-6)


def test_samples_follow_the_probabilities():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(40_000, 1)
    config = drawn(0.7, top_k=3)
    chance = torch.rand(40_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens = sample(logits, chance, config)
    share = torch.bincount(tokens, minlength=4).double() / 40_000
    expected = probabilities(logits[:1], config)[0].double()
    assert expected[3] == share[3] == 0
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / 40_000).sqrt() + 1e-9).all()


def test_the_ends_of_the_unit_interval():
    """A token without a chance is never drawn, not even through rounding."""
    logits = torch.tensor([[-50.0, 0.0, 0.1, -60.0, -70.0]])
    config = drawn(top_k=2)
    for chance in (0.0, 1 - 2.0**-53, 1.0):
        token = sample(logits, torch.tensor([chance], dtype=torch.float64), config)
        assert token.item() == (1 if chance == 0 else 2)


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample(logits, torch.tensor([0.99, 0.0]), drawn(0)).tolist() == [1, 0]


def test_top_p_at_its_edges():
    """The token that reaches top_p is in, the next is out; the likeliest always stays."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    for top_p, kept in ((1e-9, 1), (0.5, 1), (0.500001, 2), (0.75, 2), (0.76, 3), (1.0, 4)):
        found = probabilities(logits, drawn(top_p=top_p))[0]
        assert int((found > 0).sum()) == kept
        assert found.sum().item() == pytest.approx(1)
    # After top-k, the share is of what top-k has left: 0.5 is two thirds of 0.75.
    assert probabilities(logits, drawn(top_k=2, top_p=0.66))[0].tolist() == [1, 0, 0, 0]
    assert (probabilities(logits, drawn(top_k=2, top_p=0.67))[0] > 0).sum() == 2
    assert probabilities(logits, drawn(top_k=9))[0].tolist() == [0.5, 0.25, 0.125, 0.125]


@pytest.mark.parametrize("temperature", [1e-9, 1e-37, 1e-45, 1e-60, 1e-310])
def test_a_tiny_temperature_takes_the_likeliest(temperature):
    found = probabilities(torch.tensor([[30.0, 29.0, -40.0]]), drawn(temperature))
    assert found.tolist() == [[1, 0, 0]]


@given(LOGITS)
def test_certainty(values):
    logits = torch.tensor([[value / 10 for value in values]])
    p = torch.softmax(logits.double(), -1)[0].tolist()
    first, second = sorted(p, reverse=True)[:2]
    token = torch.tensor([1])
    expected = {
        "confidence": p[1],
        "margin": first - second,
        "entropy": sum(x * math.log(x) for x in p),
    }
    for kind, value in expected.items():
        assert certainty(logits, token, kind).item() == pytest.approx(value, abs=1e-5)


def test_chance_depends_on_key_step_place_and_purpose_alone():
    keys = sample_keys(1, "The", 3)
    assert (sample_keys(1, "The", 5)[:3] == keys).all()
    assert (sample_keys(2, "The", 3) != keys).all()
    assert (sample_keys(1, "A", 3) != keys).all()
    first = uniforms(keys, 4, 6)
    torch.testing.assert_close(first[1:2], uniforms(keys[1:2], 4, 9)[:, :6])
    others = [uniforms(keys, 5, 6), uniforms(keys, 4, 6, 1), uniforms(keys, 3, 6, 1)]
    assert len(np.unique(torch.stack([first, *others]).numpy())) == 4 * 18


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_values_out_of_range_name_their_option(settings):
    with pytest.raises(OptionError) as caught:
        GenerationConfig(**settings)
    assert [caught.value.name] == list(settings)

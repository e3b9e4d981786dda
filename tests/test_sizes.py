"""The ladder against the paper's table, the formulas against counts of real models."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.errors import OptionError, RecipeError
from epochal.sizes import (
    GPT2_VOCABULARY,
    GPUS,
    LADDER,
    Architecture,
    architecture,
    find_gpu,
    get_gpu,
    logits_block,
    padded_vocabulary,
    swiglu_width,
)

SHAPES = st.builds(
    Architecture,
    d_model=st.integers(1, 24).map(lambda n: 2 * n),
    layers=st.integers(1, 3),
    heads=st.integers(1, 4),
    head_dim=st.sampled_from([2, 4, 8]),
    d_ff=st.integers(1, 40),
    tie_embeddings=st.booleans(),
)


def paper_rows(shared):
    """The table of paper.md: name, d, h_f, head, heads, layers, N (M), N_ne (M), N exact."""
    text = (shared / "reference" / "paper.md").read_text(encoding="utf-8")
    return [
        [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\| \d+M \| \d+ \| \d+ \| \d+ \| \d+ \| \d+ \|", line)
    ]


def test_all_54_rows_are_the_papers(shared):
    rows = paper_rows(shared)
    assert len(rows) == len(LADDER) == 54
    assert [row[0] for row in rows] == list(LADDER)
    for name, d, ffn, head, heads, layers, _, non_embedding, params, *rest in rows:
        shape = LADDER[name]
        found = (shape.d_model, shape.d_ff, shape.head_dim, shape.heads, shape.layers)
        assert found == tuple(map(int, (d, ffn, head, heads, layers)))
        assert shape.params(GPT2_VOCABULARY) == int(params)
        assert f"{shape.params_non_embedding / 1e6:.1f}" == non_embedding
        assert f"{shape.flops_per_token(GPT2_VOCABULARY):.3e}" == rest[0]
        assert ("†" in rest[1]) == (shape.heads * shape.head_dim != shape.d_model)


@pytest.mark.parametrize(
    ("name", "params"),
    [("7M", 7_000_448), ("35M", 36_637_888), ("425M", 416_887_040), ("16183M", 15_028_280_320)],
)
def test_published_sizes(name, params):
    assert architecture(name).params(50257) == params
    assert architecture(name).flops_per_token(50257) == 6 * params


def test_names_grow():
    sizes = [int(name.removesuffix("M")) for name in LADDER]
    assert sizes == sorted(sizes)
    assert all(shape.tie_embeddings for shape in LADDER.values())


@given(SHAPES, st.integers(1, 400))
def test_exact_count_is_that_of_the_model(shape, vocabulary):
    from epochal.models import Transformer

    model = Transformer(shape, vocabulary)
    assert shape.params_exact(vocabulary) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["7M", "20M"])
def test_exact_count_of_ladder_models(name):
    """20M is a row whose heads · head_dim is not d_model."""
    import torch

    from epochal.models import Transformer

    with torch.device("meta"):
        model = Transformer(LADDER[name], GPT2_VOCABULARY)
    assert LADDER[name].params_exact(50257) == sum(p.numel() for p in model.parameters())
    # By hand: the paper's V counts 50257 rows, the model has 50304.
    shape, extra = LADDER[name], 50304 - 50257
    if shape.heads * shape.head_dim == shape.d_model:
        norms = 6 * shape.layers * shape.d_model - (2 * shape.layers + 1) * shape.d_model
        expected = shape.params(50257) + extra * shape.d_model - norms
        assert shape.params_exact(50257) == expected


def test_matmul_flops_by_hand():
    shape = Architecture(d_model=8, layers=2, heads=2, head_dim=4, d_ff=16)
    weights = 2 * (4 * 8 * 8 + 3 * 8 * 16)
    attention = 12 * 2 * 2 * 4 * 10
    table = 128 * 8
    assert shape.matmul_flops_per_token(100, 10) == 6 * (weights + table) + attention
    assert shape.matmul_flops_per_token(100, 10, 0.5) == 6 * (weights + table / 2) + attention


@pytest.mark.parametrize(
    ("vocabulary", "rows"), [(1, 128), (127, 128), (128, 256), (500, 512), (50257, 50304)]
)
def test_the_padded_vocabulary_has_room_for_the_mask(vocabulary, rows):
    assert padded_vocabulary(vocabulary) == rows


@given(st.integers(1, 10**6))
def test_padding_is_the_least_that_holds_the_mask(vocabulary):
    rows = padded_vocabulary(vocabulary)
    assert rows % 128 == 0
    assert vocabulary + 1 <= rows < vocabulary + 1 + 128


@pytest.mark.parametrize(("width", "inner"), [(128, 320), (768, 2048), (1280, 3392), (5120, 13632)])
def test_the_inner_width_is_megatrons(width, inner):
    assert swiglu_width(width) == inner


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(RecipeError, match=r"no size '424M' on the ladder\. Did you mean `\d+M`"):
        architecture("424M")
    with pytest.raises(RecipeError, match="The ladder goes from 7M to 16183M"):
        architecture("huge")


@pytest.mark.parametrize(
    ("device", "title"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200 NVL"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GB200", None),
        ("NVIDIA H20", None),
        ("NVIDIA A10M", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_a_device_is_found_by_its_whole_name(device, title):
    assert find_gpu(device) == (None if title is None else GPUS[title])


def test_a_gpu_by_name_in_any_spelling():
    assert get_gpu("h100-pcie") is get_gpu("H100 PCIe") is GPUS["H100 PCIe"]
    assert get_gpu("rtx_4090").memory == 24e9
    with pytest.raises(OptionError, match=r"abacus.*H100") as refused:
        get_gpu("abacus")
    assert refused.value.name == "gpu"


@pytest.mark.parametrize(
    ("vocabulary", "block"),
    [(256, 2**22), (8192, 2**22), (16384, 2**23), (50304, 2**24), (256_000, 2**24)],
)
def test_a_cpus_block_of_logits_fits_a_cache_or_has_512_rows(vocabulary, block):
    assert logits_block(vocabulary, gpu=False) == block
    assert logits_block(vocabulary, gpu=True) == 2**27

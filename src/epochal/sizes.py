"""The paper's ladder of models, parameter and FLOP counts, and a table of GPUs.

There are two counts. `params` is the paper's estimate, used on every axis and in C = 6·N·D;
`params_exact` is the number of trained weights. They differ by the padding of the vocabulary,
the norms and, in six rows, because heads × head_dim is not d_model.

Source: arXiv 2507.15857 §9 and Table 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from epochal.errors import OptionError, RecipeError, nearest

VOCABULARY_MULTIPLE = 128
GPT2_VOCABULARY = 50257


class Gpu(NamedTuple):
    """An accelerator, by its data sheet."""

    peak: float
    """Dense bf16 peak in FLOP/s, without sparsity."""
    memory: float
    """Bytes; of an A100 the larger of the two versions."""


GPUS = {
    "B200": Gpu(2250e12, 180e9),
    "GH200": Gpu(989e12, 96e9),
    "H200": Gpu(989e12, 141e9),
    "H200 NVL": Gpu(835e12, 141e9),
    "H100": Gpu(989e12, 80e9),
    "H100 NVL": Gpu(835e12, 94e9),
    "H100 PCIe": Gpu(756e12, 80e9),
    "A100": Gpu(312e12, 80e9),
    "L40S": Gpu(362e12, 48e9),
    "L40": Gpu(181e12, 48e9),
    "L4": Gpu(121e12, 24e9),
    "A10": Gpu(125e12, 24e9),
    "A10G": Gpu(70e12, 24e9),
    "RTX 4090": Gpu(165e12, 24e9),
    "RTX 3090": Gpu(71e12, 24e9),
}
_OTHER_PRODUCT = {"nvl", "ti", "d", "super", "laptop", "max", "mig"}
"""Words that make a device another product, or a slice of one, unless the table names them."""
_CPU_LOGITS, _MOST_CPU_LOGITS, _GPU_LOGITS = 2**22, 2**24, 2**27
_BLOCK_ROWS = 512
NOISE_FEATURES = 32
"""Numbers that say a row's noise level to a network that is told it."""
DEFAULT_MFU = 0.4
"""Assumed share of the peak where nothing was measured. Chosen by us."""


def logits_block(vocabulary: int, *, gpu: bool) -> int:
    """Logits that the output layer has in memory at once, for a table of `vocabulary` rows.

    The table's gradient is read and written once for each block, which for a large table costs
    more than the block. On a GPU 2²⁷, 268 MB in bf16. On a CPU 2²², 16 MB, which its cache may
    hold, or 512 rows if these are more, 2²⁴ at most. Chosen by us (benchmarks/README.md).
    """
    if gpu:
        return _GPU_LOGITS
    return min(max(_CPU_LOGITS, _BLOCK_ROWS * vocabulary), _MOST_CPU_LOGITS)


@dataclass(frozen=True, slots=True)
class Multipliers:
    """A shape relative to a base model, by which CompleteP scales (Dey et al., arXiv 2505.01618,
    table 1, α = 1). All 1: the standard parametrisation."""

    width: float = 1.0
    """m_N = d_model / the base's."""
    depth: float = 1.0
    """m_L = layers / the base's."""
    head: float = 1.0
    """head_dim / the base's."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of the transformer, the same for all families."""

    d_model: int
    layers: int
    heads: int
    head_dim: int
    d_ff: int
    tie_embeddings: bool = True
    """Whether the embedding's table is also the output table."""
    padded_vocab_size: int | None = None
    """Rows of the embedding; None: `padded_vocabulary`."""
    noise_conditioning: bool = False
    """Whether blocks are told the noise level of a row."""
    multipliers: Multipliers = Multipliers()
    """By what initial weights, the forward pass and the optimizer's settings are scaled."""

    def relative_to(self, d_model: int, layers: int, head_dim: int) -> Architecture:
        """This shape, scaled by CompleteP from a base model of these sizes."""
        multipliers = Multipliers(
            self.d_model / d_model, self.layers / layers, self.head_dim / head_dim
        )
        return replace(self, multipliers=multipliers)

    def rows(self, vocabulary: int) -> int:
        """Rows of the embedding and of the output table, padding included.

        Raises RecipeError if `padded_vocab_size` is smaller than the vocabulary.
        """
        if self.padded_vocab_size is None:
            return padded_vocabulary(vocabulary)
        if self.padded_vocab_size < vocabulary:
            raise RecipeError(
                f"`model.padded_vocab_size` = {self.padded_vocab_size} is smaller than the "
                f"tokenizer's {vocabulary} tokens; leave it out or give the tokenizer that fits"
            )
        return self.padded_vocab_size

    def params(self, vocabulary: int) -> int:
        """N = 4·l·d² + 3·l·d·h_f + 6·l·d + V·d, embeddings included (paper §9).

        `vocabulary` is the tokenizer's, without mask id and padding.
        """
        return self.params_non_embedding + vocabulary * self.d_model

    @property
    def params_non_embedding(self) -> int:
        """The paper's N without its V·d term."""
        layers, d, ffn = self.layers, self.d_model, self.d_ff
        return 4 * layers * d * d + 3 * layers * d * ffn + 6 * layers * d

    @property
    def noise_weights(self) -> int:
        """Weights of a block that make scales and shifts of the noise level."""
        return 4 * self.d_model * NOISE_FEATURES if self.noise_conditioning else 0

    def params_exact(self, vocabulary: int) -> int:
        """Number of trained weights of the model as built, padded vocabulary included."""
        d, attention = self.d_model, self.heads * self.head_dim
        per_layer = 4 * d * attention + 3 * d * self.d_ff + 2 * d + self.noise_weights
        tables = (1 if self.tie_embeddings else 2) * self.rows(vocabulary) * d
        return self.layers * per_layer + d + tables

    def flops_per_token(self, vocabulary: int) -> int:
        """Training FLOPs per token, 6·N with the paper's N."""
        return 6 * self.params(vocabulary)

    def matmul_flops_per_token(self, vocabulary: int, length: int, scored: float = 1.0) -> float:
        """Training FLOPs per token in matrix products.

        Six per weight inside a matrix product, plus 12·layers·heads·head_dim·length for
        scores and values over the full square (PaLM, arXiv 2204.02311, appendix B; the
        causal half is not subtracted, as is customary). The output table counts for the
        share of positions that are `scored`, since no other logits are computed. MFU is based
        on this, not on 6·N.
        """
        d, attention = self.d_model, self.heads * self.head_dim
        weights = self.layers * (4 * d * attention + 3 * d * self.d_ff)
        head = scored * self.rows(vocabulary) * d
        head += self.layers * self.noise_weights / length  # once per row
        return 6 * (weights + head) + 12 * self.layers * attention * length


def swiglu_width(d_model: int) -> int:
    """SwiGLU inner width ⌊(4·d·2/3)/64⌋·64 (Megatron's rule; paper §9)."""
    return int(4 * d_model * 2 / 3) // 64 * 64


def padded_vocabulary(vocabulary: int) -> int:
    """Rows of the embedding: tokenizer vocabulary + one mask id, up to a multiple of 128."""
    return -(-(vocabulary + 1) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


# name: d_model, head_dim, heads, layers. Names are Chinchilla's and Muennighoff's labels,
# not sizes: "425M" has 416.9M parameters by the paper's formula.
_ROWS = """
7M 128 32 4 3
14M 224 32 7 4
20M 288 32 7 5
35M 448 32 7 6
44M 512 64 8 8
57M 576 64 9 9
74M 640 64 10 10
90M 640 64 10 13
106M 640 64 10 16
117M 768 64 12 12
140M 768 64 12 15
163M 768 64 12 18
175M 896 64 14 14
196M 896 64 14 16
217M 896 64 14 18
251M 1024 64 16 16
278M 1024 64 16 18
306M 1024 64 16 20
425M 1280 128 10 18
489M 1280 128 10 21
509M 1408 128 11 18
552M 1280 128 10 24
587M 1408 128 11 21
632M 1536 128 12 19
664M 1408 128 11 24
724M 1536 128 12 22
816M 1536 128 12 25
893M 1792 128 14 20
1018M 1792 128 14 23
1143M 1792 128 14 26
1266M 2048 128 16 22
1424M 2176 128 17 22
1429M 2048 128 16 25
1593M 2048 128 16 28
1609M 2176 128 17 25
1731M 2304 128 18 24
1794M 2176 128 17 28
2007M 2304 128 18 28
2283M 2304 128 18 32
2298M 2560 128 20 26
2639M 2560 128 20 30
2980M 2560 128 20 34
3530M 2688 128 21 36
3802M 2816 128 22 36
4084M 2944 128 23 36
4516M 3072 128 24 36
6796M 3584 128 28 40
9293M 4096 128 32 42
11452M 4352 128 32 47
12295M 4608 128 36 44
12569M 4608 128 32 47
13735M 4864 128 32 47
14940M 4992 128 32 49
16183M 5120 128 40 47
"""


def _ladder() -> dict[str, Architecture]:
    rows = (line.split() for line in _ROWS.strip().splitlines())
    return {
        name: Architecture(
            d_model=int(d),
            layers=int(layers),
            heads=int(heads),
            head_dim=int(width),
            d_ff=swiglu_width(int(d)),
        )
        for name, d, width, heads, layers in rows
    }


LADDER: dict[str, Architecture] = _ladder()


def architecture(name: str) -> Architecture:
    """The ladder's row `name`, for example '425M'. Raises RecipeError for an unknown name."""
    if name not in LADDER:
        hint = nearest(name, LADDER) or f" The ladder goes from {next(iter(LADDER))} to 16183M."
        raise RecipeError(f"there is no size {name!r} on the ladder.{hint}")
    return LADDER[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderSize:
    """A row of the ladder and its counts with a vocabulary."""

    size: str
    """Its label, like 425M."""
    d_model: int
    d_ff: int
    head_dim: int
    heads: int
    layers: int
    params: int
    """The paper's N, embeddings included."""
    params_non_embedding: int
    """N without its V·d term."""
    params_exact: int
    """Trained weights, padded vocabulary included."""
    flops_per_token: int
    """In training, 6·N."""


def ladder_sizes(vocabulary: int) -> list[LadderSize]:
    """All rows of the ladder; `vocabulary` is the tokenizer's, without mask id and padding."""
    return [
        LadderSize(
            size=name,
            d_model=shape.d_model,
            d_ff=shape.d_ff,
            head_dim=shape.head_dim,
            heads=shape.heads,
            layers=shape.layers,
            params=shape.params(vocabulary),
            params_non_embedding=shape.params_non_embedding,
            params_exact=shape.params_exact(vocabulary),
            flops_per_token=shape.flops_per_token(vocabulary),
        )
        for name, shape in LADDER.items()
    ]


def get_gpu(name: str) -> Gpu:
    """The accelerator of that name, for example "H100" or "rtx-4090".

    Raises OptionError, listing the known names, for another.
    """
    for title, gpu in GPUS.items():
        if re.sub(r"[ _-]", "", name.lower()) == title.lower().replace(" ", ""):
            return gpu
    raise OptionError("gpu", name, f"no such GPU in the table; known are {', '.join(GPUS)}")


def find_gpu(device: str) -> Gpu | None:
    """The accelerator that a driver calls `device`, like "NVIDIA A100-SXM4-80GB"; None if it is
    not in the table. Whole words count, so an L40 is no L4, and a slice of a GPU is none."""
    words = _words(device)
    for title in sorted(GPUS, key=len, reverse=True):
        if _words(title) <= words and not _OTHER_PRODUCT & (words - _words(title)):
            return GPUS[title]
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def stage_layers(layers: int, stages: int) -> list[range]:
    """Indices of each pipeline stage's blocks, as even as possible. Surplus blocks go to the middle
    stages, then to the first: the last one also computes the head."""
    least, over = divmod(layers, stages)
    longer = [*range(1, stages - 1), 0][:over]
    sizes = [least + (stage in longer) for stage in range(stages)]
    starts = [sum(sizes[:stage]) for stage in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]

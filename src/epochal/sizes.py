"""The model ladder of the paper, and how parameters and FLOPs are counted.

Two counts stand side by side. `params` is the paper's estimate, used on every axis and in
C = 6·N·D; `params_exact` is what the model really has. They differ by the padding of the
vocabulary, the norms and, in six rows, because heads × head_dim is not d_model.

Source: arXiv 2507.15857 §9 and Table 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from epochal.errors import RecipeError, nearest

VOCABULARY_MULTIPLE = 128
GPT2_VOCABULARY = 50257

# Dense bf16 peak of common accelerators in FLOP/s, without sparsity, from their data sheets.
PEAK_BF16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
# Memory of the same in bytes, from their data sheets; of an A100 the larger of the two on sale.
MEMORY = {
    "H200": 141e9,
    "H100 PCIe": 80e9,
    "H100": 80e9,
    "GH200": 96e9,
    "B200": 180e9,
    "A100": 80e9,
    "L40S": 48e9,
    "L4": 24e9,
    "A10": 24e9,
    "RTX 4090": 24e9,
    "RTX 3090": 24e9,
}
DEFAULT_MFU = 0.4
"""Share of the peak that a run is taken to reach where nothing was measured. Chosen by us."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of the one transformer that both families use."""

    d_model: int
    layers: int
    heads: int
    head_dim: int
    d_ff: int
    tie_embeddings: bool = True
    """Whether the output shares the embedding's table."""
    padded_vocab_size: int | None = None
    """Rows of the embedding, where they are not those of `padded_vocabulary`."""

    def rows(self, vocabulary: int) -> int:
        """Rows of the embedding and of the output table, padding included.

        Raises RecipeError if `padded_vocab_size` has no room for the vocabulary.
        """
        if self.padded_vocab_size is None:
            return padded_vocabulary(vocabulary)
        if self.padded_vocab_size < vocabulary:
            raise RecipeError(
                f"`model.padded_vocab_size` = {self.padded_vocab_size} has no room for the "
                f"tokenizer's {vocabulary} tokens; leave it out or name the tokenizer that fits"
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

    def params_exact(self, vocabulary: int) -> int:
        """Number of trained weights of the model as built, padded vocabulary included."""
        d, attention = self.d_model, self.heads * self.head_dim
        per_layer = 4 * d * attention + 3 * d * self.d_ff + 2 * d
        tables = (1 if self.tie_embeddings else 2) * self.rows(vocabulary) * d
        return self.layers * per_layer + d + tables

    def flops_per_token(self, vocabulary: int) -> int:
        """Training FLOPs per token, 6·N with the paper's N."""
        return 6 * self.params(vocabulary)

    def matmul_flops_per_token(self, vocabulary: int, length: int, scored: float = 1.0) -> float:
        """Training FLOPs per token actually spent in matrix products.

        Six per weight inside a matrix product, plus 12·layers·heads·head_dim·length for
        scores and values over the full square (PaLM, arXiv 2204.02311, appendix B; the
        causal half is not subtracted, as is customary). The output table counts for the
        share of positions that are `scored`, since no other logits are computed. This, not
        6·N, is what MFU divides by.
        """
        d, attention = self.d_model, self.heads * self.head_dim
        weights = self.layers * (4 * d * attention + 3 * d * self.d_ff)
        head = scored * self.rows(vocabulary) * d
        return 6 * (weights + head) + 12 * self.layers * attention * length


_NARROWEST = 24


def swiglu_width(d_model: int) -> int:
    """SwiGLU inner width ⌊(4·d·2/3)/64⌋·64 (Megatron's rule; paper §9)."""
    return int(4 * d_model * 2 / 3) // 64 * 64


def narrowest(heads: int | None = None) -> int:
    """Least d_model for which `d_ff` is not 0; even in each of `heads`, if they share it,
    since rotation takes pairs."""
    step = 2 * heads if heads else 1
    return -(-_NARROWEST // step) * step


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


def gpu_peak(name: str) -> float:
    """Dense bf16 peak of an accelerator in FLOP/s, for example of "H100" or "rtx-4090".

    Raises RecipeError that lists the names known.
    """
    return PEAK_BF16[_known_gpu(name)]


def gpu_memory(name: str) -> float:
    """Memory of an accelerator in bytes. Raises RecipeError that lists the names known."""
    return MEMORY[_known_gpu(name)]


def _known_gpu(name: str) -> str:
    def plain(text: str) -> str:
        return text.lower().replace(" ", "").replace("-", "").replace("_", "")

    known = {plain(one): one for one in PEAK_BF16}
    if plain(name) not in known:
        raise RecipeError(f"there is no GPU {name!r} here; known are {', '.join(PEAK_BF16)}")
    return known[plain(name)]


def stage_layers(layers: int, stages: int) -> list[range]:
    """Numbers of each stage's blocks, as even as can be. What is left over goes to the stages in
    the middle, then to the first: the last one has the head's work besides."""
    least, over = divmod(layers, stages)
    longer = [*range(1, stages - 1), 0][:over]
    sizes = [least + (stage in longer) for stage in range(stages)]
    starts = [sum(sizes[:stage]) for stage in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]

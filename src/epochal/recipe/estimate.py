"""What a run needs before it is started: memory per device, and time on a named GPU.

Memory is counted tensor by tensor as our engine holds it: fp32 weights, gradients and AdamW's two
moments; under bf16 autocast a bf16 copy of each matrix; the whole weights that sharded processes
gather for a while; what each block keeps for its backward pass; and the logits, which are only ever
there in blocks. Left out: the allocator's waste, CUDA's
own context (about half a GB) and communication buffers. `docs/estimates.md` says how far the
figures were checked.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from epochal.errors import RecipeError
from epochal.families import get_family
from epochal.recipe.numbers import RunNumbers, micro_rows
from epochal.recipe.schema import Recipe
from epochal.sizes import DEFAULT_MFU, Architecture, gpu_peak, stage_layers

Checkpointing = Literal["none", "selective", "full"]

LOGITS_BLOCK = 1 << 24
"""Logits that are there at once (`objectives/cross_entropy.py`; a test holds the two equal)."""
_FP32, _BF16 = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How a run is spread over devices: into how many parts each thing is cut."""

    data: int = 1
    """Devices that share the rows of a step."""
    weights: int = 1
    """Parts of the fp32 weights (ZeRO 3)."""
    gradients: int = 1
    """Parts of the gradients (ZeRO 2 and 3)."""
    optimizer: int = 1
    """Parts of AdamW's two moments (ZeRO 1 to 3)."""
    tensor: int = 1
    """Parts of heads, inner width and vocabulary."""
    pipeline: int = 1
    """Stages of layers."""
    offload: bool = False
    """Whether weights, gradients and moments lie in the host's memory and come layer by layer."""
    checkpointing: Checkpointing = "none"
    """What is computed again in the backward pass: nothing, all but matrix products and
    attention, or whole blocks."""

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What one stage of a pipeline has; the whole model where there is but one."""

    number: int
    layers: int
    first: bool
    """Has the embedding."""
    last: bool
    """Has the last norm and the head: with tied tables, the embedding's again."""
    held: int
    """Micro-batches whose activations it keeps at a time (1F1B: those that later stages have)."""

    def tables(self, untied: bool) -> int:
        """Vocabulary tables that lie here; a tied one is not held twice by the same stage."""
        return int(self.first) + int(self.last) - (self.first and self.last and not untied)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device, the fullest one."""

    stage: int
    """Number from 0 of the pipeline's stage that the device belongs to."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's moments, and the running average of the weights if there is one."""
    casts: int
    """bf16 copies of the matrices, while a step computes."""
    gathered: int
    """Whole fp32 weights beside the process's own part, where they are sharded: ZeRO 3 has the
    block that computes, the next one, and embedding and output table; ZeRO 1 and 2 have all.
    From ZeRO 2 on also one block's gradients, whole until they are exchanged."""
    activations: int
    """Kept for the backward pass, over all layers."""
    logits: int
    """Block of logits, gradients of the head; for diffusion as if all tokens were masked."""
    accumulated: bool
    """Whether a step has several micro-batches, so that gradients of the earlier ones lie beside
    the activations of the next. With one, they come as the activations go."""

    @property
    def total(self) -> int:
        """At the peak, the end of a forward pass or the update."""
        forward = self.casts + self.gathered + self.activations + self.logits
        busy = forward + self.gradients if self.accumulated else max(forward, self.gradients)
        return self.weights + self.optimizer + busy

    def as_dict(self) -> dict[str, int]:
        """Parts and total in bytes, for JSON."""
        parts = asdict(self)
        del parts["accumulated"], parts["stage"]
        return parts | {"total": self.total}


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """How long a run takes."""

    gpu: str
    gpus: int
    mfu: float
    """Share of the dense bf16 peak that is taken to be reached."""
    matmul_flops: float
    """Of all matrix products, which is what MFU counts; not the paper's 6·N·D."""
    seconds: float

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU."""
        return self.seconds * self.gpus / 3600


def estimate_memory(
    recipe: Recipe,
    vocabulary: int,
    sharding: Sharding | None = None,
    *,
    bf16: bool = True,
    fused: bool = True,
) -> Memory:
    """Bytes per device while `recipe` trains on a tokenizer of `vocabulary` ids; of a pipeline's
    stages the one that needs most.

    `fused` is for GPUs, whose RMSNorm and dropout keep less than the CPU's. Raises RecipeError
    where layers or heads are fewer than the parts they are to be cut into.
    """
    memories = stage_memories(recipe, vocabulary, sharding, bf16=bf16, fused=fused)
    return max(memories, key=lambda memory: memory.total)


def stage_memories(
    recipe: Recipe,
    vocabulary: int,
    sharding: Sharding | None = None,
    *,
    bf16: bool = True,
    fused: bool = True,
) -> list[Memory]:
    """As `estimate_memory`, for a device of each of a pipeline's stages in turn.

    The first stage keeps most micro-batches, first and last have a vocabulary table, and the
    last has the logits.
    """
    cut = sharding or Sharding()
    shape = recipe.model.architecture()
    _check_parts(shape, cut)
    stages = [
        _Stage(
            number=number,
            layers=len(layers),
            first=number == 0,
            last=number == cut.pipeline - 1,
            held=cut.pipeline - number,
        )
        for number, layers in enumerate(stage_layers(shape.layers, cut.pipeline))
    ]
    return [_memory_of(stage, recipe, vocabulary, cut, bf16, fused) for stage in stages]


def _memory_of(
    stage: _Stage, recipe: Recipe, vocabulary: int, cut: Sharding, bf16: bool, fused: bool
) -> Memory:
    shape = recipe.model.architecture()
    table = shape.rows(vocabulary) * shape.d_model // cut.tensor
    tables = table * stage.tables(not shape.tie_embeddings)
    # The head multiplies by its table; the embedding only looks up rows.
    head_table = table if stage.last else 0
    matrices = stage.layers * _block_matrices(shape) // cut.tensor
    norms = (2 * stage.layers + stage.last) * shape.d_model
    trained = matrices + tables + norms
    rows = micro_rows(recipe, cut.data, cut.pipeline)
    tokens = rows * recipe.data.sequence_length
    accumulated = rows * cut.data < recipe.train.global_batch_size
    # What is gathered or brought from the host is there one layer at a time, and the table.
    by_block = cut.weights > 1 or cut.offload
    at_once = (_block_matrices(shape) // cut.tensor if by_block else matrices) + head_table
    per_weight = _BF16 if bf16 else _FP32
    average = _FP32 * trained if recipe.train.ema else 0
    return Memory(
        stage=stage.number,
        # Under ZeRO 1 and 2 the whole weights stay from the forward to the backward pass.
        weights=0 if cut.offload else _FP32 * trained // cut.weights,
        gradients=0 if cut.offload else _FP32 * trained // cut.gradients,
        optimizer=average + (0 if cut.offload else 2 * _FP32 * trained // cut.optimizer),
        casts=per_weight * at_once if by_block or bf16 else 0,
        gathered=_gathered(shape, cut, trained, tables + stage.last * shape.d_model),
        activations=_activations(recipe, shape, stage, tokens, cut, bf16, fused),
        logits=_head(shape, table, tokens, bf16) if stage.last else 0,
        accumulated=accumulated or cut.pipeline > 1,
    )


def estimate_time(
    recipe: Recipe,
    numbers: RunNumbers,
    gpu: str = "H100",
    gpus: int = 1,
    mfu: float = DEFAULT_MFU,
) -> Time:
    """Time of training alone, without evaluations and saving.

    FLOPs of all matrix products / (dense bf16 peak · `mfu` · `gpus`). Raises RecipeError for a
    GPU that is not known and for numbers that make no sense.
    """
    if not 0 < mfu <= 1:
        raise RecipeError(
            f"MFU = {mfu:g} is a share of the peak: give a number above 0 and up to 1"
        )
    if gpus < 1:
        raise RecipeError(f"{gpus} GPUs: give at least 1")
    # Diffusion computes the logits of masked tokens only, half of them on average.
    scored = get_family(recipe.family).scored_share
    cost = recipe.model.architecture().matmul_flops_per_token(
        numbers.vocabulary, numbers.sequence_length, scored
    )
    flops = cost * numbers.tokens
    seconds = flops / (gpu_peak(gpu) * mfu * gpus)
    return Time(gpu=gpu, gpus=gpus, mfu=mfu, matmul_flops=flops, seconds=seconds)


def _check_parts(shape: Architecture, cut: Sharding) -> None:
    for parts, what, there in (
        (cut.pipeline, "layers", shape.layers),
        (cut.tensor, "heads", shape.heads),
    ):
        if parts > there:
            raise RecipeError(f"{there} {what} cannot be cut into {parts} parts")


def _gathered(shape: Architecture, cut: Sharding, trained: int, ends: int) -> int:
    """Bytes of what FSDP holds whole: it gathers in fp32, and autocast casts from that.

    One block is fetched while another computes. Embedding, output table and last norm are one
    group of `ends` weights, whole for as long as the forward pass and the head last.
    """
    block = _block_matrices(shape) // cut.tensor + 2 * shape.d_model
    if cut.weights > 1 or (cut.offload and cut.optimizer == 1):
        weights = min(2 * block + ends, trained)
    else:
        weights = trained if cut.offload or cut.optimizer > 1 else 0
        if not cut.offload:
            # `weights` counts the whole ones already; what comes on top is the process's part.
            weights //= cut.optimizer
    return _FP32 * (weights + (block if cut.gradients > 1 else 0))


def _block_matrices(shape: Architecture) -> int:
    attention = shape.heads * shape.head_dim
    return 4 * shape.d_model * attention + 3 * shape.d_model * shape.d_ff


def _activations(
    recipe: Recipe,
    shape: Architecture,
    stage: _Stage,
    tokens: int,
    cut: Sharding,
    bf16: bool,
    fused: bool,
) -> int:
    """Bytes kept by all layers of one stage, for each micro-batch that it holds, by the block
    that is computed again in one of them, and by the last norm."""
    whole = tokens * _block_bytes(recipe, shape, cut.tensor, bf16, fused)
    whole += _attention_bytes(recipe, shape, tokens, cut.tensor, bf16, fused)
    stream = _FP32 * tokens * shape.d_model
    kept, again = {
        "none": (whole, 0),
        "full": (stream, whole),
        "selective": (tokens * _selective_bytes(shape, cut.tensor, bf16), whole),
    }[cut.checkpointing]
    norm = (2 if fused else 3) * stream if stage.last else 0
    return stage.held * stage.layers * kept + again + norm


def _block_bytes(recipe: Recipe, shape: Architecture, tensor: int, bf16: bool, fused: bool) -> int:
    """Bytes per token that one block keeps for its backward pass."""
    d, attention = shape.d_model, shape.heads * shape.head_dim // tensor
    ffn, size = shape.d_ff // tensor, _BF16 if bf16 else _FP32
    norms = 2 * _FP32 * d * (1 if fused else 2)  # their input; unfused also x / rms
    # The result of a norm is cast anew for q, k, v, gate and up unless the compiler shares it.
    copies = 5 if bf16 and not fused else 2
    dropped = 2 * d * (1 if fused else size) if recipe.train.hidden_dropout else 0
    # q, k, v and what attention gives; gate, SiLU(gate), up and their product.
    return norms + size * (copies * d + 4 * attention + 4 * ffn) + dropped


def _attention_bytes(
    recipe: Recipe, shape: Architecture, tokens: int, tensor: int, bf16: bool, fused: bool
) -> int:
    """Squares that attention keeps: an explicit mask, and, on a CPU with dropout, probabilities,
    the kept ones and which they are."""
    square = tokens * recipe.data.sequence_length
    masked = get_family(recipe.family).explicit_mask(recipe.options)
    mask = square * (_BF16 if bf16 else _FP32) if masked else 0
    dropout = recipe.train.attention_dropout > 0 and not fused
    return mask + (3 * _FP32 * square * shape.heads // tensor if dropout else 0)


def _selective_bytes(shape: Architecture, tensor: int, bf16: bool) -> int:
    """Bytes per token of a block's input and of the results of its matrix products."""
    d, attention, ffn = shape.d_model, shape.heads * shape.head_dim, shape.d_ff
    size = _BF16 if bf16 else _FP32
    return _FP32 * d + size * (2 * d + (4 * attention + 2 * ffn) // tensor)


def _head(shape: Architecture, table: int, tokens: int, bf16: bool) -> int:
    """Bytes of the head: rows and their gradients, the table's gradient, a block of logits."""
    d, size = shape.d_model, _BF16 if bf16 else _FP32
    rows = 2 * size * tokens * d
    gradient = _FP32 * table + (_BF16 * table if bf16 else 0)
    block = min(LOGITS_BLOCK, tokens * (table // d))
    return rows + gradient + block * (_BF16 + _FP32 if bf16 else _FP32)

"""Estimates of what a run needs: memory per device, and time on a named GPU.

Memory is counted tensor by tensor as the trainer holds it: fp32 weights, gradients and AdamW's two
moments; under bf16 autocast a bf16 copy of each matrix; the full weights that sharded processes
gather for a while; the activations each block keeps for its backward pass; and a block of logits.
Not counted: fragmentation of the allocator, CUDA's context (about half a GB) and communication
buffers. `docs/estimates.md` has the checks of these figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from epochal.errors import OptionError, RecipeError
from epochal.families import get_family
from epochal.recipe.numbers import RunNumbers, micro_rows
from epochal.recipe.schema import Recipe
from epochal.sizes import DEFAULT_MFU, Architecture, get_gpu, logits_block, stage_layers

Checkpointing = Literal["none", "selective", "full"]

_FP32, _BF16 = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """Number of parts into which each kind of tensor is divided over devices."""

    data: int = 1
    """Devices that divide the rows of a step."""
    weights: int = 1
    """Parts of the fp32 weights (ZeRO 3)."""
    gradients: int = 1
    """Parts of the gradients (ZeRO 2 and 3)."""
    optimizer: int = 1
    """Parts of AdamW's two moments (ZeRO 1 to 3)."""
    tensor: int = 1
    """Parts of heads, inner width and vocabulary (tensor parallel)."""
    pipeline: int = 1
    """Pipeline stages."""
    offload: bool = False
    """Whether weights, gradients and moments are in host memory and fetched layer by layer."""
    checkpointing: Checkpointing = "none"
    """What is recomputed in the backward pass: nothing, all except matrix products and attention,
    or whole blocks."""

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Contents of a pipeline stage; the whole model if there is only one."""

    number: int
    layers: int
    first: bool
    """Whether it has the embedding."""
    last: bool
    """Whether it has the last norm and the head; with tied tables, the embedding again."""
    held: int
    """Micro-batches whose activations it keeps at a time (in 1F1B, one per stage from here on)."""

    def tables(self, untied: bool) -> int:
        """Number of vocabulary tables here; a tied one counts once per stage."""
        return int(self.first) + int(self.last) - (self.first and self.last and not untied)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the device that needs most."""

    stage: int = field(metadata={"json": False})
    """Pipeline stage of the device, from 0."""
    weights: int
    gradients: int
    optimizer: int
    """Moments of AdamW and Muon, and the average of the weights if there is one."""
    casts: int
    """bf16 copies of the matrices during a step; of sharded ones only of the output table."""
    gathered: int
    """Full weights beside the process's own shard, blocks' matrices in the run's precision: with
    ZeRO 3 those of the current block, the next one, embedding and output table; with ZeRO 1 and 2
    all. From ZeRO 2 on also the full gradients of one block, until they are exchanged."""
    activations: int
    """Kept for the backward pass, over all layers."""
    logits: int
    """Block of logits and gradients of the head, as if all positions were scored."""
    accumulated: bool = field(metadata={"json": False})
    """Whether a step has several micro-batches, so that gradients of earlier ones exist beside the
    activations of the next. With one, gradients replace activations."""
    total: int = field(init=False)
    """At the peak, the end of a forward pass or the update."""

    def __post_init__(self) -> None:
        forward = self.casts + self.gathered + self.activations + self.logits
        busy = forward + self.gradients if self.accumulated else max(forward, self.gradients)
        object.__setattr__(self, "total", self.weights + self.optimizer + busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Duration of a run."""

    gpu: str
    gpus: int
    mfu: float
    """Assumed share of the dense bf16 peak."""
    matmul_flops: float
    """FLOPs of all matrix products, which MFU counts; not the paper's 6·N·D."""
    seconds: float
    gpu_hours: float = field(init=False)
    """seconds · gpus / 3600."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "gpu_hours", self.seconds * self.gpus / 3600)


def estimate_memory(
    recipe: Recipe,
    vocabulary: int,
    sharding: Sharding | None = None,
    *,
    bf16: bool = True,
    fused: bool = True,
) -> Memory:
    """Bytes per device while `recipe` trains with a tokenizer of `vocabulary` ids, of the pipeline
    stage that needs most.

    `fused` is for GPUs, whose RMSNorm and dropout keep less than the CPU's. Raises RecipeError if
    there are fewer layers or heads than parts.
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
    """As `estimate_memory`, for a device of each pipeline stage.

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
    norms = (2 * stage.layers + stage.last) * shape.d_model + stage.layers * shape.noise_weights
    trained = matrices + tables + norms
    rows = micro_rows(recipe, cut.data, cut.pipeline)
    tokens = rows * recipe.data.sequence_length
    family = get_family(recipe.family)
    read = tokens * family.positions_per_token(recipe.options)
    # A family that scores all positions, scores all that it reads, or else at most its tokens; one
    # whose loss needs all logits has the whole table on each process.
    scored = read if family.scored_share == 1 else tokens
    scored_rows = table if family.cross_entropy else table * cut.tensor
    accumulated = rows * cut.data < recipe.train.global_batch_size
    sharded = cut.optimizer > 1 or cut.offload
    cast = head_table + (0 if sharded else matrices)
    average = _FP32 * trained if recipe.train.ema or recipe.train.average_epochs else 0
    moments = 2 * trained - (matrices if recipe.train.optimizer == "muon" else 0)
    return Memory(
        stage=stage.number,
        weights=0 if cut.offload else _FP32 * trained // cut.optimizer,
        gradients=0 if cut.offload else _FP32 * trained // cut.gradients,
        optimizer=average + (0 if cut.offload else _FP32 * moments // cut.optimizer),
        casts=_BF16 * cast if bf16 else 0,
        gathered=_gathered(shape, cut, matrices, tables + norms, bf16) if sharded else 0,
        activations=_activations(recipe, shape, stage, read, cut, bf16, fused),
        logits=_head(shape, scored_rows, scored, bf16, fused) if stage.last else 0,
        accumulated=accumulated or cut.pipeline > 1,
    )


def estimate_time(
    recipe: Recipe,
    numbers: RunNumbers,
    gpu: str = "H100",
    gpus: int = 1,
    mfu: float = DEFAULT_MFU,
) -> Time:
    """Time of training without evaluations and saving.

    FLOPs of all matrix products / (dense bf16 peak · `mfu` · `gpus`). Raises OptionError for an
    unknown GPU and for values out of range.
    """
    if not 0 < mfu <= 1:
        raise OptionError("mfu", mfu, "it is a share of the peak; give a number above 0, up to 1")
    if gpus < 1:
        raise OptionError("gpus", gpus, "give at least 1")
    # Only the logits of scored positions are computed.
    family = get_family(recipe.family)
    cost = recipe.model.architecture().matmul_flops_per_token(
        numbers.vocabulary, numbers.sequence_length, family.scored_share
    )
    flops = cost * numbers.tokens * family.positions_per_token(recipe.options)
    seconds = flops / (get_gpu(gpu).peak * mfu * gpus)
    return Time(gpu=gpu, gpus=gpus, mfu=mfu, matmul_flops=flops, seconds=seconds)


def _check_parts(shape: Architecture, cut: Sharding) -> None:
    for parts, what, there in (
        (cut.pipeline, "layers", shape.layers),
        (cut.tensor, "heads", shape.heads),
    ):
        if parts > there:
            raise RecipeError(f"{there} {what} cannot be divided into {parts} parts")


def _gathered(shape: Architecture, cut: Sharding, matrices: int, rest: int, bf16: bool) -> int:
    """Bytes of full tensors in FSDP: `matrices` of blocks in the run's precision, and the `rest`,
    norms and tables, in fp32 until the head is done.

    With ZeRO 3 one block is fetched while another computes; else all stay for the backward pass.
    """
    block = _block_matrices(shape) // cut.tensor
    if cut.weights > 1 or cut.optimizer == 1:
        matrices = min(2 * block, matrices)
    gradients = _FP32 * block if cut.gradients > 1 else 0
    return (_BF16 if bf16 else _FP32) * matrices + _FP32 * rest + gradients


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
    """Bytes kept by all layers of one stage for each micro-batch it holds, by the block that is
    recomputed, and by the last norm."""
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
    # Their input; unfused also x / rms; and what a noise level scales.
    norms = 2 * _FP32 * d * ((1 if fused else 2) + shape.noise_conditioning)
    # The result of a norm is cast again for q, k, v, gate and up unless the compiler shares it.
    copies = 5 if bf16 and not fused else 2
    dropped = 2 * d * (1 if fused else size) if recipe.train.hidden_dropout else 0
    # q, k, v and attention's output; gate, SiLU(gate), up and their product.
    return norms + size * (copies * d + 4 * attention + 4 * ffn) + dropped


def _attention_bytes(
    recipe: Recipe, shape: Architecture, tokens: int, tensor: int, bf16: bool, fused: bool
) -> int:
    """Bytes of [L, L] tensors that attention keeps: an explicit mask, and, on a CPU with dropout,
    probabilities, probabilities after dropout, and the dropout mask."""
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


def _head(shape: Architecture, table: int, tokens: int, bf16: bool, gpu: bool) -> int:
    """Bytes of the head: rows and their gradients, the table's gradient, a block of logits."""
    d, size = shape.d_model, _BF16 if bf16 else _FP32
    rows = 2 * size * tokens * d
    gradient = _FP32 * table + (_BF16 * table if bf16 else 0)
    block = min(logits_block(table // d, gpu=gpu), tokens * (table // d))
    return rows + gradient + block * (_BF16 + _FP32 if bf16 else _FP32)

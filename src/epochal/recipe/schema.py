"""One experiment on one page: every setting, its default and its meaning.

The text under a field is its documentation; `epochal recipe` prints this page as TOML.
Defaults are the paper's where it has one (arXiv 2507.15857 §8), except that dropout is off. A
family may have other defaults (`Family.recipe_defaults`), which `load_recipe` applies.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.families import families, family_names, get_family
from epochal.families.family import OPTIONS_CONFIG, Fraction, Positive
from epochal.recipe.distill import Distill
from epochal.recipe.model import Model
from epochal.units import Count, Every, Interval, Quantity


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Data:
    """Training and validation text."""

    corpus: str = "corpus"
    """Folder made by `epochal data prepare`, with the stores `train` and `validation`."""
    train: str | None = None
    """Training store, if not in the corpus folder: `d/x` for the files d/x.bin and d/x.idx. Or a
    datapath file of the original, with entries "weight prefix", to mix stores."""
    validation: str | None = None
    """Validation store, if not in the corpus folder."""
    tokenizer: str | None = None
    """Tokenizer of stores without metadata: gpt2, bytes, a tokenizer.json or its folder."""
    unique_tokens: Count | None = None
    """Use only the first N tokens of the training store, for example "100M"."""
    sequence_length: Positive = 512
    """L, tokens per row. The paper uses 2048."""
    order: Literal["windows", "megatron"] = "windows"
    """windows: rows are cut at a new offset and shuffled in each epoch. megatron: exactly the
    original's order, from seed, documents, L and the number of rows."""
    train_samples: Positive | None = None
    """The original's --train-samples, if it differs from the rows of this run; only with
    order = "megatron", where it decides which epochs are mixed."""


BUDGET_KEYS = ("epochs", "tokens", "steps", "flops")


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Train:
    """Length, batch, optimizer and faults. Give the length once: epochs, tokens, steps or flops."""

    epochs: Quantity | None = None
    """Length in passes over the unique tokens."""
    tokens: Count | None = None
    """Length in tokens seen."""
    steps: Positive | None = None
    """Length in optimizer steps."""
    flops: Quantity | None = None
    """Length in FLOPs, 6·N·D with the paper's N."""
    global_batch_size: Positive = 256
    """Rows per optimizer step, over all devices and micro-batches."""
    micro_batch_size: Positive | None = None
    """Rows per forward pass; if not given, the whole batch, at most 16,384 tokens."""
    lr: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    min_lr: Annotated[float, Field(ge=0)] = 2e-5
    """Learning rate at the end."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape of the decay from lr to min_lr after the warm-up. wsd: warm up, constant lr, decay
    over the last `decay` of the run."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the run, or of each cycle, in which wsd decays."""
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """Shape of wsd's decay; sqrt falls as 1 − √share (Hägele et al., arXiv 2405.18392)."""
    cycles: Positive = 1
    """How often the schedule is gone through, in equal parts of the run, each from lr again and
    only the first with a warm-up. The end of each has a permanent checkpoint (a snapshot; Huang et
    al., arXiv 1704.00109)."""
    lr_progress: Literal["steps", "samples"] = "steps"
    """What the schedule counts. steps: the end of each step, so the last has rate min_lr.
    samples: as Megatron, the rows seen before the step, so the first has rate 0."""
    start_from: str | None = None
    """Folder of a run to branch from (the trunk): continue from its checkpoint at lr, then decay.
    One long run then serves several lengths. The length includes the trunk's steps."""
    start_step: Positive | None = None
    """Step of the trunk's checkpoint; if not given, the last one before the decay begins."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: matrices of blocks by Muon, with updates of AdamW's size, so that lr and weight_decay
    are of its order; embedding, output table and norms by AdamW."""
    warmup: Fraction = 0.01
    """Share of the run in which the rate rises linearly from 0."""
    beta1: Fraction = 0.9
    """AdamW's decay of the first moment."""
    beta2: Fraction = 0.95
    """AdamW's decay of the second moment."""
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay of all matrices, embedding included, but not of norms. For repeated
    data 0.8 to 3.2 is best (Kim et al., arXiv 2509.14786)."""
    cautious_decay: bool = False
    """Decay a weight only in steps whose update makes it smaller, too (Chen et al., arXiv
    2510.12402); about half of the decay."""
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    grad_clip_reduction: Literal["mean", "sum"] = "mean"
    """What `grad_clip` bounds. mean: the step's mean gradient. sum: as in the original, the sum
    of its micro-batches' means (with four of them, 1.0 is 0.25 of the mean)."""
    grad_clip_microbatches: Positive | None = None
    """Micro-batches in that sum; global_batch_size / micro_batch_size if not given."""
    ema: Fraction = 0.0
    """Decay per step of a running average of the weights, for example 0.999; 0: no average."""
    average_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs at the end of the run (all, if it has fewer) over whose steps the weights are averaged
    (SWA; Izmailov et al., arXiv 1803.05407), for example 2; 0: none. It takes the place of ema."""
    on_nan: Literal["stop", "skip", "rewind"] = "stop"
    """If loss or gradient is not finite. stop: end the run. skip: continue without the update.
    rewind: return to the last checkpoint's weights, continue with the next rows."""
    on_spike: Literal["ignore", "stop", "skip", "rewind"] = "ignore"
    """The same for a gradient norm above spike_factor times the median of recent steps."""
    spike_factor: Annotated[float, Field(gt=1)] = 10.0
    """A norm above this multiple of the median of the last 100 steps' norms is a spike."""
    attention_dropout: Fraction = 0.0
    """Dropout on attention probabilities. The original trains with 0.1."""
    hidden_dropout: Fraction = 0.0
    """Dropout on embeddings and on each block's output. The original trains with 0.1."""
    embedding_dropout: Fraction | None = None
    """Dropout on embeddings alone; hidden_dropout if not given, as in the original."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or fp32. auto: bf16 on GPUs that have it, fp32 elsewhere; on a CPU bf16 in runs
    of minutes where it is measured to be faster, but fp32 in all runs of a sweep, tuning, study or
    comparison."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile. auto: on GPUs, where it pays except for very short runs."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    deterministic: bool = False
    """Use only deterministic kernels, so that a GPU run can be repeated bit for bit (slower).
    CPU runs always can."""

    def budget_key(self) -> str:
        """Name of the one key that sets the length. Raises RecipeError unless it is exactly one."""
        given = [key for key in BUDGET_KEYS if getattr(self, key) is not None]
        if len(given) == 1:
            return given[0]
        if not given:
            raise RecipeError(
                "the length of the run is missing: give one of `train.epochs`, `train.tokens`, "
                "`train.steps` or `train.flops`, for example train.epochs=20"
            )
        keys = " and ".join(f"`train.{key}`" for key in given)
        raise RecipeError(f"{keys} both set the length of the run; keep one of them")


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Evaluation:
    """Validation during training. The results in a report come from `epochal eval`."""

    every: Every = Interval(2, "percent")
    """Interval in steps, tokens, epochs, flops or % of the run; always at the end."""
    draws: Positive = 1
    """Draws per row, if the NLL is a bound (diffusion's masks); the same ones each time."""
    ema: bool = False
    """Validate the average of the weights (`train.ema` or `train.average_epochs`, before whose
    first epoch it is the weights); `best` is then the average."""
    max_tokens: Count = 1_000_000
    """Use at most N tokens, in rows spread evenly over the validation set."""
    batch_size: Positive | None = None
    """Rows per forward pass; at most 16,384 tokens if not given."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Checkpoint:
    """Checkpoints of the run. The newest and the best are always kept."""

    every: Every = Interval(10, "minutes")
    """Interval in steps, tokens, epochs, flops, % of the run or minutes; always at the end."""
    keep: Positive = 2
    """Number of these that stay. If the newest is damaged, the previous one is used."""
    keep_every: Every | None = None
    """Interval of permanent checkpoints, in steps, tokens, epochs, flops or % of the run."""
    keep_at: tuple[Positive, ...] = ()
    """Steps with a permanent checkpoint, for runs that branch from there."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Log:
    """Logs of the run."""

    every: Every = Interval(0.5, "percent")
    """Interval of lines in metrics.jsonl."""
    tensorboard: bool = True
    """Also write TensorBoard events, if the tensorboard package is installed."""
    law: str | None = None
    """File of an overfitting law, written by `epochal fit --law overfitting --out law.toml`; the
    progress line then shows its best epoch for this run."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    """Services that get a copy, for example ["wandb"]. One that fails is dropped."""
    project: str = "epochal"
    """Project in these services (in MLflow: experiment)."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Parallel:
    """Distribution over the processes that torchrun starts; results do not depend on it."""

    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage: what data-parallel processes shard. 0: nothing (DDP). With FSDP2, 1: the
    optimizer's state, 2: also gradients, 3: also weights."""
    data: Positive | None = None
    """Data-parallel processes; if not given, processes / (tensor · pipeline)."""
    shard: Positive | None = None
    """FSDP shard-group size; there are data / shard replicas. All data-parallel processes if not
    given; fewer, for example one machine's, is hybrid sharding."""
    tensor: Positive = 1
    """Tensor-parallel processes: heads, inner widths and vocabulary are split over them."""
    pipeline: Positive = 1
    """Pipeline stages: neighbouring layers on different processes; the micro-batches of a step
    pass through them (1F1B). Not with dropout."""
    sequence: bool = False
    """With tensor parallelism, also split norms and the residual stream, by position."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What is recomputed in the backward pass instead of kept. full: everything in a block.
    selective: everything except matrix products and attention."""
    offload: bool = False
    """Keep sharded weights, gradients and optimizer state in host memory; needs zero ≥ 1."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds of silence of one process after which the job ends."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Recipe:
    """One experiment."""

    family: str = family_names()[0]
    """Family of the model."""
    seed: Annotated[int, Field(ge=0)] = 1234
    """Seed of everything random: initial weights, order of rows, masks, dropout."""
    run_dir: str | None = None
    """Folder of the run; runs/<recipe's name>-<family> if not given."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    objectives: dict[str, Any] = field(default_factory=dict)
    """Family → its options, in files the section of the family's name. Missing ones are added at
    their defaults."""
    train: Train = field(default_factory=Train)
    distill: Distill = field(default_factory=Distill)
    eval: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)
    parallel: Parallel = field(default_factory=Parallel)

    @property
    def options(self) -> Any:
        """The options of the recipe's own family, a `Family.options`; None if it has none."""
        return self.objectives.get(self.family)

    def __post_init__(self) -> None:
        if self.family not in family_names():
            raise RecipeError(
                f"`family` = {self.family!r}: it should be {' or '.join(map(repr, family_names()))}"
            )
        defaults = {kind.name: kind.options() for kind in families() if kind.options is not None}
        object.__setattr__(self, "objectives", defaults | self.objectives)
        get_family(self.family).check(self.options, self.data.sequence_length)
        if self.model.noise_conditioning and not get_family(self.family).noise_level:
            able = " and ".join(one.name for one in families() if one.noise_level)
            raise RecipeError(
                f"`model.noise_conditioning` = true is for the families {able}; rows of "
                f"{self.family} have no noise level to tell"
            )
        self.train.budget_key()
        if self.data.train_samples is not None and self.data.order != "megatron":
            raise RecipeError(
                f"`data.train_samples` = {self.data.train_samples:,} only counts with "
                '`data.order` = "megatron"'
            )
        _check_schedule(self.train)
        if self.distill.teachers and self.parallel.tensor * self.parallel.pipeline > 1:
            raise RecipeError(
                f"`distill.teachers` with `parallel.tensor` = {self.parallel.tensor} and "
                f"`parallel.pipeline` = {self.parallel.pipeline}: a student is trained on whole "
                "layers; distribute it with `parallel.data` and `parallel.zero`"
            )
        _check_average(self.train, self.eval.ema)
        if "rewind" in (self.train.on_nan, self.train.on_spike) and (
            self.checkpoint.every.unit == "minutes"
        ):
            raise RecipeError(
                f"rewinding returns to the last checkpoint, and `checkpoint.every` = "
                f"'{self.checkpoint.every}' would put it elsewhere each time; give it in steps, "
                'tokens, epochs, flops or %, for example checkpoint.every="1%"'
            )
        if self.train.min_lr > self.train.lr:
            raise RecipeError(
                f"`train.min_lr` = {self.train.min_lr:g} is above `train.lr` = {self.train.lr:g}"
            )
        for key, every in (
            ("eval.every", self.eval.every),
            ("log.every", self.log.every),
            ("checkpoint.keep_every", self.checkpoint.keep_every),
        ):
            if every is not None and every.unit == "minutes":
                raise RecipeError(
                    f"`{key}` = '{every}' would differ from run to run; give it in steps, "
                    "tokens, epochs, flops or %"
                )


def _check_average(train: Train, validated: bool) -> None:
    """Raise RecipeError for an average of the weights that is missing or not possible."""
    if validated and not (train.ema or train.average_epochs):
        raise RecipeError(
            "`eval.ema` = true needs an average to validate: set `train.ema`, for example "
            "train.ema=0.999, or `train.average_epochs`"
        )
    if train.average_epochs and (train.ema or train.start_from is not None):
        other = f"`train.ema` = {train.ema:g}" if train.ema else "`train.start_from`"
        raise RecipeError(
            f"`train.average_epochs` = {train.average_epochs:g} with {other}: a run has one "
            "average, of its own steps; leave one of them out"
        )


def _check_schedule(train: Train) -> None:
    """Raise RecipeError for settings of the schedule that contradict each other."""
    if train.schedule == "wsd" and train.warmup * train.cycles + train.decay > 1:
        raise RecipeError(
            f"`train.warmup` = {train.warmup:g} and `train.decay` = {train.decay:g} are shares of "
            "the run (decay: of each cycle) and together more than all of it; lower one"
        )
    if train.start_from is not None and train.schedule not in ("wsd", "constant"):
        raise RecipeError(
            f"`train.start_from` continues at the trunk's constant rate, but `train.schedule` = "
            f'"{train.schedule}"; set train.schedule="wsd" and train.decay'
        )
    if train.cycles > 1 and (train.schedule == "constant" or train.start_from is not None):
        other = '`train.schedule` = "constant"' if train.schedule == "constant" else "a trunk"
        raise RecipeError(
            f"`train.cycles` = {train.cycles} with {other}: each cycle decays from lr by itself; "
            "leave one of them out"
        )
    if train.warmup * train.cycles > 1:
        raise RecipeError(
            f"`train.warmup` = {train.warmup:g} is more than the first of `train.cycles` = "
            f"{train.cycles} cycles; lower it"
        )
    if train.start_step is not None and train.start_from is None:
        raise RecipeError("`train.start_step` needs `train.start_from`, the trunk's folder")

"""From `[parallel]` and a number of processes to a checked device mesh."""

from __future__ import annotations

from dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.recipe import Recipe
from epochal.recipe.estimate import Sharding
from epochal.recipe.numbers import micro_rows
from epochal.recipe.schema import Parallel
from epochal.sizes import Architecture


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """Sizes of the axes of the device mesh; their product is the number of processes."""

    data: int = 1
    """Data-parallel groups, each with its own rows of the global batch."""
    shard: int = 1
    """FSDP shard-group size; there are data / shard replicas."""
    tensor: int = 1
    """Processes over which heads, inner widths and vocabulary of a layer are split."""
    pipeline: int = 1
    """Pipeline stages of neighbouring blocks."""
    zero: int = 0
    """0: DDP (with tensor parallelism: 1). FSDP2 shards the optimizer's state (1), also gradients
    (2), also weights (3)."""

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.data * self.tensor * self.pipeline

    @property
    def replicas(self) -> int:
        """Replicas of the sharded model (more than one in hybrid sharding)."""
        return self.data // self.shard

    def sharding(self, parallel: Parallel) -> Sharding:
        """Into how many parts each kind of tensor is divided."""
        return Sharding(
            data=self.data,
            weights=self.shard if self.zero >= 3 else 1,
            gradients=self.shard if self.zero >= 2 else 1,
            optimizer=self.shard if self.zero >= 1 else 1,
            tensor=self.tensor,
            pipeline=self.pipeline,
            offload=parallel.offload,
            checkpointing=parallel.activation_checkpointing,
        )


def plan_mesh(recipe: Recipe, world: int, vocabulary: int) -> MeshPlan:
    """The mesh of the recipe on `world` processes; decided before anything is started.

    Raises RecipeError, with the nearest value that fits, if the sizes do not multiply to `world`
    or do not divide heads, widths, rows or positions.
    """
    parallel, shape = recipe.parallel, recipe.model.architecture()
    tensor, stages = parallel.tensor, parallel.pipeline
    if world == 1:
        return MeshPlan()  # a recipe made for a cluster also runs on one device
    _must_fit("parallel.tensor", tensor, world)
    _must_fit("parallel.pipeline", stages, world)
    if world % (tensor * stages):
        fitting = max(n for n in range(1, stages) if world // tensor % n == 0)
        raise RecipeError(
            f"`parallel.tensor` × `parallel.pipeline` = {tensor} × {stages} does not divide the "
            f"{world} processes; start a multiple of {tensor * stages}, or set "
            f"parallel.pipeline={fitting}"
        )
    if stages > shape.layers:
        fitting = max(n for n in range(1, shape.layers + 1) if world // tensor % n == 0)
        raise RecipeError(
            f"`parallel.pipeline` = {stages} stages are more than the model's {shape.layers} "
            f"layers; set parallel.pipeline={fitting}"
        )
    data = world // (tensor * stages)
    if parallel.data is not None and parallel.data != data:
        others, sizes = "`parallel.tensor`", f"{tensor}"
        if stages > 1:
            others, sizes = f"{others} × `parallel.pipeline`", f"{tensor} × {stages}"
        raise RecipeError(
            f"`parallel.data` × {others} = {parallel.data} × {sizes} is not the {world} "
            f"processes that were started; set parallel.data={data} (or leave it out), or start "
            f"{parallel.data * tensor * stages} processes"
        )
    shard = parallel.shard or data
    _must_divide("parallel.shard", shard, data, "the {total} data-parallel processes")
    _must_divide(
        "parallel.data",
        data,
        recipe.train.global_batch_size,
        "`train.global_batch_size` = {total} rows",
    )
    _check_tensor(parallel, shape, vocabulary, recipe.data.sequence_length)
    _check_options(recipe, data)
    zero = parallel.zero
    if data == 1 and not parallel.offload:
        zero = 0
    elif tensor > 1:
        zero = max(zero, 1)  # DDP cannot hold tensor-parallel weights; FSDP2 with zero = 1 can
    if stages > 1:
        _check_micro_batches(recipe, data)
    return MeshPlan(data, shard if zero else 1, tensor, stages, zero)


def _must_fit(key: str, size: int, world: int) -> None:
    if world % size == 0:
        return
    raise RecipeError(
        f"`{key}` = {size} does not divide the {world} processes; start a multiple of {size}, or "
        f"set {key}={_nearest_divisor(world, size)}"
    )


def _check_micro_batches(recipe: Recipe, data: int) -> None:
    """1F1B needs micro-batches of one size, at least one per stage."""
    stages, mine = recipe.parallel.pipeline, recipe.train.global_batch_size // data
    rows = micro_rows(recipe, data, stages)
    if mine % rows == 0 and mine // rows >= stages:
        return
    what = f"`parallel.pipeline` = {stages} stages need"
    if mine < stages:
        raise RecipeError(
            f"{what} at least a row each, but a pipeline has {mine} per step; set "
            f"train.global_batch_size={stages * data} or more, or parallel.pipeline=1"
        )
    nearest = _nearest_divisor(mine, rows, most=mine // stages)
    raise RecipeError(
        f"{what} at least as many micro-batches, all of one size: `train.micro_batch_size` = "
        f"{rows} does not divide {mine} rows so; set train.micro_batch_size={nearest}, or leave it "
        "out"
    )


def _check_tensor(parallel: Parallel, shape: Architecture, vocabulary: int, length: int) -> None:
    name, size = "parallel.tensor", parallel.tensor
    _must_divide(name, size, shape.heads, "the model's {total} attention heads")
    _must_divide(name, size, shape.d_ff, "the model's inner width {total}")
    rows = shape.rows(vocabulary)
    _must_divide(name, size, rows, "the embedding table of {total} rows")
    if parallel.sequence:
        if size == 1:
            raise RecipeError(
                "`parallel.sequence` = true needs tensor parallelism; set `parallel.tensor` "
                "to 2 or more, or parallel.sequence=false"
            )
        _must_divide(name, size, length, "`data.sequence_length` = {total}")
        if shape.noise_conditioning:
            raise RecipeError(
                "`parallel.sequence` = true splits the norms that `model.noise_conditioning` "
                "scales; set parallel.sequence=false"
            )


def _check_options(recipe: Recipe, data: int) -> None:
    """Options that exclude each other."""
    parallel, train = recipe.parallel, recipe.train
    if parallel.offload and parallel.zero == 0:
        raise RecipeError(
            "`parallel.offload` = true needs sharded weights; set parallel.zero to 1, 2 or 3"
        )
    if parallel.shard and parallel.zero == 0:
        raise RecipeError(
            f"`parallel.shard` = {parallel.shard} needs FSDP; set parallel.zero to 1, 2 or 3, or "
            "leave it out"
        )
    drops = train.attention_dropout or train.hidden_dropout or train.embedding_dropout
    if drops and (parallel.tensor > 1 or parallel.pipeline > 1):
        key = "parallel.tensor" if parallel.tensor > 1 else "parallel.pipeline"
        raise RecipeError(
            f"dropout would differ from that of one process with `{key}`; set the "
            "dropout rates to 0, or use data parallelism (parallel.zero)"
        )


def _must_divide(key: str, size: int, total: int, what: str) -> None:
    if total % size == 0:
        return
    raise RecipeError(
        f"`{key}` = {size} does not divide {what.format(total=f'{total:,}')}; the nearest that "
        f"does is {_nearest_divisor(total, size)}"
    )


def _nearest_divisor(total: int, wanted: int, most: int | None = None) -> int:
    """The divisor of `total` nearest to `wanted`, the smaller of two, at most `most`."""
    fitting = [n for n in range(1, (most or total) + 1) if total % n == 0]
    return min(fitting, key=lambda n: (abs(n - wanted), n))

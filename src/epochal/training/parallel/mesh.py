"""From `[parallel]` and a number of processes to a checked plan of who does what."""

from __future__ import annotations

from dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.recipe import Recipe
from epochal.recipe.schema import Parallel
from epochal.sizes import Architecture


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """Sizes of the axes of the device mesh; their product is the number of processes."""

    data: int = 1
    """Groups of processes that each take their own rows of the global batch."""
    shard: int = 1
    """Processes over which FSDP cuts up what it cuts up; `data / shard` copies are kept."""
    tensor: int = 1
    """Processes that share the heads, inner widths and vocabulary of a layer."""
    zero: int = 0
    """0: DDP (with tensor: 1). FSDP2 cuts up the optimizer's state (1), also
    gradients (2), also weights (3)."""

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.data * self.tensor

    @property
    def replicas(self) -> int:
        """Copies of the sharded model (hybrid sharding keeps more than one)."""
        return self.data // self.shard

    def as_dict(self) -> dict[str, int]:
        """Plain values, for the run record."""
        names = ("data", "shard", "tensor", "zero")
        return {name: getattr(self, name) for name in names}


def plan_mesh(recipe: Recipe, world: int, vocabulary: int) -> MeshPlan:
    """The mesh that the recipe asks for on `world` processes.

    Raises RecipeError, with the nearest value that would do, if the sizes do not multiply to
    `world` or do not divide what they cut up. All is decided before anything is started.
    """
    parallel, shape = recipe.parallel, recipe.model.architecture()
    tensor = parallel.tensor
    if world % tensor:
        fitting = [n for n in range(1, world + 1) if world % n == 0]
        nearest = min(fitting, key=lambda n: (abs(n - tensor), n))
        raise RecipeError(
            f"`parallel.tensor` = {tensor} does not divide the {world} processes; start a "
            f"multiple of {tensor}, or set parallel.tensor={nearest}"
        )
    data = world // tensor
    if parallel.data is not None and parallel.data != data:
        raise RecipeError(
            f"`parallel.data` × `parallel.tensor` = {parallel.data} × {tensor} is not the {world} "
            f"processes that were started; set parallel.data={data} (or leave it out), or start "
            f"{parallel.data * tensor} processes"
        )
    shard = parallel.shard or data
    _must_divide("parallel.shard", shard, data, "the {total} data-parallel processes")
    _must_divide(
        "parallel.data", data, recipe.train.global_batch, "`train.global_batch` = {total} rows"
    )
    _check_tensor(parallel, shape, vocabulary, recipe.data.sequence_length)
    _check_options(recipe, data)
    zero = parallel.zero
    if data == 1 and not parallel.offload:
        zero = 0
    elif tensor > 1:
        zero = max(zero, 1)  # DDP cannot hold what is cut up; FSDP2 with zero = 1 is the same
    return MeshPlan(data, shard if zero else 1, parallel.tensor, zero)


def _check_tensor(parallel: Parallel, shape: Architecture, vocabulary: int, length: int) -> None:
    name, size = "parallel.tensor", parallel.tensor
    _must_divide(name, size, shape.heads, "the model's {total} attention heads")
    _must_divide(name, size, shape.ffn_width, "the model's inner width {total}")
    rows = shape.rows(vocabulary)
    _must_divide(name, size, rows, "the embedding table of {total} rows")
    if parallel.sequence:
        if size == 1:
            raise RecipeError(
                "`parallel.sequence` = true goes with tensor parallelism; set `parallel.tensor` "
                "to 2 or more, or parallel.sequence=false"
            )
        _must_divide(name, size, length, "`data.sequence_length` = {total}")


def _check_options(recipe: Recipe, data: int) -> None:
    """Options that do not go together."""
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
    if drops and parallel.tensor > 1:
        raise RecipeError(
            "dropout would differ from that of one process under `parallel.tensor`; set the "
            "dropout rates to 0, or use data parallelism (parallel.zero)"
        )


def _must_divide(key: str, size: int, total: int, what: str) -> None:
    if total % size == 0:
        return
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    nearest = min(divisors, key=lambda n: (abs(n - size), n))
    raise RecipeError(
        f"`{key}` = {size} does not divide {what.format(total=f'{total:,}')}; the nearest that "
        f"does is {nearest}"
    )

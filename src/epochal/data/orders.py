"""The order of rows that a recipe asks for, over a store or a blend of stores."""

from __future__ import annotations

from pathlib import Path

from epochal import rng
from epochal.data.batches import Order, RowOrder
from epochal.data.blend import Blend, BlendedOrder, blended_samples
from epochal.data.megatron_order import MegatronOrder
from epochal.data.store import TokenStore
from epochal.errors import RecipeError
from epochal.recipe import Recipe, RunNumbers


def row_order(
    recipe: Recipe, train: TokenStore | Blend, numbers: RunNumbers, cache: Path | None = None
) -> Order:
    """Rows of `train` by `data.order`. `cache` is a folder for arrays that are made once.

    Raises RecipeError where `data.train_samples` are fewer than the run's rows, DataError for
    a store shorter than a row.
    """
    samples = recipe.data.train_samples or numbers.rows
    rows = numbers.steps * numbers.global_batch_size
    if samples < rows:
        raise RecipeError(
            f"`data.train_samples` = {samples:,} are fewer than the {rows:,} rows of the run; "
            "give the original's --train-samples, or leave it out"
        )
    if isinstance(train, TokenStore):
        return _single(recipe, train, samples, recipe.seed, cache)
    if recipe.data.unique_tokens is not None:
        raise RecipeError(
            "`data.unique_tokens` does not say which store of a blend to cut; cut each with "
            "`epochal data subset` and name the results in the datapath file"
        )
    orders = []
    for number, (store, weight) in enumerate(zip(train.stores, train.weights, strict=True)):
        # In the original all stores share the seed; ours get one each, so that no two orders
        # are alike.
        seed = recipe.seed
        if recipe.data.order == "windows":
            seed = rng.stream_key(recipe.seed, "blend", number)
        share = blended_samples(samples, weight)
        place = None if cache is None else cache / str(number)
        orders.append(_single(recipe, store, share, seed, place))
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    choices = None if cache is None else cache / "blend.npy"
    return BlendedOrder(orders, train.weights, samples, choices)


def _single(
    recipe: Recipe, store: TokenStore, samples: int, seed: int, cache: Path | None
) -> Order:
    length = recipe.data.sequence_length
    if recipe.data.order == "megatron":
        return MegatronOrder(store, length, seed, samples, cache)
    return RowOrder(store.tokens, length, seed)

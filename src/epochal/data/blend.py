"""The rows of a run: from one store, or from several stores mixed by weight.

The original's datapath files name stores and weights: a text with entries `"1.0 prefix"` in double
quotes, separated by spaces or lines; without quotes, one entry a line. One entry is a plain store,
whatever its weight. Each row comes from the store that is furthest behind its share.
Source: `megatron/arguments.py`, `dataset_utils.py` and `helpers.cpp` of arXiv 2507.15857's code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epochal import files, rng
from epochal.data.megatron_order import MegatronOrder
from epochal.data.metadata import StoreMetadata
from epochal.data.rows import Batch, Order, RowOrder
from epochal.data.store import TokenStore, store_prefix, suffixed
from epochal.errors import DataError, RecipeError
from epochal.recipe import Recipe, RunNumbers

_MOST_STORES = 254  # the number of a store is kept in a byte, as in the original
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Blend:
    """Stores and the share of rows that comes from each."""

    stores: tuple[TokenStore, ...]
    weights: tuple[float, ...]
    """Positive; they sum to 1."""
    metadata: StoreMetadata | None = None
    """Always None: a blend is not a file."""

    @property
    def unique_tokens(self) -> int:
        """U of all stores together."""
        return sum(store.unique_tokens for store in self.stores)

    @property
    def documents(self) -> int:
        """Documents of all stores together."""
        return sum(store.documents for store in self.stores)

    @cached_property
    def content_sha256(self) -> str:
        """Hash of the weights and of the content of each store."""
        parts = [store.content_sha256 for store in self.stores]
        return files.sha256_json([list(self.weights), parts])


def open_train(path: str | Path) -> TokenStore | Blend:
    """The store `path`, or the store or blend that the datapath file `path` names.

    Prefixes in the file are relative to the current folder, as in the original, or else to the
    file's own. Raises DataError for what is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file() or suffixed(store_prefix(path), ".idx").exists():
        return TokenStore.open(path)
    entries = _entries(path)
    stores = tuple(TokenStore.open(_resolved(prefix, path.parent)) for _, prefix in entries)
    if len(stores) == 1:
        return stores[0]
    total = sum(weight for weight, _ in entries)
    return Blend(stores, tuple(weight / total for weight, _ in entries))


def _entries(path: Path) -> list[tuple[float, str]]:
    """(weight, prefix) of each entry of a datapath file. Raises DataError naming a bad entry."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the datapath file {path}: {error}") from error
    words = re.findall(r'"([^"]*)"', text) if '"' in text else text.splitlines()
    entries = []
    for entry in filter(None, map(str.strip, words)):
        weight, _, prefix = entry.partition(" ")
        try:
            number = float(weight)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0 and prefix.strip()):
            raise DataError(
                f"{path}: the entry {entry[:80]!r} is not a positive weight and a store's path; "
                'write for example "1.0 data/c4_text_document"'
            )
        entries.append((number, prefix.strip()))
    if not entries:
        raise DataError(f'the datapath file {path} is empty; write "1.0 data/c4_text_document"')
    if len(entries) > _MOST_STORES:
        raise DataError(f"{path} names {len(entries)} stores; {_MOST_STORES} can be mixed")
    return entries


def _resolved(prefix: str, folder: Path) -> Path:
    here, beside = Path(prefix), folder / prefix
    if suffixed(store_prefix(here), ".idx").exists():
        return here
    return beside if suffixed(store_prefix(beside), ".idx").exists() else here


def row_order(
    recipe: Recipe, train: TokenStore | Blend, numbers: RunNumbers, cache: Path | None = None
) -> Order:
    """Rows of `train` by `data.order`. `cache` is a folder for arrays that are computed once.

    Raises RecipeError where `data.train_samples` is less than the run's rows, DataError for
    a store shorter than a row.
    """
    samples = recipe.data.train_samples or numbers.rows
    rows = numbers.steps * numbers.global_batch_size
    if samples < rows:
        raise RecipeError(
            f"`data.train_samples` = {samples:,} is less than the {rows:,} rows of the run; "
            "give the original's --train-samples, or leave it out"
        )
    if isinstance(train, TokenStore):
        return _order_in_store(recipe, train, samples, recipe.seed, cache)
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
        own_samples = math.ceil(samples * weight * 1.005)  # as the original, more than its share
        folder = None if cache is None else cache / str(number)
        orders.append(_order_in_store(recipe, store, own_samples, seed, folder))
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
    choices = None if cache is None else cache / "blend.npy"
    return _BlendedOrder(orders, train.weights, samples, choices)


def _order_in_store(
    recipe: Recipe, store: TokenStore, samples: int, seed: int, cache: Path | None
) -> Order:
    length = recipe.data.sequence_length
    if recipe.data.order == "megatron":
        return MegatronOrder(store, length, seed, samples, cache)
    return RowOrder(store.tokens, length, seed)


def _choices(weights: Sequence[float], rows: int) -> NDArray[np.uint8]:
    """[rows] number of the store that each row comes from; row 0 counts as row 1 does."""
    taken = [0] * len(weights)
    choices = np.empty(rows, dtype=np.uint8)
    numbers = range(len(weights))
    for row in range(rows):
        done = float(max(row, 1))
        behind = [weights[number] * done - taken[number] for number in numbers]
        store = behind.index(max(behind))  # the first of equals
        choices[row] = store
        taken[store] += 1
    return choices


class _BlendedOrder:
    """Rows of several orders, mixed by weight."""

    def __init__(
        self, orders: Sequence[Order], weights: Sequence[float], rows: int, cache: Path | None
    ) -> None:
        self._orders = list(orders)
        self._choices = _cached_choices(weights, rows, cache)
        blocks = range(0, rows, _BLOCK)
        counts = [
            np.bincount(self._choices[start : start + _BLOCK], minlength=len(weights))
            for start in blocks
        ]
        self._before = np.cumsum([np.zeros(len(weights), np.int64), *counts], axis=0)

    def batch(self, first: int, count: int) -> Batch:
        parts = [self._row(number) for number in range(first, first + count)]
        return Batch(
            tokens=np.concatenate([part.tokens for part in parts]),
            keys=np.concatenate([part.keys for part in parts]),
        )

    def _row(self, number: int) -> Batch:
        store = int(self._choices[number])
        block = number // _BLOCK
        here = self._choices[block * _BLOCK : number]
        index = int(self._before[block, store]) + int((here == store).sum())
        return self._orders[store].batch(index, 1)


def _cached_choices(weights: Sequence[float], rows: int, cache: Path | None) -> NDArray[np.uint8]:
    if cache is None:
        return _choices(weights, rows)
    if not cache.is_file():
        with files.atomic_path(cache) as temporary, temporary.open("wb") as file:
            np.save(file, _choices(weights, rows), allow_pickle=False)
    choices: NDArray[np.uint8] = np.load(cache, mmap_mode="r", allow_pickle=False)
    return choices

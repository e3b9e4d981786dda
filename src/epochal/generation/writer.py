"""What a way of writing text is: the contract that `Family.writer` names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from epochal.device import Machine
from epochal.families import Family
from epochal.generation.config import GenerationConfig
from epochal.models import Transformer
from epochal.rng import Keys


@dataclass(frozen=True, slots=True)
class State:
    """Where rows stand after a step."""

    ids: Tensor
    """[B, L], with masks where nothing is written yet."""
    settled: int
    """Tokens before this position will not change any more."""
    log_probs: Tensor | None = None
    """[B, L] log p of each filled token when it was unmasked, 0 elsewhere; None from a writer
    that does not fill gaps."""


class Generate(Protocol):
    """[B, L] rows → a state per step, until all is written."""

    def __call__(
        self,
        model: Transformer,
        ids: Tensor,
        config: GenerationConfig,
        *,
        mask: int,
        end: int,
        vocabulary: int,
        keys: Keys,
        machine: Machine,
    ) -> Iterator[State]:
        """Write into `ids` or after them. `mask` and `end` are ids, logits are cut to
        `vocabulary`, `keys` ([B]) decide all chance."""


def _always_fits(config: GenerationConfig, masks: int) -> None:
    """No option contradicts another."""


@dataclass(frozen=True)
class Writer:
    """One way to write text. Each module that `Family.writer` names has one as `WRITER`."""

    generate: Generate
    infills: bool
    """Whether it writes into masks, anywhere in a row; else after the row's end."""
    order: str | None
    """The one order in which it writes; None if `GenerationConfig.order` chooses it."""
    options: frozenset[str] = frozenset()
    """Fields of `GenerationConfig` that it uses beside those that all writers use."""
    check: Callable[[GenerationConfig, int], object] = _always_fits
    """Raises OptionError for options that cannot fill a row with that number of masks."""


SHARED_OPTIONS = frozenset({"tokens", "samples", "seed", "temperature", "top_k", "top_p"})
"""Fields of `GenerationConfig` that every writer uses."""


def writer_of(family: Family) -> Writer:
    """The family's way of writing."""
    writer: Writer = importlib.import_module(family.writer).WRITER
    return writer

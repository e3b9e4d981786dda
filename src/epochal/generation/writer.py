"""What a way of writing text is: the contract that `Family.writer` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from epochal.device import Machine
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Rows to write into or after, and the model that writes."""

    model: Transformer
    machine: Machine
    ids: Tensor
    """[B, L]"""
    config: GenerationConfig
    keys: Keys
    """[B], decide all chance."""
    mask: int
    end: int
    """Id of the end of a document."""
    vocabulary: int
    """Logits are cut to it."""
    trained: Any = None
    """The options of the model's family with which it was trained."""


@dataclass(frozen=True)
class Writer:
    """One way to write text. Each module that `Family.writer` names has one as `WRITER`."""

    generate: Callable[[Task], Iterator[State]]
    """Gives a state per step, until all is written."""
    infills: bool
    """Whether it writes into masks, anywhere in a row; else after the row's end."""
    order: str | None
    """The one order in which it writes; None if `GenerationConfig.order` chooses it."""
    options: frozenset[str] = frozenset()
    """Fields of `GenerationConfig` that it uses beside those that all writers use."""
    check: Callable[[GenerationConfig, int], object] = lambda config, masks: None
    """Raises OptionError for options that cannot fill a row with that number of masks."""


SHARED_OPTIONS = frozenset({"tokens", "samples", "seed", "temperature", "top_k", "top_p"})
"""Fields of `GenerationConfig` that every writer uses."""

"""The contract between an objective and everything else: a weighted prediction problem.

Shape letters in this room: B rows, L positions, V vocabulary, S scored positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal.data.text_facts import TextFacts
from epochal.objectives.attention_mask import BlockMask, CausalRows, OrderMask, RandomCausalMask
from epochal.objectives.cross_entropy import Score
from epochal.rng import Keys

Rule = Literal["causal", "bidirectional"] | Tensor
_Masks = RandomCausalMask | CausalRows | BlockMask | OrderMask
Attention = Rule | _Masks
"""Which positions see which. A tensor is an explicit mask: [B, 1, L, L] bool, True where seen;
what has a method `mask` is made into one on the device."""


class PositionLoss(Protocol):
    """A loss of positions that is not the NLL of their targets."""

    def score(
        self,
        index: Tensor | None,
        targets: Tensor,
        weights: Tensor | None = None,
        *,
        compiled: bool = False,
    ) -> Score:
        """What turns logits of blocks of the scored positions [S] into their losses, and, if
        `weights` are given, into gradients. `targets` and `weights` are on the logits' device."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. On the way to a GPU it is pinned, since a copy of other memory waits
    for all work that the GPU still has."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class Problem:
    """Predict `targets` from `inputs`; the loss is Σ weights · loss / denominator."""

    inputs: Tensor
    """[B, L] int64, input of the network. A family may read more than it predicts (a clean copy
    of the row, in block diffusion): what belongs to the row's tokens comes first."""
    targets: Tensor
    """[B, L] int64, tokens to predict."""
    weights: Tensor
    """[B, L] float32, zero where a position is not scored."""
    denominator: int
    """Divisor of the sum: all positions that count, masked or not."""
    attention: Attention
    positions: Tensor | None = None
    """[B, L] or [L] int64; 0 … L−1 if None. [2, B, L]: those of keys, and those of queries."""
    log_snr: Tensor | None = None
    """[B] noise levels that the network may be told, if the family has any."""
    noise: NDArray[np.float64] | None = None
    """[B] noise levels of the rows, if the family has any; for the log only."""
    loss: PositionLoss | None = None
    """Of each position; None for the NLL of its target."""
    mean_one: NDArray[np.float64] | None = None
    """[B, L] numbers with mean 1 over draws, for each scored token, 0 where its loss says little
    about it; None where `weights` are such, as they are for an NLL."""

    def arguments(self, device: torch.device) -> tuple[Tensor, Rule, Tensor | None, Tensor | None]:
        """The model's arguments on `device`: ids, attention rule, positions, noise levels."""
        rule, positions, log_snr = self.attention, self.positions, self.log_snr
        if isinstance(rule, _Masks):
            rule = rule.mask(device)
        elif isinstance(rule, Tensor):
            rule = to_device(rule, device)
        if positions is not None:
            positions = to_device(positions, device)
        if log_snr is not None:
            log_snr = to_device(log_snr, device)
        return to_device(self.inputs, device), rule, positions, log_snr

    def scored(self) -> Tensor | None:
        """[S] indices into B·L of the positions with a weight; None if all have one."""
        flat = self.weights.flatten()
        index = flat.nonzero().squeeze(1)
        return None if len(index) == len(flat) else index


@dataclass(frozen=True, slots=True)
class Rows:
    """Identity of the rows of a batch: all that their noise may depend on."""

    keys: Keys
    """[B] uint64, one per (seed, epoch, row)."""
    place: NDArray[np.int64]
    """[B] index in the global batch, 0 … global_batch_size − 1."""
    global_batch_size: int
    """Rows of the whole optimizer step, over all devices and micro-batches."""
    step_key: int
    """Key of the optimizer step, the same for all of its rows."""
    step: int = 0
    """Number of the optimizer step, from 0."""
    text: TextFacts | None = None
    """The training text, for masks that depend on it."""

    @property
    def epochs(self) -> float:
        """Passes over the unique tokens before the step. Needs `text`."""
        assert self.text is not None
        return self.step * self.global_batch_size / self.text.rows_per_epoch


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of the likelihood for B rows."""

    levels: NDArray[np.float64]
    """[B] noise levels in [0, 1), chosen by the evaluator."""
    keys: Keys
    """[B] uint64 keys of the rows' masks."""


class Likelihood(Protocol):
    """How a model is scored. Its methods are pure functions of their arguments."""

    exact: bool
    """Whether one likelihood problem gives the exact NLL, not one draw of its bound."""
    shift: int
    """The target of position i is token i + shift of its row."""

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens, [B, L] bool `scored` → a draw of −log p(scored tokens | the others).

        Position 0 is never scored (AR has no earlier token). Over draws with uniform levels, the
        mean of a row's weighted sum is the row's exact NLL or its bound, and each scored token's
        weight (or `Problem.mean_one`) has mean 1.
        """


class Objective(Likelihood, Protocol):
    """The objective of a family: how it is trained, and scored."""

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] int64 tokens of shifted windows → the training loss of their L positions."""

    def paper_problem(self, tokens: Tensor, draw: Draw) -> Problem:
        """[B, L+1] tokens → the original's evaluation loss: its training loss at the noise
        levels of `draw`."""

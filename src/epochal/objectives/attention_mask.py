"""Attention rules that need an explicit mask, which is made on the device.

A mask has L² entries per row, 4 million at L = 2048. So a problem has only what it is made from,
such as a key per row and a probability per position, and the mask is made where it is used.
The draws are those of `epochal.rng`, bit for bit, on any device.

Shape letters: B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epochal import rng
from epochal.rng import Keys

_GOLDEN, _MIX_1, _MIX_2 = (
    int(np.array(constant, dtype=np.uint64).view(np.int64))
    for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@dataclass(frozen=True, slots=True)
class RandomCausalMask:
    """Position i sees itself; each earlier position is hidden with position i's probability."""

    keys: Tensor
    """[B] int64: 64-bit keys of the rows."""
    limits: Tensor
    """[B, L] int64: a 53-bit draw below the position's limit hides a token."""

    @classmethod
    def drawn(cls, keys: Keys, probability: NDArray[np.float64]) -> RandomCausalMask:
        """From [B] keys and [B, L] probabilities with which position i does not see a token."""
        limits = np.ceil(probability * 2.0**53).astype(np.int64)
        return cls(torch.from_numpy(keys.view(np.int64)), torch.from_numpy(limits))

    def mask(self, device: torch.device) -> Tensor:
        """[B, 1, L, L] bool on `device`, True where position i (row) sees j (column)."""
        length = self.limits.shape[1]
        columns = torch.arange(length, device=device)
        seen = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
        seen = seen.repeat(len(self.keys), 1, 1, 1)
        keys, limits = self.keys.to(device), self.limits.to(device)
        for row, some in enumerate(self.limits):
            # Row by row, and only where tokens can be hidden: a draw takes 8 bytes.
            chosen = some.nonzero().to(device)
            hidden = _draws(keys[row], chosen * length + columns) < limits[row, chosen]
            chosen = chosen.squeeze(1)
            seen[row, 0, chosen] = seen[row, 0, chosen] & ~hidden
        seen.diagonal(dim1=2, dim2=3).fill_(True)
        return seen


@dataclass(frozen=True, slots=True)
class CausalRows:
    """Some rows are causal, the others bidirectional."""

    causal: Tensor
    """[B] bool."""
    length: int
    """L."""

    def mask(self, device: torch.device) -> Tensor:
        """[B, 1, L, L] bool on `device`, True where position i (row) sees j (column)."""
        before = torch.ones(self.length, self.length, dtype=torch.bool, device=device).tril_()
        return before | ~self.causal.to(device)[:, None, None, None]


@dataclass(frozen=True, slots=True)
class BlockMask:
    """A noised row and the clean one behind it: a noised position sees its own noised block and
    the clean blocks before it, a clean one the clean blocks up to its own."""

    length: int
    """L, of each of the two."""
    size: int
    """Tokens per block."""

    def mask(self, device: torch.device) -> Tensor:
        """[1, 1, 2L, 2L] bool on `device`, True where position i (row) sees j (column)."""
        block = torch.arange(self.length, device=device) // self.size
        row, column = block[:, None], block[None, :]
        never = torch.zeros(self.length, self.length, dtype=torch.bool, device=device)
        noised = torch.cat((row == column, column < row), dim=1)
        clean = torch.cat((never, column <= row), dim=1)
        return torch.cat((noised, clean))[None, None]


@dataclass(frozen=True, slots=True)
class OrderMask:
    """A row that is read in an order: a position sees those that are read before it, and itself."""

    rank: Tensor
    """[B, L] int64: when each position is read."""

    def mask(self, device: torch.device) -> Tensor:
        """[B, 1, L, L] bool on `device`, True where position i (row) sees j (column)."""
        rank = self.rank.to(device)[:, None]
        return rank[..., :, None] >= rank[..., None, :]


def masking_probability(keys: Keys, length: int, share: float, eps: float) -> NDArray[np.float64]:
    """[B, L]: p = (1−ε)·t + ε with t ~ U(0, 1) at a random `share` of positions, else 0."""
    chosen, t = np.split(rng.uniforms(keys, 2 * length), 2, axis=1)
    probability: NDArray[np.float64] = np.where(chosen < share, (1 - eps) * t + eps, 0.0)
    return probability


def _draws(keys: Tensor, index: Tensor) -> Tensor:
    """The top 53 bits of SplitMix64's output number `index` for each key (`rng.outputs`)."""
    z = keys + _GOLDEN * (index + 1)
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return _shift(z ^ _shift(z, 31), 11)


def _shift(z: Tensor, by: int) -> Tensor:
    """Shift right, filling with zeros: int64 fills with its sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)

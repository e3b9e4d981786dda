"""A running average of the weights (EMA), kept beside them and shown in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """average ← d·average + (1 − d)·weights after each step, d = min(decay, (1+n)/(10+n)).

    n counts the steps from the beginning of the run, so that the initial weights are soon
    forgotten (the rule of TensorFlow's ExponentialMovingAverage). The average costs one more copy
    of the weights in memory and in the checkpoint.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts with the weights as they are."""
        self.decay = decay
        self.model = model
        self.weights = {name: w.detach().clone() for name, w in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 0)."""
        count = step + 1
        share = 1 - min(self.decay, (1 + count) / (10 + count))
        for name, weight in self.model.named_parameters():
            self.weights[name].lerp_(weight.detach(), share)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self.model.named_parameters():
            kept = weight.detach().clone()
            weight.copy_(self.weights[name])
            self.weights[name].copy_(kept)

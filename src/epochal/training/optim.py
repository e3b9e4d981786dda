"""The optimizer's parameter groups, clipping, the learning rate, and the average of weights."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from epochal.models import BLOCKS, NOISE_LEVEL, Transformer
from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.numbers import cycle_ends, decay_begin, micro_batch_size
from epochal.recipe.schema import Train
from epochal.sizes import Multipliers
from epochal.training.muon import MuonAdamW


def make_optimizer(model: Transformer, settings: Train, parts: int = 1) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices (embedding included), none on norms (arXiv 2507.15857
    §8); with `optimizer` = "muon", Muon for the matrices of blocks. `parts` is
    `grad_clip_microbatches`.

    A group's `lr_scale` is to be multiplied by the rate of the step. With multipliers (CompleteP,
    arXiv 2505.01618, table 1) the blocks' matrices have rate / m_N and decay · m_N, and all
    weights of blocks epsilon / (m_N · m_L). Under Muon m_N is its root: all singular values of an
    update are alike, so its largest grows as √width at a root mean square that stays, not as width.
    """
    by, eps = model.shape.multipliers, settings.adam_eps / parts
    muon, groups = settings.optimizer == "muon", []
    for (matrix, in_block), weights in _kinds(model, muon).items():
        ours = muon and matrix and in_block
        width = by.width ** (0.5 if ours else 1) if matrix and in_block else 1.0
        decay = settings.weight_decay * width if matrix else 0.0
        options = {
            "lr": settings.lr / width,
            "lr_scale": 1 / width,
            "weight_decay": decay,
            "eps": eps / (by.width * by.depth) if in_block else eps,
        }
        if ours or settings.cautious_decay:
            options |= {"muon": ours, "own_decay": decay, "weight_decay": 0.0}
        groups += [{"params": alike, **options} for alike in _fused_groups(weights)]
    given: dict[str, Any] = {"lr": settings.lr, "betas": (settings.beta1, settings.beta2)}
    given |= {"eps": eps, "fused": True}
    if muon or settings.cautious_decay:
        return MuonAdamW(groups, settings.cautious_decay, **given)
    return torch.optim.AdamW(groups, **given)


def _kinds(model: Transformer, muon: bool) -> dict[tuple[bool, bool], list[Tensor]]:
    """(is a matrix, is in a block) → the trained weights of this kind, matrices first. Without
    multipliers and Muon, blocks are like all else."""
    scaled = muon or model.shape.multipliers != Multipliers()
    kinds: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            # Those of the noise level read as few numbers at every width, like an embedding.
            in_block = name.startswith(BLOCKS) and not name.endswith(NOISE_LEVEL)
            kind = (weight.dim() > 1, scaled and in_block)
            kinds.setdefault(kind, []).append(weight)
    return {kind: kinds[kind] for kind in sorted(kinds, reverse=True)}


def _fused_groups(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors in groups that one fused kernel takes: plain ones, and DTensors of each mesh."""
    groups: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(getattr(tensor, "device_mesh", None), []).append(tensor)
    return list(groups.values())


def total_norm(weights: list[nn.Parameter]) -> Tensor:
    """Norm of the gradient over these weights, which may be sharded over processes."""
    norms = [
        nn.utils.get_total_norm([weight.grad for weight in group if weight.grad is not None])
        for group in _fused_groups(weight for weight in weights if weight.grad is not None)
    ]
    full = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return full[0] if len(full) == 1 else torch.linalg.vector_norm(torch.stack(full))


def clip(
    weights: list[nn.Parameter],
    limit: float,
    norm_of: Callable[[list[nn.Parameter]], Tensor] = total_norm,
) -> Tensor:
    """Clip the gradient's norm over all weights and processes to `limit` (0: no clipping); return
    the norm before. `norm_of` computes it, where other processes hold other weights."""
    norm = norm_of(weights)
    if limit:
        for group in _fused_groups(weight for weight in weights if weight.grad is not None):
            nn.utils.clip_grads_with_norm_(group, limit, norm)
    return norm


def learning_rate(settings: Train, step: int, numbers: RunNumbers) -> float:
    """Rate of step number `step` (0 … steps − 1).

    Linear warm-up over the first `warmup` share of the run, then the schedule's decay from lr to
    min_lr, reached at the last step; with cycles, at the last of each, and the next begins at lr
    (Loshchilov and Hutter, arXiv 1608.03983). Progress is counted at the end of the step, so no
    step has rate 0; with `lr_progress` = "samples" it is, as in Megatron, the rows seen before the
    step divided by all rows requested.
    """
    done, total, per_step = step + 1, numbers.steps, 1
    if settings.lr_progress == "samples":
        done, total, per_step = (
            step * numbers.global_batch_size,
            numbers.rows,
            numbers.global_batch_size,
        )
    ends = cycle_ends(settings, numbers.steps)
    cycle = bisect_right(ends, step)
    first = per_step * ends[cycle - 1] if cycle else 0
    end = total if cycle == len(ends) - 1 else per_step * ends[cycle]
    # A run that branches from a trunk was warmed up there.
    warmup = settings.warmup * total if settings.start_from is None else 0.0
    if done < warmup:
        return settings.lr * done / warmup
    begin = first if cycle else warmup
    if settings.schedule == "wsd":
        begin = first + decay_begin(settings, end - first)
    if settings.schedule == "constant" or done <= begin:
        return settings.lr
    share = (done - begin) / max(end - begin, 1e-9)
    shape = settings.decay_shape if settings.schedule == "wsd" else settings.schedule
    return settings.min_lr + (settings.lr - settings.min_lr) * _DECAYS[shape](share)


_DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "sqrt": lambda share: 1 - math.sqrt(share),
}
"""Share of the decay done → remaining share of lr − min_lr."""


def grad_clip_microbatches(recipe: Recipe) -> int:
    """n, the ratio of the gradient that `train.grad_clip_reduction` names to the mean gradient.

    Clipping n times the mean at `grad_clip`, and giving it to AdamW, is the same as clipping the
    mean at grad_clip / n with an epsilon of adam_eps / n: all else in AdamW is scale-free.
    """
    train = recipe.train
    if train.grad_clip_reduction == "mean":
        return 1
    return train.grad_clip_microbatches or -(-train.global_batch_size // micro_batch_size(recipe))


def make_average(model: nn.Module, settings: Train, numbers: RunNumbers) -> WeightAverage | None:
    """The average of the weights that the recipe asks for, if any."""
    if settings.average_epochs:
        rows = settings.average_epochs * numbers.rows_per_epoch
        last = max(1, round(rows / numbers.global_batch_size))
        return WeightAverage(model, 1.0, max(0, numbers.steps - last))
    return WeightAverage(model, settings.ema) if settings.ema else None


class WeightAverage:
    """average ← d·average + (1 − d)·weights after each step, d = min(decay, (1+n)/(10+n)).

    n counts the steps from the start of the run, so that the initial weights are soon forgotten
    (the rule of TensorFlow's ExponentialMovingAverage). With `first`, the plain mean of the weights
    after each step from that on (Izmailov et al., arXiv 1803.05407), and before it the weights.
    The average takes one more copy of the weights, in memory and in the checkpoint.
    """

    def __init__(self, model: nn.Module, decay: float, first: int | None = None) -> None:
        """Starts with a copy of the weights. `first`: number of the first step (from 0) of a plain
        mean, for which `decay` has no meaning."""
        self.decay, self.first = decay, first
        self.model = model
        self.weights = {name: w.detach().clone() for name, w in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step number `step` (from 0)."""
        count = step + 1
        if self.first is None:
            share = 1 - min(self.decay, (1 + count) / (10 + count))
        else:
            share = 1 / max(1, count - self.first)
        for name, weight in self.model.named_parameters():
            self.weights[name].lerp_(weight.detach(), share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self.model.named_parameters():
            trained = weight.detach().clone()
            weight.copy_(self.weights[name])
            self.weights[name].copy_(trained)

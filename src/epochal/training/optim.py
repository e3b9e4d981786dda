"""AdamW's parameter groups and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.numbers import decay_begin, micro_batch_size
from epochal.recipe.schema import Train


def make_optimizer(model: nn.Module, settings: Train, parts: int = 1) -> torch.optim.AdamW:
    """AdamW: matrices (embedding included) decay, norms do not (arXiv 2507.15857 §8).

    `parts` is `grad_clip_microbatches`.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    decays = {True: settings.weight_decay, False: 0.0}
    groups = [
        {"params": alike, "weight_decay": decay}
        for matrix, decay in decays.items()
        for alike in like_groups([w for w in weights if (w.dim() > 1) == matrix])
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.adam_eps / parts,
        fused=True,
    )


def like_groups(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors that one fused kernel takes together: plain ones, and DTensors of each mesh."""
    groups: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(getattr(tensor, "device_mesh", None), []).append(tensor)
    return list(groups.values())


def total_norm(weights: list[nn.Parameter]) -> Tensor:
    """Norm of the gradient over these weights, of which other processes may hold parts."""
    norms = [
        nn.utils.get_total_norm([weight.grad for weight in group if weight.grad is not None])
        for group in like_groups(weight for weight in weights if weight.grad is not None)
    ]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return whole[0] if len(whole) == 1 else torch.linalg.vector_norm(torch.stack(whole))


def clip(
    weights: list[nn.Parameter],
    most: float,
    norm_of: Callable[[list[nn.Parameter]], Tensor] = total_norm,
) -> Tensor:
    """Norm of the gradient over all weights and processes, before it is cut down to `most`
    (0: it is not). `norm_of` makes it, where other weights are elsewhere."""
    norm = norm_of(weights)
    if most:
        for group in like_groups(weight for weight in weights if weight.grad is not None):
            nn.utils.clip_grads_with_norm_(group, most, norm)
    return norm


def learning_rate(settings: Train, step: int, numbers: RunNumbers) -> float:
    """Rate of step number `step` (0 … steps − 1).

    Linear warm-up over the first `warmup` share of the run, then the schedule's way from lr to
    min_lr, reached at the last step. Progress is counted at the end of the step, so no step is
    spent at rate 0; with `lr_progress` = "samples" it is, like Megatron's, the rows seen before the
    step out of all rows asked for.
    """
    if settings.lr_progress == "samples":
        return _rate(settings, step * numbers.global_batch_size, numbers.rows)
    return _rate(settings, step + 1, numbers.steps)


def _rate(settings: Train, done: int, total: int) -> float:
    """Rate when `done` of `total` are done."""
    # A run that starts from a trunk's checkpoint has been warmed up there.
    warmup = settings.warmup * total if settings.start_from is None else 0.0
    if done < warmup:
        return settings.lr * done / warmup
    begin = decay_begin(settings, total) if settings.schedule == "wsd" else warmup
    if settings.schedule == "constant" or done <= begin:
        return settings.lr
    share = (done - begin) / max(total - begin, 1e-9)
    shape = settings.decay_shape if settings.schedule == "wsd" else settings.schedule
    return settings.min_lr + (settings.lr - settings.min_lr) * _FALLS[shape](share)


_FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "sqrt": lambda share: 1 - math.sqrt(share),
}
"""What is left of lr − min_lr after a share of the decay."""


def grad_clip_microbatches(recipe: Recipe) -> int:
    """By how much what `train.grad_clip_reduction` names is larger than the mean gradient.

    Clipping n times the mean at `clip`, and giving it to AdamW, is the same as clipping the mean
    at clip / n with an epsilon of adam_eps / n: all else in AdamW is free of scale.
    """
    train = recipe.train
    if train.grad_clip_reduction == "mean":
        return 1
    return train.grad_clip_microbatches or -(-train.global_batch_size // micro_batch_size(recipe))

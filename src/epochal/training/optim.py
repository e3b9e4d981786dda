"""AdamW's parameter groups and the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from epochal.recipe.schema import Train


def make_optimizer(model: nn.Module, settings: Train) -> torch.optim.AdamW:
    """AdamW: matrices (embedding included) decay, norms do not (arXiv 2507.15857 §8)."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.adam_eps,
        fused=True,
    )


def learning_rate(settings: Train, step: int, steps: int) -> float:
    """Rate of step number `step` (0 … steps − 1).

    Linear warm-up over the first `warmup` share of the run, then cosine or linear decay from
    lr to min_lr over the rest, reached at the last step. Progress is counted at the end of
    the step, so no step is spent at rate 0.
    """
    done = step + 1
    warmup = settings.warmup * steps
    if done < warmup:
        return settings.lr * done / warmup
    if settings.schedule == "constant":
        return settings.lr
    share = (done - warmup) / max(steps - warmup, 1e-9)
    fall = 0.5 * (1 + math.cos(math.pi * share)) if settings.schedule == "cosine" else 1 - share
    return settings.min_lr + (settings.lr - settings.min_lr) * fall

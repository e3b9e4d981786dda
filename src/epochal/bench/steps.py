"""A training step of ours beside steps written as two well-known codebases write theirs.

All have the same trunk (`epochal.models.Transformer`), the same random tokens, bf16 autocast
and gradient clipping, so what differs is what surrounds the trunk:

- `ours ar`, `ours mdm`: `epochal.training.step.Stepper` with `linear_nll` and fused AdamW.
- `nanogpt-style`: logits of all positions, `F.cross_entropy`, the whole of it compiled; AdamW
  as nanoGPT has it: fused on CUDA only.
- `smdm-style`: the compiled network gives the logits of all positions; those of the masked
  ones are then picked, weighted 1/p and summed; AdamW as above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.data.batches import RowOrder
from epochal.device import Machine, find_machine
from epochal.models import Transformer, initialise
from epochal.objectives import objective
from epochal.recipe import Recipe, load_recipe
from epochal.training.optim import make_optimizer
from epochal.training.step import Stepper

Step = Callable[[int], float]
VARIANTS = ("ours ar", "ours mdm", "nanogpt-style", "smdm-style")
LEAST_NOISE = 1e-3


@dataclass(frozen=True, slots=True)
class Setting:
    """Size of the step; the defaults are what benchmarks/README.md reports."""

    d_model: int = 256
    layers: int = 4
    heads: int = 4
    sequence_length: int = 512
    batch: int = 8
    vocabulary: int = 50_257
    """Tokenizer's; the table has 50,304 rows."""
    bf16: bool = True
    compiled: bool = True

    def recipe(self, family: str) -> Recipe:
        """The recipe of our step."""
        changes = {
            "family": family,
            "model.d_model": self.d_model,
            "model.layers": self.layers,
            "model.heads": self.heads,
            "data.sequence_length": self.sequence_length,
            "train.global_batch_size": self.batch,
            "train.steps": 1000,
            "train.precision": "bf16" if self.bf16 else "fp32",
            "train.compile": "on" if self.compiled else "off",
            "mdm.noise": "stratified",
        }
        return load_recipe(None, changes)

    def tokens(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Random tokens for 64 steps."""
        amount = 64 * self.batch * self.sequence_length
        return np.random.default_rng(0).integers(0, self.vocabulary, amount)


def new_model(recipe: Recipe, vocabulary: int, machine: Machine) -> Transformer:
    """The recipe's model with fresh weights, on the machine's device."""
    model = Transformer(recipe.model.architecture(), vocabulary)
    initialise(model, recipe.seed, std=recipe.model.init_std)
    return model.to(machine.device)


def make_step(name: str, setting: Setting) -> Step:
    """The variant `name`: called with a step's number it trains and returns the loss."""
    family = "mdm" if name in ("ours mdm", "smdm-style") else "ar"
    recipe = setting.recipe(family)
    machine = find_machine(recipe.train)
    model = new_model(recipe, setting.vocabulary, machine)
    order = RowOrder(setting.tokens(), setting.sequence_length, recipe.seed)
    if name.startswith("ours"):
        optimizer = make_optimizer(model, recipe.train)
        goal = objective(recipe, setting.vocabulary)
        stepper = Stepper(recipe, model, optimizer, goal, order, machine)
        return lambda number: stepper(number, recipe.train.lr).loss
    return _peer(name, setting, model, order, machine)


def _peer(
    name: str, setting: Setting, model: Transformer, order: RowOrder, machine: Machine
) -> Step:
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=2e-4,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=machine.device.type == "cuda",
    )
    generator = torch.Generator().manual_seed(0)
    loss_of = _everywhere(model, machine) if name == "nanogpt-style" else _gathered(model, machine)

    def step(number: int) -> float:
        rows = torch.from_numpy(order.batch(number * setting.batch, setting.batch).tokens)
        if name == "smdm-style":
            inputs, targets, masked, prob = _noised(rows[:, :-1], setting.vocabulary, generator)
            loss = loss_of(*(x.to(machine.device) for x in (inputs, targets, masked, prob)))
        else:
            loss = loss_of(rows[:, :-1].to(machine.device), rows[:, 1:].to(machine.device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _everywhere(model: Transformer, machine: Machine) -> Callable[..., Tensor]:
    """Cross-entropy of all positions, the network and its loss compiled as one."""

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(model(inputs, "causal"), model.table)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return _compiled(loss_of, machine)


def _gathered(model: Transformer, machine: Machine) -> Callable[..., Tensor]:
    """Logits everywhere; the masked ones are picked from them."""

    def logits_of(inputs: Tensor) -> Tensor:
        return F.linear(model(inputs, "bidirectional"), model.table)

    network = _compiled(logits_of, machine)

    def loss_of(inputs: Tensor, targets: Tensor, masked: Tensor, prob: Tensor) -> Tensor:
        with machine.autocast():
            logits = network(inputs)
            nll = F.cross_entropy(logits[masked], targets[masked], reduction="none")
            return (nll / prob[masked]).sum() / targets.numel()

    return loss_of


def _compiled(function: Callable[..., Tensor], machine: Machine) -> Callable[..., Tensor]:
    run: Callable[..., Tensor] = torch.compile(function) if machine.compiled else function

    def in_autocast(*arguments: Tensor) -> Tensor:
        with machine.autocast():
            return run(*arguments)

    return in_autocast


def _noised(
    tokens: Tensor, mask: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(inputs, targets, masked, probability) with one noise level a row."""
    level = torch.rand(len(tokens), 1, generator=generator)
    prob = ((1 - LEAST_NOISE) * level + LEAST_NOISE).expand(tokens.shape)
    masked = torch.rand(tokens.shape, generator=generator) < prob
    return tokens.masked_fill(masked, mask), tokens, masked, prob

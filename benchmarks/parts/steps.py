"""A training step of ours beside steps written as two well-known codebases write theirs.

All have the same trunk (`epochal.models.Transformer`), the same random tokens, bf16 autocast
and gradient clipping, so what differs is what surrounds the trunk:

- `ours …`: `epochal.training.step.Stepper` of a family with `linear_nll`, or the loss of uniform
  noise, and fused AdamW.
- `nanogpt-style`: logits of all positions, `F.cross_entropy`, the whole of it compiled; AdamW
  as nanoGPT has it: fused on CUDA only.
- `smdm-style`: the compiled network gives the logits of all positions; those of the masked
  ones are then picked, weighted 1/p and summed; AdamW as above.

`--peers FOLDER` adds the steps of these projects' own models, with their own trunks (`peers.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from epochal import progress
from epochal.data.rows import RowOrder
from epochal.device import Machine, find_machine, has_compiler
from epochal.families import family_names
from epochal.models import Transformer
from epochal.objectives import objective
from epochal.training.optim import make_optimizer
from epochal.training.step import Stepper
from parts.options import Options, Setting, new_model
from parts.peers import noised, peer_step, peers_in
from parts.timing import Row, ratio_row, take_turns, time_rows

Step = Callable[[int], float]
PEERS = ("nanogpt-style", "smdm-style")
OURS = ("ar", "mdm")
"""Compared with each project's own step."""


def measure(options: Options) -> list[Row]:
    """Time of a step, ours and its peers', and the ratios."""
    setting = compilable(options.setting)
    peers = peers_in(options.peers)
    steps = {name: make_step(name, setting) for name in variants()}
    if options.peers:
        steps |= {name: peer_step(name, setting, options.peers) for name in peers}
    counter = dict.fromkeys(steps, 0)

    def turn(name: str) -> Callable[[], float]:
        def work() -> float:
            counter[name] += 1
            return steps[name](counter[name])

        return work

    for name in steps:  # compiled here, not in the first round
        progress.say(f"compiling: {name}")
        steps[name](0)
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    times = take_turns("steps", {name: turn(name) for name in steps}, options.rounds, clock)
    return [
        *time_rows("steps", times),
        ratio_row("steps", times, "nanogpt-style", "ours ar"),
        ratio_row("steps", times, "nanogpt-style", "ours mdm"),
        ratio_row("steps", times, "smdm-style", "ours mdm"),
        ratio_row("steps", times, "ours uniform", "ours mdm", "target: at most 1.3"),
        ratio_row("steps", times, "ours block", "ours ar", "target: at most 2.2"),
        ratio_row("steps", times, "ours anyorder", "ours ar"),
        *(ratio_row("steps", times, peer, f"ours {name}") for peer in peers for name in OURS),
    ]


def variants() -> tuple[str, ...]:
    """Ours of each family, and the peers'."""
    return (*(f"ours {family}" for family in family_names()), *PEERS)


def compilable(setting: Setting) -> Setting:
    """`setting`, uncompiled where there is no compiler."""
    if not setting.compiled or torch.cuda.is_available() or has_compiler():
        return setting
    progress.say("no C++ compiler here: the steps are measured uncompiled")
    return replace(setting, compiled=False)


def make_step(name: str, setting: Setting) -> Step:
    """The variant `name`: called with a step's number it trains and returns the loss."""
    ours = name.removeprefix("ours ")
    family = ours if ours in family_names() else ("mdm" if name == "smdm-style" else "ar")
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
            inputs, targets, masked, prob = noised(rows[:, :-1], setting.vocabulary, generator)
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

"""Tokens per second of generation, with and without cached keys and values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.device import Machine, find_machine
from epochal.generation import autoregressive, unmasking
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import sample_keys
from epochal.generation.writer import Task
from epochal.models import Transformer
from parts.options import Options, Setting, new_model
from parts.timing import Row, Times, ratio_row, take_turns, time_rows

TEXTS = 4
BLOCKS = 4
"""Of diffusion's new tokens, filled from left to right."""
_NEVER = -1
"""An end token that no model writes: all variants write equally much."""


def measure(options: Options) -> list[Row]:
    """Tokens per second of four texts written together, the likeliest token each time.

    Prompts are three quarters of the sequence length, new texts a quarter. AR with cached keys and
    values beside the same model reading the whole text anew for each token; MDM in blocks with one
    token per step, with keys and values before the block cached (`--cached`) and with all
    positions read in each step.
    """
    setting = options.setting
    new = max(BLOCKS, setting.sequence_length // 4)
    prompt = setting.sequence_length - new
    random = np.random.default_rng(0)
    ids = torch.from_numpy(random.integers(0, setting.vocabulary, (TEXTS, prompt)))
    times: Times = {}
    for writers in (_ar(setting, ids, new), _mdm(setting, ids, new)):
        times |= take_turns("generation", writers, options.rounds)
    rates = {name: [TEXTS * new / one for one in each] for name, each in times.items()}
    note = f"{TEXTS} texts of {prompt} + {new} tokens"
    return [
        *time_rows("generation", rates, "tok/s"),
        ratio_row("generation", times, "ar: all read anew", "ar: cached", note),
        ratio_row("generation", times, "mdm: blocks, all read anew", "mdm: blocks, cached", note),
    ]


def _ar(setting: Setting, ids: Tensor, new: int) -> dict[str, Callable[[], Tensor]]:
    model, machine = _model(setting, "ar")
    return {
        "ar: all read anew": lambda: read_anew(model, machine, ids, new, setting.vocabulary),
        "ar: cached": lambda: cached(model, machine, ids, new, setting.vocabulary),
    }


def _model(setting: Setting, family: str) -> tuple[Transformer, Machine]:
    recipe = setting.recipe(family)
    machine = find_machine(recipe.train)
    return new_model(recipe, setting.vocabulary, machine).eval(), machine


def cached(model: Transformer, machine: Machine, ids: Tensor, new: int, vocabulary: int) -> Tensor:
    """[B, P] prompts → [B, P + new] through the cache."""
    task = Task(
        model=model,
        machine=machine,
        ids=ids,
        config=GenerationConfig(tokens=new, temperature=0),
        keys=sample_keys(0, "", len(ids)),
        mask=_NEVER,
        end=_NEVER,
        vocabulary=vocabulary,
    )
    *_, last = autoregressive.WRITER.generate(task)
    return last.ids


@torch.no_grad()
def read_anew(
    model: Transformer, machine: Machine, ids: Tensor, new: int, vocabulary: int
) -> Tensor:
    """The same without a cache: the whole text goes through the model for each token."""
    for _ in range(new):
        with machine.autocast():
            hidden = model(ids.to(machine.device), "causal")[:, -1]
            logits = F.linear(hidden, model.table[:vocabulary])
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True).cpu()], dim=1)
    return ids


def _mdm(setting: Setting, ids: Tensor, new: int) -> dict[str, Callable[[], Tensor]]:
    model, machine = _model(setting, "mdm")
    mask = setting.vocabulary
    rows = F.pad(ids, (0, new), value=mask)

    def write(keep: bool) -> Tensor:
        task = Task(
            model=model,
            machine=machine,
            ids=rows,
            config=GenerationConfig(temperature=0, block=new // BLOCKS, cached=keep),
            keys=sample_keys(0, "", len(rows)),
            mask=mask,
            end=_NEVER,
            vocabulary=setting.vocabulary,
        )
        *_, last = unmasking.WRITER.generate(task)
        return last.ids

    return {
        "mdm: blocks, all read anew": lambda: write(keep=False),
        "mdm: blocks, cached": lambda: write(keep=True),
    }

"""How much faster downstream tasks are scored than the original's way, one request at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from epochal.device import Machine, find_machine
from epochal.likelihood.conditional import Request, monte_carlo
from epochal.likelihood.queries import Reader
from epochal.models import Transformer
from parts.options import Options, Setting, new_model
from parts.timing import Row, Times, ratio_row, take_turns, time_rows

DRAWS = 32
CHOICES = ((2, 1), (4, 2), (4, 4), (2, 8), (4, 16))
"""Choices and tokens of each in the questions, one of each kind; made up, like boolq, sciq,
arc_easy, copa and hellaswag."""
_SAMPLE = 2
"""Requests that are timed one draw at a time; all cost the same, so the rest is scaled up."""


def requests(vocabulary: int, length: int) -> list[Request]:
    """All choices of one question of each kind, after a context of 20 to 60 tokens."""
    random = np.random.default_rng(0)
    made = []
    for question, (choices, tokens) in enumerate(CHOICES):
        context = random.integers(0, vocabulary, random.integers(20, 61))
        for _ in range(choices):
            # Short models get short questions: half of a row at most is scored.
            choice = random.integers(0, vocabulary, min(tokens, length // 2))
            ids = np.concatenate([context[: length - len(choice)], choice]).astype(np.int32)
            made.append(Request(ids, len(choice), question))
    return made


def measure(options: Options) -> list[Row]:
    """Time of `mc` with 32 draws, ours against the original's way of doing it.

    The original's: one request at a time, 32 draws of it, each a row lengthened with masks to
    the sequence length, with logits of the whole vocabulary at all positions. Once its draws
    go through the model one after another, once eight together.
    """
    setting = options.setting
    recipe = setting.recipe("mdm")
    machine = find_machine(recipe.train)
    model = new_model(recipe, setting.vocabulary, machine).eval()
    asked = requests(setting.vocabulary, setting.sequence_length)
    scale = len(asked) / _SAMPLE

    def original(together: int) -> None:
        for one in asked[:: len(asked) // _SAMPLE][:_SAMPLE]:
            _original(model, machine, one, setting, together)

    def ours(groups: Sequence[Sequence[Request]], padded: int, batch: int) -> None:
        reader = Reader(
            model, machine, False, setting.vocabulary, batch, padded, setting.vocabulary
        )
        for group in groups:
            monte_carlo(reader, group, setting.vocabulary, DRAWS, 0, lambda done: None)

    length = setting.sequence_length
    single, eight, alone, batched, short = (
        "original's way, draw by draw",
        "original's way, 8 draws a pass",
        "ours, one request at a time",
        "ours",
        "ours, --no-pad",
    )
    times = take_turns(
        "downstream",
        {
            single: lambda: original(1),
            eight: lambda: original(8),
            alone: lambda: ours([[one] for one in asked], length, 8 * length),
            batched: lambda: ours([asked], length, 8 * length),
            short: lambda: ours([asked], 0, 8 * length),
        },
        options.rounds,
    )
    for name in (single, eight):
        times[name] = [seconds * scale for seconds in times[name]]
    return [*time_rows("downstream", times), *_ratios(times, single, eight, alone, batched, short)]


def _ratios(
    times: Times, single: str, eight: str, alone: str, batched: str, short: str
) -> list[Row]:
    note = f"{_SAMPLE} requests timed, scaled up"
    return [
        ratio_row("downstream", times, single, batched, note),
        ratio_row("downstream", times, eight, batched, note),
        ratio_row("downstream", times, alone, batched),
        ratio_row("downstream", times, single, short, note),
    ]


@torch.no_grad()
def _original(
    model: Transformer, machine: Machine, one: Request, setting: Setting, together: int
) -> float:
    """The bound of one request: stratified t, independent masks, Σ CE/p over draws."""
    mask = setting.vocabulary
    clean = torch.full((setting.sequence_length,), mask)
    clean[: len(one.ids)] = torch.from_numpy(one.ids.astype(np.int64))
    place = torch.arange(len(clean))
    continuation = (place >= one.start) & (place < len(one.ids))
    generator = torch.Generator().manual_seed(one.key)
    begin = torch.rand(1, generator=generator)
    total = 0.0
    for first in range(0, DRAWS, together):
        t = (begin + torch.arange(first, first + together) / DRAWS) % 1
        coins = torch.rand(together, len(clean), generator=generator)
        masked = (coins < t[:, None]) & continuation
        rows = clean.expand(together, -1).masked_fill(masked, mask).to(machine.device)
        with machine.autocast():
            logits = model.logits(rows, "bidirectional")[..., : setting.vocabulary]
        targets = clean.expand(together, -1)[masked].to(machine.device)
        nll = F.cross_entropy(logits[masked.to(machine.device)], targets, reduction="none")
        weights = (1 / t)[:, None].expand_as(masked)[masked].to(machine.device)
        total -= float((nll * weights).sum()) / DRAWS
    return total

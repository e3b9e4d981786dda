"""Prompts in, texts out: gaps, searched lengths, batches and streams, for every family."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epochal.data.tokenizer import Tokenizer
from epochal.device import Machine
from epochal.errors import UserError
from epochal.families import Family
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import sample_keys
from epochal.generation.writer import SHARED_OPTIONS, State, Task, Writer
from epochal.models import Transformer
from epochal.rng import Keys

Report = Callable[[int], None]
_MASK_SPAN = re.compile(r"\[MASK(?::(\d+)(?:-(\d+))?)?\]")
_LIKE_MASK_SPAN = re.compile(r"\[MASK:[^\]\n]*\]")
LONGEST_SEARCH = 64
"""Lengths tried for one gap, at most; each is a sample of its own."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One text."""

    text: str
    """The prompt with what was written."""
    new: tuple[int, ...]
    """Ids that were written, up to the end of the document."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One row to fill or to continue."""

    prompt: int
    sample: int
    ids: tuple[int, ...]
    key: np.uint64
    start: int | None
    """Position of the first new token; None where gaps are filled."""


@dataclass
class Generator:
    """A model that writes, in the way that its family writes."""

    model: Transformer
    tokenizer: Tokenizer
    machine: Machine
    family: Family
    sequence_length: int
    """Longest input that the model was trained on."""
    batch_tokens: int
    options: Any = None
    """The family's, with which the model was trained."""
    model_id: str = ""
    """Differs between models; files of generations keep it."""

    @property
    def writer(self) -> Writer:
        """How the family continues a text."""
        return _named(self.family.writer)

    @property
    def gap_writer(self) -> Writer:
        """How the family fills gaps, if it can."""
        return _named(self.family.gap_writer or self.family.writer)

    def generate(
        self,
        prompts: Sequence[str],
        config: GenerationConfig,
        report: Report = lambda done: None,
    ) -> Iterator[tuple[int, list[Generation]]]:
        """(index of the prompt, its samples) for each prompt, as soon as they are done.

        Prompts of one shape are batched. `report` gets the number of rows done. Raises UserError,
        before anything is written, for a prompt or an option that does not fit the model.
        """
        self._check_options(config)
        rows = [r for number in range(len(prompts)) for r in self._checked(number, prompts, config)]
        missing = [0] * len(prompts)
        for row in rows:
            missing[row.prompt] += 1
        finished: dict[int, list[tuple[_Row, list[int], float]]] = {}
        done = 0
        for batch in self._batches(rows):
            for row, ids, score in zip(batch, *self._fill(batch, config), strict=True):
                finished.setdefault(row.prompt, []).append((row, ids, score))
            done += len(batch)
            report(done)
            for number in sorted({row.prompt for row in batch}):
                if len(finished[number]) == missing[number]:
                    yield number, self._best(prompts[number], finished.pop(number))

    def stream(self, prompt: str, config: GenerationConfig) -> Iterator[str]:
        """The text in pieces, each as soon as it is settled. Joined, what `generate` gives.

        Raises UserError for several samples and for a gap of searched length.
        """
        self._check_options(config)
        rows = self._rows(0, prompt, config)
        if len(rows) > 1:
            raise UserError("only one text can be streamed: one sample, and gaps of fixed length")
        [row] = rows
        sent, text = "", None
        for state in self._states(rows, config):
            ids = state.ids[0, : state.settled].tolist()
            text = self._text(prompt, row, ids, self._new_ids(row, ids))
            if not text.endswith("�"):  # half of a letter
                yield text[len(sent) :]
                sent = text
        if text is None:  # no step at all: only gaps of length 0
            text = self._text(prompt, row, row.ids, ())
        yield text[len(sent) :]

    def states(self, ids: Tensor, config: GenerationConfig, keys: Keys) -> Iterator[State]:
        """What is written into or after [B, L] ids, step by step; [B] `keys` decide all chance."""
        task = Task(
            model=self.model,
            machine=self.machine,
            ids=ids,
            config=config,
            keys=keys,
            mask=self.tokenizer.mask,
            end=self.tokenizer.end_of_document,
            vocabulary=self.tokenizer.vocabulary,
            trained=self.options,
        )
        gaps = bool((ids == self.tokenizer.mask).any())
        return (self.gap_writer if gaps else self.writer).generate(task)

    @property
    def unused_options(self) -> list[str]:
        """Fields of `GenerationConfig` that no way of writing of the family uses."""
        used = SHARED_OPTIONS | self.writer.options | self.gap_writer.options
        return [each.name for each in fields(GenerationConfig) if each.name not in used]

    @property
    def why_unused(self) -> str:
        """The end of an error that begins with the names of options."""
        return f"cannot be used with {self.family.title} models; leave it out"

    def _check_options(self, config: GenerationConfig) -> None:
        if unused := [name for name in self.unused_options if name in config.changed()]:
            raise UserError(f"{', '.join(unused)} {self.why_unused}")
        for writer in (self.writer, self.gap_writer):
            writer.check(config, 0)

    def _checked(self, number: int, prompts: Sequence[str], config: GenerationConfig) -> list[_Row]:
        """`_rows`, with the prompt named in errors if there are others."""
        try:
            return self._rows(number, prompts[number], config)
        except UserError as error:
            # Errors about options, tokenizer and so on are not the prompt's fault.
            if len(prompts) == 1 or type(error) is not UserError:
                raise
            shown = prompts[number] if len(prompts[number]) <= 40 else prompts[number][:39] + "…"
            raise UserError(f"prompt {shown!r}: {error}") from error

    def _rows(self, number: int, prompt: str, config: GenerationConfig) -> list[_Row]:
        """All rows of a prompt: samples × lengths that are tried."""
        spans = list(_MASK_SPAN.finditer(prompt))
        writer = self.gap_writer if spans else self.writer
        if not writer.infills and spans:
            raise UserError(
                f"{self.family.title} models cannot fill in [MASK]; give a text to continue, or a "
                "run of a family that fills gaps"
            )
        if self.gap_writer.infills:
            _refuse_misspelt(prompt)
        only_gaps = self.gap_writer.options - writer.options
        if unused := [name for name in config.changed() if name in only_gaps]:
            raise UserError(
                f"{', '.join(sorted(unused))} can only be used for gaps such as [MASK:3] with "
                f"{self.family.title} models; leave it out"
            )
        keys = sample_keys(config.seed, prompt, config.samples)
        rows = []
        for length in _lengths(spans):
            # A document starts after the end of another: so does an empty prompt.
            ids = [self.tokenizer.end_of_document, *self._masked_ids(prompt, spans, length)]
            new = 0 if spans else config.tokens
            if len(ids) + new > self.sequence_length:
                raise UserError(
                    f"prompt and new text are {len(ids) + new} tokens, but the model was trained "
                    f"on {self.sequence_length}; shorten the prompt or lower the number of tokens"
                )
            start = None if spans else len(ids)
            if writer.infills:
                ids += [self.tokenizer.mask] * new
            writer.check(config, ids.count(self.tokenizer.mask))
            rows += [_Row(number, nth, tuple(ids), key, start) for nth, key in enumerate(keys)]
        return rows

    def _masked_ids(self, prompt: str, spans: Sequence[re.Match[str]], length: int) -> list[int]:
        """Ids of a prompt whose gaps are masks; a gap of searched length has `length`."""
        ids: list[int] = []
        end = 0
        for match in spans:
            ids += self.tokenizer.encode(prompt[end : match.start()]).tolist()
            ids += [self.tokenizer.mask] * (length if match[2] else int(match[1] or 1))
            end = match.end()
        ids += self.tokenizer.encode(prompt[end:]).tolist()
        return ids

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows of equal length with masks at the same positions, about `batch_tokens` each."""
        mask = self.tokenizer.mask

        def shape(row: _Row) -> tuple[int, tuple[int, ...]]:
            gaps = (
                (i for i, x in enumerate(row.ids) if x == mask) if self.gap_writer.infills else ()
            )
            return len(row.ids), tuple(gaps)

        for (length, _), same in groupby(sorted(rows, key=shape), key=shape):
            group = list(same)
            size = max(1, self.batch_tokens // length)
            for first in range(0, len(group), size):
                yield group[first : first + size]

    def _fill(
        self, rows: list[_Row], config: GenerationConfig
    ) -> tuple[list[list[int]], list[float]]:
        """Per row its ids when done, and the mean log p of what was written into gaps."""
        last: State | None = None
        for state in self._states(rows, config):
            last = state
        if last is None:  # a prompt with an empty gap
            return [list(row.ids) for row in rows], [0.0] * len(rows)
        if last.log_probs is None:
            return last.ids.tolist(), [0.0] * len(rows)
        gaps = rows[0].ids.count(self.tokenizer.mask)
        return last.ids.tolist(), (last.log_probs.sum(dim=1) / gaps).tolist()

    def _states(self, rows: list[_Row], config: GenerationConfig) -> Iterator[State]:
        ids = torch.tensor([row.ids for row in rows])
        return self.states(ids, config, np.array([row.key for row in rows]))

    def _best(self, prompt: str, rows: list[tuple[_Row, list[int], float]]) -> list[Generation]:
        """Per sample the length whose tokens had the highest mean log p."""
        rows.sort(key=lambda one: (one[0].sample, -one[2], len(one[0].ids)))
        firsts = (next(some) for _, some in groupby(rows, key=lambda one: one[0].sample))
        return [
            Generation(self._text(prompt, row, ids, new := self._new_ids(row, ids)), tuple(new))
            for row, ids, _ in firsts
        ]

    def _new_ids(self, row: _Row, ids: Sequence[int]) -> list[int]:
        """What was written: the gaps' tokens, or all after the prompt up to the document's end."""
        if row.start is None:
            return [x for x, old in zip(ids, row.ids, strict=False) if old == self.tokenizer.mask]
        new, end = list(ids[row.start :]), self.tokenizer.end_of_document
        return new[: new.index(end)] if end in new else new

    def _text(self, prompt: str, row: _Row, ids: Sequence[int], new: Sequence[int]) -> str:
        if row.start is None:
            return self.tokenizer.decode(list(ids[1:]))
        return prompt + self.tokenizer.decode(list(new))


def _named(module: str) -> Writer:
    writer: Writer = importlib.import_module(module).WRITER
    return writer


def _refuse_misspelt(prompt: str) -> None:
    """Raise UserError for something like [MASK: 4], which would else be read as text."""
    for match in _LIKE_MASK_SPAN.finditer(prompt):
        if _MASK_SPAN.fullmatch(match[0]) is None:
            raise UserError(
                f"{match[0]} is not a gap; write [MASK], [MASK:12] or, for a searched length, "
                "[MASK:3-8]"
            )


def _lengths(spans: Sequence[re.Match[str]]) -> list[int]:
    """The lengths to try for the gap of searched length; [0], unused, if there is none."""
    searched = [match for match in spans if match[2]]
    if not searched:
        return [0]
    if len(searched) > 1:
        raise UserError("only one gap of a prompt may have a searched length like [MASK:3-8]")
    low, high = int(searched[0][1]), int(searched[0][2])
    if not 1 <= low <= high or high - low >= LONGEST_SEARCH:
        raise UserError(
            f"{searched[0][0]}: give a range such as [MASK:3-8], at most {LONGEST_SEARCH} lengths"
        )
    return list(range(low, high + 1))

"""Prompts in, texts out: gaps, searched lengths, batches, streams, for both families."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch

from epochal.data import Tokenizer
from epochal.device import Machine
from epochal.errors import UserError
from epochal.generation.autoregressive import text_steps
from epochal.generation.sampling import Sampling, sample_keys
from epochal.generation.unmasking import Schedule, State, unmask_steps
from epochal.models import Transformer

Report = Callable[[int], None]
_MASK_SPAN = re.compile(r"\[MASK(?::(\d+)(?:-(\d+))?)?\]")
_LIKE_MASK_SPAN = re.compile(r"\[MASK:[^\]\n]*\]")
LONGEST_SEARCH = 64
"""Lengths that are tried for one gap at most; each is a sample of its own."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to write after each prompt, or into its gaps."""

    tokens: int = 64
    """New tokens at most; gaps have their own number."""
    samples: int = 1
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        for name in ("tokens", "samples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: give at least 1")


@dataclass(frozen=True, slots=True)
class Written:
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
    gaps: bool


@dataclass
class Writer:
    """A model as an author. `causal` for the AR family."""

    model: Transformer
    tokenizer: Tokenizer
    machine: Machine
    causal: bool
    longest: int
    """The sequence length that the model was trained on."""
    batch_tokens: int

    def write(
        self, prompts: Sequence[str], wish: Wish, report: Report = lambda done: None
    ) -> Iterator[tuple[int, list[Written]]]:
        """(number of the prompt, its samples) for each prompt, in the order of getting done.

        Prompts of one shape are written together. `report` hears the number of rows done.
        Raises UserError, before anything is written, for a prompt that does not fit the model.
        """
        rows = [row for number in range(len(prompts)) for row in self._asked(number, prompts, wish)]
        missing = [0] * len(prompts)
        for row in rows:
            missing[row.prompt] += 1
        found: dict[int, list[tuple[_Row, list[int], float]]] = {}
        done = 0
        for batch in self._batches(rows):
            for row, new, score in zip(batch, *self._fill(batch, wish), strict=True):
                found.setdefault(row.prompt, []).append((row, new, score))
            done += len(batch)
            report(done)
            for number in sorted({row.prompt for row in batch}):
                if len(found[number]) == missing[number]:
                    yield number, self._best(prompts[number], found.pop(number))

    def stream(self, prompt: str, wish: Wish) -> Iterator[str]:
        """The text in pieces: what is settled, as soon as it is. Joined, what `write` gives.

        Raises UserError for several samples and for a gap of searched length.
        """
        rows = self._rows(0, prompt, wish)
        if len(rows) > 1:
            raise UserError("only one text can be streamed: one sample, and gaps of fixed length")
        [row] = rows
        sent, text = "", None
        for ids in self._settled(row, wish):
            text = self._text(prompt, row, ids, self._cut(row, ids))
            if not text.endswith("�"):  # half of a letter
                yield text[len(sent) :]
                sent = text
        if text is None:  # no step at all: only gaps of length 0
            text = self._text(prompt, row, row.ids, ())
        yield text[len(sent) :]

    def _settled(self, row: _Row, wish: Wish) -> Iterator[list[int]]:
        """The row's ids as far as they are settled, after each step."""
        if self.causal:
            ids = list(row.ids)
            for token in self._steps(np.array([row.key]), [row], wish):
                ids.append(int(token[0]))
                yield ids
            return
        for state in self._states([row], wish):
            yield state.ids[0, : state.settled].tolist()

    def _asked(self, number: int, prompts: Sequence[str], wish: Wish) -> list[_Row]:
        """`_rows`, with the prompt named in errors if there are others."""
        try:
            return self._rows(number, prompts[number], wish)
        except UserError as error:
            if len(prompts) == 1 or type(error) is not UserError:  # the model's fault, not its
                raise
            raise UserError(f"prompt {_shortened(prompts[number])}: {error}") from error

    def _rows(self, number: int, prompt: str, wish: Wish) -> list[_Row]:
        """All rows of a prompt: samples times lengths that are tried."""
        spans = list(_MASK_SPAN.finditer(prompt))
        if spans and self.causal:
            raise UserError(
                "an autoregressive model cannot fill in [MASK]; give a text to go on from, or "
                "use a masked diffusion run"
            )
        if self.causal:
            refuse_for_ar(wish.schedule.given())
        else:
            _refuse_misspelt(prompt)
        keys = sample_keys(wish.seed, prompt, wish.samples)
        rows = []
        for length in _lengths(spans):
            # A document starts after the end of another: so does an empty prompt.
            ids = [self.tokenizer.end_of_document, *self._masked_ids(prompt, spans, length)]
            new = 0 if spans else wish.tokens
            if len(ids) + new > self.longest:
                raise UserError(
                    f"prompt and new text are {len(ids) + new} tokens, but the model was trained "
                    f"on {self.longest}; shorten the prompt or lower the number of tokens"
                )
            ids += [self.tokenizer.mask] * (0 if self.causal else new)
            if not self.causal:
                wish.schedule.blocks(ids.count(self.tokenizer.mask))  # too few steps are said now
            rows += [
                _Row(number, sample, tuple(ids), key, bool(spans))
                for sample, key in enumerate(keys)
            ]
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
        """Rows of equal length with equal gaps, about `batch_tokens` in a batch."""
        mask = self.tokenizer.mask

        def shape(row: _Row) -> tuple[int, tuple[int, ...]]:
            gaps = () if self.causal else tuple(i for i, x in enumerate(row.ids) if x == mask)
            return len(row.ids), gaps

        for (length, _), same in groupby(sorted(rows, key=shape), key=shape):
            group = list(same)
            size = max(1, self.batch_tokens // length)
            for first in range(0, len(group), size):
                yield group[first : first + size]

    def _fill(self, rows: list[_Row], wish: Wish) -> tuple[list[list[int]], list[float]]:
        """Per row its ids when done, and the mean log p of what was written."""
        if self.causal:
            keys = np.array([row.key for row in rows])
            new = [token.tolist() for token in self._steps(keys, rows, wish)]
            ids = [[*row.ids, *(one[i] for one in new)] for i, row in enumerate(rows)]
            return ids, [0.0] * len(rows)
        last: State | None = None
        for state in self._states(rows, wish):
            last = state
        if last is None:  # a prompt with an empty gap
            return [list(row.ids) for row in rows], [0.0] * len(rows)
        gaps = rows[0].ids.count(self.tokenizer.mask)
        return last.ids.tolist(), (last.log_probs.sum(dim=1) / gaps).tolist()

    def _steps(self, keys: np.ndarray, rows: list[_Row], wish: Wish) -> Iterator[torch.Tensor]:
        return text_steps(
            self.model,
            torch.tensor([row.ids for row in rows]),
            wish.tokens,
            end=self.tokenizer.end_of_document,
            vocabulary=self.tokenizer.vocabulary,
            sampling=wish.sampling,
            keys=keys,
            machine=self.machine,
        )

    def _states(self, rows: list[_Row], wish: Wish) -> Iterator[State]:
        return unmask_steps(
            self.model,
            torch.tensor([row.ids for row in rows]),
            wish.schedule,
            mask=self.tokenizer.mask,
            vocabulary=self.tokenizer.vocabulary,
            sampling=wish.sampling,
            keys=np.array([row.key for row in rows]),
            machine=self.machine,
        )

    def _best(self, prompt: str, found: list[tuple[_Row, list[int], float]]) -> list[Written]:
        """Per sample the length whose tokens the model thought likeliest on the mean."""
        found.sort(key=lambda one: (one[0].sample, -one[2], len(one[0].ids)))
        firsts = (next(some) for _, some in groupby(found, key=lambda one: one[0].sample))
        return [
            Written(
                self._text(prompt, row, ids, new := self._cut(row, ids)),
                tuple(new),
            )
            for row, ids, _ in firsts
        ]

    def _cut(self, row: _Row, ids: Sequence[int]) -> list[int]:
        """What was written: the gaps' tokens, or all behind the prompt up to its end."""
        if row.gaps:
            return [x for x, old in zip(ids, row.ids, strict=False) if old == self.tokenizer.mask]
        mask, end = self.tokenizer.mask, self.tokenizer.end_of_document
        known = len(row.ids) if self.causal else row.ids.index(mask)
        new = list(ids[known:])
        return new[: new.index(end)] if end in new else new

    def _text(self, prompt: str, row: _Row, ids: Sequence[int], new: Sequence[int]) -> str:
        if row.gaps:
            return self.tokenizer.decode(list(ids[1:]))
        return prompt + self.tokenizer.decode(list(new))


def refuse_for_ar(given: Sequence[str]) -> None:
    """Raises UserError if any settings of diffusion are `given`."""
    if given:
        raise UserError(
            f"{', '.join(given)}: an autoregressive model writes token by token, so it has no such "
            "setting; leave it out, or use a masked diffusion run"
        )


def _shortened(prompt: str) -> str:
    """A prompt's beginning, to find it by in a file."""
    return repr(prompt if len(prompt) <= 40 else prompt[:39] + "…")


def _refuse_misspelt(prompt: str) -> None:
    """Raises UserError for something like [MASK: 4], which would else be read as text."""
    for match in _LIKE_MASK_SPAN.finditer(prompt):
        if _MASK_SPAN.fullmatch(match[0]) is None:
            raise UserError(
                f"{match[0]} is no gap; write [MASK], [MASK:12] or, for a searched length, "
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

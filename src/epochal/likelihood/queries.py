"""Probabilities of chosen tokens at chosen positions of many rows of different length, batched.

Equal rows are read once, rows of similar length share a batch, and logits are computed only where
a query needs them. Shape letters: B rows, L positions, P queried positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from epochal.device import Machine
from epochal.models import Transformer
from epochal.objectives import Attention
from epochal.sizes import logits_block

Ids = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Query:
    """Read `ids`; give the probabilities of `targets` at `places` (indices into `ids`)."""

    ids: Ids
    places: Places
    targets: Places


@dataclass(frozen=True, slots=True)
class Answer:
    """For each position of a query, natural logarithms of probabilities."""

    log_probs: NDArray[np.float64]
    """Of the target."""
    best: NDArray[np.int64]
    """The most likely token."""
    best_log_probs: NDArray[np.float64]
    """Of the most likely token."""


@dataclass
class Reader:
    """Reads rows with a model and answers queries about them."""

    model: Transformer
    machine: Machine
    causal: bool
    """Attention: causal, or bidirectional among the row's own tokens."""
    vocabulary: int
    """Probabilities are over the ids below it: neither the mask id nor the table's padding."""
    batch_tokens: int
    """Tokens of a forward pass, padding included (at least one row)."""
    pad_to: int = 0
    """Bidirectional rows are padded to this with `pad_id`, as ordinary input."""
    pad_id: int = 0
    shift: int = 0
    """How far before a token stands the state that predicts it; `exact` says so in its places."""
    block: int = 0
    """Tokens of a block, which sees itself and those before it; 0: the row is one."""
    rows_read: int = field(default=0, init=False)
    """Rows that went through the model so far."""

    @torch.no_grad()
    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """One answer per query, in their order."""
        rows, owner = self._distinct(queries)
        rank = np.argsort([len(row) for row in rows], kind="stable")
        counts = np.array([len(query.places) for query in queries], dtype=np.int64)
        # Every queried position with its row, in the order in which rows are read.
        row = np.repeat(np.argsort(rank, kind="stable")[owner], counts)
        place = np.concatenate([query.places for query in queries])
        target = np.concatenate([query.targets for query in queries])
        order = np.argsort(row, kind="stable")
        values = np.empty((3, len(row)))
        self.model.eval()
        first = 0
        for batch in self._batches([len(rows[i]) for i in rank]):
            last = first + int(np.searchsorted(row[order[first:]], batch.stop))
            those = order[first:last]
            ids = [rows[i] for i in rank[batch]]
            values[:, those] = self._look(
                ids, row[those] - batch.start, place[those], target[those]
            )
            first = last
        ends = np.cumsum(counts)
        parts = (values[:, end - count : end] for count, end in zip(counts, ends, strict=True))
        return [Answer(part[0], part[1].astype(np.int64), part[2]) for part in parts]

    def _distinct(self, queries: Sequence[Query]) -> tuple[list[Ids], Places]:
        """The distinct rows, and for each query the index of its row.

        Where rows are padded, one that ends in the padding's id equals a shorter one: so do the
        rows of all choices of a question when all their tokens are masked.
        """
        numbers: dict[bytes, int] = {}
        rows: list[Ids] = []
        owner = np.empty(len(queries), dtype=np.int64)
        for i, query in enumerate(queries):
            ids = np.ascontiguousarray(query.ids, dtype=np.int32)
            if len(ids) <= self.pad_to:
                kept = np.flatnonzero(ids != self.pad_id)
                ids = ids[: kept[-1] + 1 if len(kept) else 1]
            owner[i] = numbers.setdefault(ids.tobytes(), len(rows))
            if owner[i] == len(rows):
                rows.append(ids)
        return rows, owner

    def _batches(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Ascending lengths → slices of rows that together are about `batch_tokens`."""
        first = 0
        for end in range(1, len(lengths) + 1):
            longest = max(lengths[end] if end < len(lengths) else 0, self.pad_to)
            if end == len(lengths) or (end + 1 - first) * longest > self.batch_tokens:
                yield slice(first, end)
                first = end

    def _look(
        self, rows: Sequence[Ids], row: Places, place: Places, target: Places
    ) -> NDArray[np.float64]:
        """[3, P]: log p(target), the most likely token, its log p."""
        self.rows_read += len(rows)
        ids, rule = self._padded(rows)
        device = self.machine.device
        index = torch.from_numpy(row * ids.shape[1] + place - self.shift).to(device)
        targets = torch.from_numpy(target).to(device)
        with self.machine.autocast():
            rule = rule.to(device) if isinstance(rule, Tensor) else rule
            states = self.model(ids.to(device), rule).flatten(0, 1)[index]
            most = logits_block(self.vocabulary, gpu=device.type == "cuda")
            size = max(1, most // self.vocabulary)
            blocks = [slice(start, start + size) for start in range(0, len(index), size)]
            parts = [self._head(states[block], targets[block]) for block in blocks]
        return torch.cat(parts, dim=1).cpu().numpy()

    def _head(self, states: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(states, self.model.table[: self.vocabulary])
        logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        best, token = logs.max(dim=-1)
        chosen = logs.gather(-1, targets[:, None]).squeeze(-1)
        return torch.stack([chosen.double(), token.double(), best.double()])

    def _padded(self, rows: Sequence[Ids]) -> tuple[Tensor, Attention]:
        """[B, L] ids and their attention rule."""
        lengths = np.array([len(row) for row in rows])
        width = max(int(lengths.max()), self.pad_to)
        inside = np.arange(width)[None, :] < lengths[:, None]
        ids = np.full(inside.shape, self.pad_id, dtype=np.int64)
        ids[inside] = np.concatenate(rows)
        if self.causal:
            return torch.from_numpy(ids), "causal"  # padding comes after all that is queried
        if self.block:
            number = torch.arange(width) // self.block
            before = number[None, :] <= number[:, None]
            own = torch.from_numpy(inside | (self.pad_to > 0))
            return torch.from_numpy(ids), own[:, None, None, :] & before
        if self.pad_to or inside.all():
            return torch.from_numpy(ids), "bidirectional"
        return torch.from_numpy(ids), torch.from_numpy(inside)[:, None, None, :]

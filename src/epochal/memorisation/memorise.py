"""What runs remember of their training text, checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal import files
from epochal.data.canaries import read_canaries, references
from epochal.data.rows import ScoredWindows
from epochal.data.store import TokenStore
from epochal.errors import CheckpointError, UserError
from epochal.estimates import Estimate
from epochal.evaluation.load import LoadedModel, load_run
from epochal.likelihood.nll import Evaluator
from epochal.memorisation.analysis import (
    AtEqualLoss,
    CanaryExposure,
    Extraction,
    Measured,
    at_equal_loss,
    exposure,
    extraction,
    logged_gaps,
    no_equal_loss,
)
from epochal.memorisation.figure import write_plot
from epochal.memorisation.recall import Recall
from epochal.memorisation.text import Text, ids_of, places, why_unlike
from epochal.memorisation.words import summary
from epochal.progress import bar
from epochal.runs import RunRecord
from epochal.training import checkpoint
from epochal.training.train import evaluation_batch

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation:
    """All that was measured, and what it means."""

    measured: list[Measured]
    equal_loss: list[AtEqualLoss]
    not_compared: str | None
    """Why several runs have no figures at equal loss."""
    logged: dict[str, list[tuple[float, float]]]
    """(epochs, gap) of each run by its log of training; rougher, but along the whole run."""
    length: int
    """Tokens of a continuation."""
    summary: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "checkpoints": [one.as_dict() for one in self.measured],
            "at_equal_loss": [asdict(one) for one in self.equal_loss],
            "not_compared": self.not_compared,
            "logged_gaps": self.logged,
            "continuation_tokens": self.length,
            "summary": self.summary,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured; the fields are the arguments of `memorise`."""

    prefixes: tuple[int, ...] = (8, 16, 32)
    length: int = 16
    places: int = 200
    max_tokens: int = 50_000
    draws: int = 8
    canaries: str | Path | None = None
    references: int = 256
    checkpoints: int | None = None
    seed: int = 0
    device: str = "auto"

    def check(self) -> None:
        """Raises UserError for what cannot be measured."""
        for name in ("length", "places", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: give at least 1")
        if not self.prefixes or min(self.prefixes) < 1:
            raise UserError(f"prefixes = {self.prefixes}: give lengths of at least 1 token")
        if self.draws < 2:
            raise UserError(f"draws = {self.draws}: give at least 2")
        if self.checkpoints is not None and self.checkpoints < 2:
            raise UserError(
                f"checkpoints = {self.checkpoints}: give at least 2, the best and the last"
            )
        if self.references < 16:
            raise UserError(f"references = {self.references}: give at least 16")


def memorise(
    runs: Sequence[str | Path], *, out: str | Path = "memorise", **settings: Any
) -> Memorisation:
    """Train-minus-validation gap, verbatim extraction and canary exposure of every checkpoint.

    `settings`: `prefixes` and `length` in tokens, `places` in the text to try, `max_tokens`
    of each set for the gap, `draws` of the bound for MDM, `canaries` (the canaries.json that
    `epochal data canaries` made), `references` per canary, `checkpoints` of a run at
    most (all if not given), `seed`, `device`. Writes
    memorise.json, memorise.svg and memorise.png into `out`. Raises UserError for settings
    that cannot be measured, CheckpointError for a run without checkpoints and RunError where
    the corpus is not the one that the run was trained on.
    """
    if not runs:
        raise UserError("give at least one run")
    given = Settings(**settings)
    given.check()
    canaries = [] if given.canaries is None else read_canaries(given.canaries)
    records = [RunRecord(run) for run in runs]
    names = _names(records)
    steps = {
        name: _steps(record, given.checkpoints) for name, record in zip(names, records, strict=True)
    }
    texts = [Text.of(record, canaries) for record in records]
    unlike = why_unlike(dict(zip(names, records, strict=True)))
    measured = []
    with bar("memorise", sum(map(len, steps.values()))) as progress:
        for name, record, text in zip(names, records, texts, strict=True):
            for step in steps[name]:
                measured.append(_measure(name, record, step, given, text))
                progress.update(len(measured), f"{name} step {step:,}")
    not_compared = unlike or no_equal_loss(measured)
    found = Memorisation(
        measured=measured,
        equal_loss=[] if not_compared else at_equal_loss(measured),
        not_compared=not_compared,
        logged={name: logged_gaps(record) for name, record in zip(names, records, strict=True)},
        length=given.length,
        summary=summary(measured, given.length, not_compared),
    )
    files.write_json(Path(out) / "memorise.json", found.as_dict())
    write_plot(Path(out), measured, found.logged, given.length)
    return found


def _names(records: list[RunRecord]) -> list[str]:
    """Folder names, or paths where names are not enough."""
    names = [record.name for record in records]
    if len(set(names)) == len(names):
        return names
    paths = [str(record.path) for record in records]
    if len(set(paths)) < len(paths):
        raise UserError("the same run is given twice")
    return paths


def _steps(record: RunRecord, most: int | None) -> list[int]:
    """Steps of the checkpoints to measure: all, or `most` spread evenly, with best and last."""
    found = checkpoint.list_checkpoints(record.folder.checkpoints)
    steps = sorted({step for step, _ in found})
    if not steps:
        raise CheckpointError(f"the run {record.path} has no checkpoint; train it first")
    if most is None or most >= len(steps):
        return steps
    kept = {steps[-1]} | {step for step, path in found if path.name.startswith("best")}
    free = [step for step in steps if step not in kept]
    count = max(0, most - len(kept))
    return sorted(kept | {free[n * len(free) // count] for n in range(count)})


def _measure(name: str, record: RunRecord, step: int, given: Settings, text: Text) -> Measured:
    loaded = load_run(record.path, str(step), given.device)
    recall = Recall(
        loaded.model,
        loaded.objective,
        loaded.machine,
        loaded.tokenizer.vocabulary,
        loaded.tokenizer.mask,
        pad_to=loaded.padded_length,
    )
    train, validation = (_nll(loaded, store, given) for store in (text.train, text.validation))
    return Measured(
        run=name,
        family=loaded.family,
        step=step,
        epochs=record.numbers["epochs"] * step / record.numbers["steps"],
        train_nll=train.nll,
        train_error=train.error,
        validation_nll=validation.nll,
        validation_error=validation.error,
        extraction=_extract(recall, text, loaded.sequence_length, given),
        canaries=_expose(recall, text, loaded, given),
    )


def _nll(loaded: LoadedModel, store: TokenStore, given: Settings) -> Estimate:
    evaluator = Evaluator(
        loaded.objective,
        loaded.machine,
        ScoredWindows(store.tokens, loaded.sequence_length, given.max_tokens),
        store.document_starts,
        loaded.tokenizer.vocabulary,
        evaluation_batch(loaded.recipe),
    )
    for _ in range(1 if evaluator.objective.exact else given.draws):
        evaluator.add_draw(loaded.model)
    return evaluator.result()


def _extract(recall: Recall, text: Text, longest: int, given: Settings) -> list[Extraction]:
    prefix, size = max(given.prefixes), given.length
    if prefix + size > longest:
        raise UserError(
            f"a prefix of {prefix} and {size} more tokens are longer than the run's "
            f"`data.sequence_length` = {longest}; give shorter ones"
        )
    train, validation = (
        places(store, prefix + size, given.places, given.seed)
        for store in (text.train, text.validation)
    )
    if not len(train):
        raise UserError(
            f"no training document has {prefix + size} tokens; give shorter prefixes or a shorter "
            "length"
        )
    found = []
    for count in sorted(set(given.prefixes)):
        right = [
            recall.greedy_tokens_right(rows[:, prefix - count :], count)
            for rows in (train, validation)
        ]
        found.append(extraction(count, *right))
    return found


def _expose(
    recall: Recall, text: Text, loaded: LoadedModel, given: Settings
) -> list[CanaryExposure]:
    others = references(given.references, given.seed)
    found = []
    for number, (canary, seen, beyond) in enumerate(text.canaries):
        texts = [
            ids_of(loaded.tokenizer, canary.prefix, secret) for secret in (canary.secret, *others)
        ]
        if max(len(ids) for ids, _ in texts) > loaded.sequence_length:
            raise UserError(
                "the canaries are longer than the run's `data.sequence_length` = "
                f"{loaded.sequence_length}"
            )
        nll = _secrets_nll(recall, texts, given)
        ids, known = texts[0]
        out = bool(recall.greedy_tokens_right(ids[None], known).all())
        found.append(exposure(number, seen, float(nll[0]), nll[1:], canary.copies, beyond, out))
    return found


def _secrets_nll(
    recall: Recall, texts: list[tuple[Integers, int]], given: Settings
) -> NDArray[np.float64]:
    """NLL of each secret; rows of one length go through the model together.

    All meet the same masks, so ranks are fair with any number of draws.
    """
    found = np.zeros(len(texts))
    lengths = np.array([len(ids) for ids, _ in texts])
    for length in np.unique(lengths):
        which = np.flatnonzero(lengths == length)
        rows = np.stack([texts[n][0] for n in which])
        scored = np.arange(length)[None, :] >= np.array([texts[n][1] for n in which])[:, None]
        found[which] = recall.span_nll(rows, scored, given.draws, given.seed)
    return found

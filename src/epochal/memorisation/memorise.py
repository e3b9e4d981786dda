"""What runs remember of their training text, checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epochal import files
from epochal.data.canaries import read_canaries, references
from epochal.data.rows import ScoredWindows
from epochal.data.store import TokenStore
from epochal.errors import CheckpointError, OptionError, UserError
from epochal.estimates import Estimate
from epochal.evaluation.load import LoadedModel, load_run
from epochal.families import get_family
from epochal.likelihood.nll import Evaluator
from epochal.memorisation.analysis import (
    advise,
    at_equal_loss,
    by_run,
    exposure,
    extraction,
    logged_gaps,
    no_equal_loss,
)
from epochal.memorisation.figure import write_plot
from epochal.memorisation.options import DRAWS, MemoriseOptions
from epochal.memorisation.recall import Recall
from epochal.memorisation.results import (
    CanaryExposure,
    CheckpointResult,
    Extraction,
    Memorisation,
    MemorisationNote,
)
from epochal.memorisation.training_text import TrainingText, draw_prefixes, ids_of
from epochal.progress import bar
from epochal.results import note, to_json
from epochal.runs import RunRecord, checkpoints
from epochal.runs.comparable import mismatches
from epochal.training.train import evaluation_batch

Integers = NDArray[np.int64]


def memorise(runs: Sequence[str | Path], options: MemoriseOptions | None = None) -> Memorisation:
    """Train-minus-validation gap, verbatim extraction and canary exposure of every checkpoint.

    Writes memorise.json, memorise.svg and memorise.png into `options.out`. Raises UserError for
    what cannot be measured, CheckpointError for a run without checkpoints and RunError where
    the corpus is not the one that the run was trained on.
    """
    options = options or MemoriseOptions()
    if not runs:
        raise UserError("give at least one run")
    canaries = [] if options.canaries is None else read_canaries(options.canaries)
    records = _named([RunRecord(run) for run in runs])
    for record in records.values():
        if not get_family(record.family).answers:
            raise UserError(
                f"{record.path}: what a {get_family(record.family).title} model reproduces cannot "
                "be measured; leave it out"
            )
    if options.draws is not None and all(get_family(r.family).exact for r in records.values()):
        raise OptionError("draws", options.draws, "the NLL of these runs is exact; leave it out")
    steps = {name: _steps(record, options.checkpoints) for name, record in records.items()}
    texts = {name: TrainingText.of(record, canaries) for name, record in records.items()}
    results: list[CheckpointResult] = []
    with bar("memorise", sum(map(len, steps.values()))) as progress:
        for name, record in records.items():
            for step in steps[name]:
                results.append(_measure(name, record, step, options, texts[name]))
                progress.update(len(results), f"{name} step {step:,}")
    different = mismatches(records.values())
    if different:
        reason = note(MemorisationNote.DIFFERENT_CONDITIONS, mismatch=different[0])
    memorisation = Memorisation(
        checkpoints=results,
        at_equal_loss=[] if different else at_equal_loss(results),
        not_compared=reason if different else no_equal_loss(results),
        advice=[advise(checkpoints) for checkpoints in by_run(results).values()],
        logged_gaps={name: logged_gaps(record) for name, record in records.items()},
        continuation_tokens=options.length,
    )
    files.write_json(Path(options.out) / "memorise.json", to_json(memorisation))
    write_plot(Path(options.out), results, memorisation.logged_gaps, options.length)
    return memorisation


def _named(records: list[RunRecord]) -> dict[str, RunRecord]:
    """Runs by folder name, or by path where names are not unique."""
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        names = [str(record.path) for record in records]
    if len(set(names)) < len(names):
        raise UserError("the same run is given twice")
    return dict(zip(names, records, strict=True))


def _steps(record: RunRecord, most: int | None) -> list[int]:
    """Steps of the checkpoints to measure: all, or `most` evenly spaced, with best and last."""
    saved = checkpoints.list_checkpoints(record.folder.checkpoints)
    steps = sorted({step for step, _ in saved})
    if not steps:
        raise CheckpointError(f"the run {record.path} has no checkpoint; train it first")
    if most is None or most >= len(steps):
        return steps
    kept = {steps[-1]} | {step for step, path in saved if path.name.startswith("best")}
    free = [step for step in steps if step not in kept]
    count = max(0, most - len(kept))
    return sorted(kept | {free[n * len(free) // count] for n in range(count)})


def _measure(
    name: str, record: RunRecord, step: int, options: MemoriseOptions, text: TrainingText
) -> CheckpointResult:
    loaded = load_run(record.path, str(step), options.device)
    recall = Recall(
        loaded.model,
        loaded.objective,
        loaded.machine,
        loaded.tokenizer.vocabulary,
        loaded.tokenizer.mask,
        pad_to=loaded.padded_length,
    )
    train, validation = (_nll(loaded, store, options) for store in (text.train, text.validation))
    return CheckpointResult(
        run=name,
        family=loaded.family,
        step=step,
        epochs=record.numbers["epochs"] * step / record.numbers["steps"],
        train_nll=train.nll,
        train_error=train.error,
        validation_nll=validation.nll,
        validation_error=validation.error,
        extraction=_extract(recall, text, loaded.sequence_length, options),
        canaries=_expose(recall, text, loaded, options),
    )


def _nll(loaded: LoadedModel, store: TokenStore, options: MemoriseOptions) -> Estimate:
    evaluator = Evaluator(
        loaded.objective,
        loaded.machine,
        ScoredWindows(store.tokens, loaded.sequence_length, options.max_tokens),
        store.document_starts,
        loaded.tokenizer.vocabulary,
        evaluation_batch(loaded.recipe),
    )
    for _ in range(1 if evaluator.objective.exact else options.draws or DRAWS):
        evaluator.add_draw(loaded.model)
    return evaluator.result()


def _extract(
    recall: Recall, text: TrainingText, longest: int, options: MemoriseOptions
) -> list[Extraction]:
    prefix, size = max(options.prefix_lengths), options.length
    if prefix + size > longest:
        raise UserError(
            f"a prefix of {prefix} and {size} more tokens are longer than the run's "
            f"`data.sequence_length` = {longest}; give shorter ones"
        )
    train, validation = (
        draw_prefixes(store, prefix + size, options.num_prefixes, options.seed)
        for store in (text.train, text.validation)
    )
    if not len(train):
        raise UserError(
            f"no training document has {prefix + size} tokens; give shorter prefixes or a shorter "
            "length"
        )
    return [
        extraction(
            length,
            *(
                recall.greedy_tokens_right(rows[:, prefix - length :], length)
                for rows in (train, validation)
            ),
        )
        for length in sorted(set(options.prefix_lengths))
    ]


def _expose(
    recall: Recall, text: TrainingText, loaded: LoadedModel, options: MemoriseOptions
) -> list[CanaryExposure]:
    unseen = references(options.references, options.seed)
    exposures = []
    for number, (canary, seen, excluded) in enumerate(text.canaries):
        texts = [
            ids_of(loaded.tokenizer, canary.prefix, secret) for secret in (canary.secret, *unseen)
        ]
        if max(len(ids) for ids, _ in texts) > loaded.sequence_length:
            raise UserError(
                "the canaries are longer than the run's `data.sequence_length` = "
                f"{loaded.sequence_length}"
            )
        nll = _secrets_nll(recall, texts, options)
        rank, by_rank, fitted = exposure(float(nll[0]), nll[1:])
        ids, known = texts[0]
        exposures.append(
            CanaryExposure(
                canary=number,
                seen=seen,
                copies=canary.copies,
                excluded=excluded,
                rank=rank,
                exposure=by_rank,
                exposure_fitted=fitted,
                extracted=bool(recall.greedy_tokens_right(ids[None], known).all()),
            )
        )
    return exposures


def _secrets_nll(
    recall: Recall, texts: list[tuple[Integers, int]], options: MemoriseOptions
) -> NDArray[np.float64]:
    """NLL of each secret; rows of one length go through the model together.

    All get the same masks, so ranks are fair with any number of draws.
    """
    nll = np.zeros(len(texts))
    lengths = np.array([len(ids) for ids, _ in texts])
    for length in np.unique(lengths):
        which = np.flatnonzero(lengths == length)
        rows = np.stack([texts[n][0] for n in which])
        scored = np.arange(length)[None, :] >= np.array([texts[n][1] for n in which])[:, None]
        nll[which] = recall.span_nll(rows, scored, options.draws or DRAWS, options.seed)
    return nll

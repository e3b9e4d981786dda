"""Quality of generated text against the number of steps, judged by another run."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from epochal import files
from epochal.data.opened import open_corpus
from epochal.errors import EpochalError, UserError
from epochal.evaluation.evaluate import which_checkpoint
from epochal.evaluation.load import CheckpointName, LoadedModel, load_run
from epochal.evaluation.text_statistics import distinct, repetition
from epochal.generation.generator import Wish
from epochal.generation.sampling import Sampling
from epochal.generation.unmasking import Order, Schedule
from epochal.likelihood.conditional import Request, exact, monte_carlo
from epochal.likelihood.queries import Reader
from epochal.progress import bar
from epochal.runs import RunRecord, parse_run_checkpoint

JUDGE_DRAWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """Texts made with one number of steps, or real ones for comparison."""

    steps: int | None
    """Forward passes per text; None for real text."""
    nll_nats_per_token: float
    """Of the texts under the judge: exact by AR, a bound by diffusion."""
    standard_error: float | None
    """Over texts; None for a single one."""
    distinct_1: float
    """Different tokens, as a share of all."""
    distinct_2: float
    """Different pairs of neighbours, as a share of all."""
    repetition: float
    """Share of runs of 4 tokens that occurred before in their text."""
    tokens: int
    """Tokens in all texts."""
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How a run writes: one row per number of steps, and one of real text."""

    family: str
    checkpoint: str
    step: int
    judge: str
    """Path of the run that judged."""
    judge_family: str
    order: str
    """left-to-right for AR."""
    temperature: float
    top_k: int | None
    top_p: float | None
    samples: int
    tokens: int
    """New tokens per text at most."""
    seed: int
    rows: list[QualityRow]
    reference: QualityRow | None
    """The beginnings of as many validation documents; None if the corpus is not there."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def quality(
    run: str | Path,
    judge: str | Path,
    *,
    steps: Sequence[int] | None = None,
    tokens: int | None = None,
    samples: int = 64,
    seed: int = 0,
    order: Order = "confidence",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    checkpoint: CheckpointName | None = None,
    device: str = "auto",
) -> Quality:
    """Texts of `run` without a prompt, by each number of `steps`, judged by the run `judge`,
    its best checkpoint or `RUN@CHECKPOINT`.

    The judge should be of the other family: a model likes its own texts. A low NLL alone says
    little, since dull and repetitive text has it too; read it beside distinct-n and repetition,
    and beside the row of real text. `steps` default to powers of two up to `tokens` (at most
    64); an AR run has one row. Kept in the run's folder. Raises UserError for unlike tokenizers
    and for what cannot be written, and what `load` raises.
    """
    author = load_run(run, checkpoint, device)
    of_critic, name = parse_run_checkpoint(str(judge))
    critic = load_run(of_critic, name, device)
    if author.tokenizer.sha256 != critic.tokenizer.sha256:
        raise UserError(
            f"{run} and {judge} have different tokenizers, so their NLL per token cannot be "
            "compared; give a judge trained on the same corpus"
        )
    if author.family == "ar" and (steps or order != "confidence"):
        raise UserError(
            f"{run} is autoregressive and writes token by token, so it has no steps or order; "
            "leave them out"
        )
    longest = min(author.sequence_length, critic.sequence_length) - 1
    tokens = min(64, longest) if tokens is None else tokens
    if not 2 <= tokens <= longest:
        raise UserError(f"tokens = {tokens}: give 2 to {longest}, which both runs can read")
    counts = [tokens] if author.family == "ar" else list(steps or _powers(tokens))
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    record = RunRecord(run)
    rows = []
    for count in counts:
        schedule = Schedule() if author.family == "ar" else Schedule(steps=count, order=order)
        wish = Wish(tokens, samples, seed, sampling, schedule)
        start = time.monotonic()
        with bar(f"{count} steps", samples) as progress:
            [(_, written)] = author.writer.write([""], wish, progress.update)
        seconds = time.monotonic() - start
        rows.append(_row([one.new for one in written], critic, count, seconds, seed))
    real = _real_texts(author, tokens, samples)
    result = Quality(
        family=author.family,
        checkpoint=checkpoint or which_checkpoint(record, author.step),
        step=author.step,
        judge=str(judge),
        judge_family=critic.family,
        order="left-to-right" if author.family == "ar" else order,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        samples=samples,
        tokens=tokens,
        seed=seed,
        rows=rows,
        reference=_row(real, critic, None, None, seed) if real else None,
    )
    path = record.folder.quality_file(result.checkpoint, result.order)
    files.write_json(path, result.as_dict())
    return result


def _powers(tokens: int) -> list[int]:
    """1, 2, 4 … and `tokens` itself."""
    return [2**n for n in range(math.ceil(math.log2(tokens)))] + [tokens]


def _row(
    texts: Sequence[Sequence[int]],
    critic: LoadedModel,
    steps: int | None,
    seconds: float | None,
    seed: int,
) -> QualityRow:
    texts = [text for text in texts if len(text)]
    if not texts:
        raise UserError(
            f"with {steps} steps all texts are empty: they begin with the end of the document; "
            "ask for more --samples"
        )
    nll = _nll(texts, critic, seed)
    lengths = np.array([len(text) for text in texts])
    mean = nll.sum() / lengths.sum()
    error = None
    if len(texts) > 1:
        # Of a ratio: the residuals' spread over the mean length (Cochran 1977, § 6.3).
        error = float((nll - mean * lengths).std(ddof=1) / lengths.mean() / math.sqrt(len(texts)))
    return QualityRow(
        steps=steps,
        nll_nats_per_token=float(mean),
        standard_error=error,
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
        repetition=repetition(texts),
        tokens=int(lengths.sum()),
        seconds=seconds,
    )


def _nll(texts: Sequence[Sequence[int]], critic: LoadedModel, seed: int) -> np.ndarray:
    """[texts] −log p(text | start of a document) under the judge, in nats."""
    end = critic.tokenizer.end_of_document
    requests = [
        Request(np.array([end, *text], dtype=np.int32), len(text), key)
        for key, text in enumerate(texts)
    ]
    causal = critic.family == "ar"
    reader = Reader(
        critic.model,
        critic.machine,
        causal,
        critic.tokenizer.vocabulary,
        critic.writer.batch_tokens,
        pad_to=critic.padded_length,
        pad_id=critic.tokenizer.mask,
    )
    with bar("judge", len(requests)) as progress:
        if causal:
            found = exact(reader, requests, progress.update)
        else:
            mask = critic.tokenizer.mask
            found = monte_carlo(reader, requests, mask, JUDGE_DRAWS, seed, progress.update)
    return -np.array([one.log_prob for one in found])


def _real_texts(author: LoadedModel, tokens: int, samples: int) -> list[list[int]]:
    """The first `tokens` tokens of validation documents that have as many."""
    try:
        data = open_corpus(dataclasses.replace(author.recipe.data, unique_tokens=None))
    except EpochalError:
        return []
    starts = data.validation.document_starts()
    long = [start for start, end in pairwise(starts) if end - start > tokens]
    whole = data.validation.tokens
    return [np.asarray(whole[start : start + tokens]).tolist() for start in long[:samples]]

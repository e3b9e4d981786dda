"""Quality of generated text against the number of steps, judged by another run."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from epochal import files
from epochal.data.corpus import open_corpus
from epochal.errors import EpochalError, OptionError, UserError
from epochal.evaluation.evaluate import which_checkpoint
from epochal.evaluation.load import LoadedModel, load_run
from epochal.evaluation.options import QualityOptions
from epochal.families import get_family
from epochal.generation.config import GenerationConfig, SamplingOptions
from epochal.likelihood.conditional import Request, exact, monte_carlo
from epochal.progress import bar
from epochal.results import to_json
from epochal.runs import RunRecord, parse_run_checkpoint

JUDGE_DRAWS = 32
REPETITION_N = 4
"""Length of the runs whose repetition is counted, chosen by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """Texts made with one number of steps, or real ones for comparison."""

    steps: int | None
    """Forward passes per text; None for real text."""
    nll_nats_per_token: float
    """Of the texts under the judge: exact if the judge's NLL is, else a bound."""
    standard_error: float | None
    """Over texts; None for a single one."""
    distinct_1: float
    """Different tokens, as a share of all."""
    distinct_2: float
    """Different pairs of neighbours, as a share of all."""
    repetition: float
    """Share of 4-grams that occurred before in their text."""
    tokens: int
    """Tokens in all texts."""
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Texts of a run: one row per number of steps, and one of real text."""

    family: str
    checkpoint: str
    step: int
    judge: str
    """Path of the run that judged."""
    judge_family: str
    order: str
    """In which tokens were unmasked, or left-to-right."""
    temperature: float
    top_k: int | None
    top_p: float | None
    samples: int
    tokens: int
    """New tokens per text, at most."""
    seed: int
    rows: list[QualityRow]
    reference: QualityRow | None
    """The beginnings of as many validation documents; None without the corpus."""


def quality(run: str | Path, judge: str | Path, options: QualityOptions | None = None) -> Quality:
    """Texts of `run` without a prompt, for each number of steps, judged by the run `judge`, its
    best checkpoint or `RUN@CHECKPOINT`.

    The judge should be of another family: a model likes its own texts. A low NLL alone says
    little, since dull and repetitive text has it too; read it beside distinct-n and repetition,
    and beside the row of real text. A family that writes without steps has one row. Saved in
    the run's folder. Raises UserError for unlike tokenizers and for what cannot be written, and
    what `load` raises.
    """
    options = options or QualityOptions()
    author = load_run(run, options.checkpoint, options.device)
    critic_run, critic_checkpoint = parse_run_checkpoint(str(judge))
    critic = load_run(critic_run, critic_checkpoint, options.device)
    if author.tokenizer.sha256 != critic.tokenizer.sha256:
        raise UserError(
            f"{run} and {judge} have different tokenizers, so their NLL per token cannot be "
            "compared; give a judge trained on the same corpus"
        )
    generator = author.generator
    for name in ("steps", "order"):
        if name in generator.unused_options and getattr(options, name):
            raise OptionError(name, getattr(options, name), generator.why_unused)
    longest = min(author.sequence_length, critic.sequence_length) - 1
    tokens = min(64, longest) if options.tokens is None else options.tokens
    if not 2 <= tokens <= longest:
        raise OptionError("tokens", tokens, f"give 2 to {longest}, which both runs can read")
    config = GenerationConfig(
        tokens=tokens,
        samples=options.samples,
        **{each.name: getattr(options, each.name) for each in fields(SamplingOptions)},
    )
    if "steps" in generator.unused_options:
        configs = {tokens: config}
    else:
        order = options.order or config.order
        powers = [2**n for n in range(math.ceil(math.log2(tokens)))]
        configs = {
            steps: replace(config, steps=steps, order=order)
            for steps in options.steps or (*powers, tokens)
        }
    rows = []
    for steps, step_config in configs.items():
        start = time.monotonic()
        with bar(f"{steps} steps", options.samples) as progress:
            [(_, texts)] = generator.generate([""], step_config, progress.update)
        seconds = time.monotonic() - start
        rows.append(_row([text.new for text in texts], critic, steps, seconds, options.seed))
    real = _real_texts(author, tokens, options.samples)
    record = RunRecord(run)
    result = Quality(
        family=author.family,
        checkpoint=options.checkpoint or which_checkpoint(record, author.step),
        step=author.step,
        judge=str(judge),
        judge_family=critic.family,
        order=generator.writer.order or options.order or config.order,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        samples=options.samples,
        tokens=tokens,
        seed=options.seed,
        rows=rows,
        reference=_row(real, critic, None, None, options.seed) if real else None,
    )
    path = record.folder.quality_file(result.checkpoint, result.order)
    files.write_json(path, to_json(result))
    return result


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
            "ask for more samples"
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
    reader = critic.reader()
    with bar("judge", len(requests)) as progress:
        if get_family(critic.family).exact:
            scores = exact(reader, requests, progress.update)
        else:
            mask = critic.tokenizer.mask
            scores = monte_carlo(reader, requests, mask, JUDGE_DRAWS, seed, progress.update)
    return -np.array([score.log_prob for score in scores])


def _real_texts(author: LoadedModel, tokens: int, samples: int) -> list[list[int]]:
    """The first `tokens` tokens of validation documents that have as many."""
    try:
        data = open_corpus(dataclasses.replace(author.recipe.data, unique_tokens=None))
    except EpochalError:
        return []
    starts = data.validation.document_starts
    long = [start for start, end in pairwise(starts) if end - start > tokens]
    whole = data.validation.tokens
    return [np.asarray(whole[start : start + tokens]).tolist() for start in long[:samples]]


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams of all texts together, as a share of all their n-grams.

    Li et al., arXiv 1510.03055 §5. It falls with the amount of text, so compare equal amounts.
    0 if no text has n tokens.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[Sequence[int]], n: int = REPETITION_N) -> float:
    """Share of n-grams that occurred before in the same text, over all texts.

    0 if nothing is said twice (Welleck et al., arXiv 1908.04319 §6, "seq-rep-n").
    """
    total = repeated = 0
    for text in texts:
        grams = list(_grams(text, n))
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated / total if total else 0.0


def _grams(text: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    return (tuple(text[i : i + n]) for i in range(len(text) - n + 1))

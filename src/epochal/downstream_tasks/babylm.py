"""Score a run on the zero-shot tasks of the BabyLM evaluation, as that evaluation scores them.

Of each text the tokens are scored that end behind the first scored character, given the end of
another document before the text, and the item is right if its first text is likeliest (the
first of equal ones). Probabilities are over all rows of the table, as `transformers` has them.

exact    Σ log p(x_i | x_<i)
bound    the stratified bound of masked diffusion, with masks among the scored tokens only
pseudo   Σ log p(x_i | all other tokens), the masked pseudo-likelihood, which is no bound

Where a model reads blocks, each block's tokens are scored given its block and those before it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from epochal import rng
from epochal.downstream_tasks.babylm_files import BabyLMTask, Item, read_tasks
from epochal.downstream_tasks.options import DEFAULT_DRAWS, DownstreamOptions, check_babylm
from epochal.downstream_tasks.processes import Processes
from epochal.downstream_tasks.results import Score, TaskResult, flip_variance, save
from epochal.evaluation.evaluate import which_checkpoint
from epochal.evaluation.load import LoadedModel, load_run
from epochal.families import get_family
from epochal.likelihood.conditional import (
    Likelihood,
    Report,
    Request,
    exact,
    monte_carlo,
    pseudo,
)
from epochal.progress import bar
from epochal.runs import RunRecord

_Outcome = tuple[bool, float]
"""Whether an item is right, and the variance of that from the masks drawn."""


def babylm(record: RunRecord, options: DownstreamOptions) -> list[TaskResult]:
    """One result per task that `options.data` holds; saved with the run unless `limit` is given.

    Empty on all processes but the first. Raises what `check_babylm` does, and DataError naming
    the file, line and key that is missing or odd.
    """
    score = check_babylm(record, options)
    assert options.data is not None
    tasks = read_tasks(Path(options.data), options.limit)
    processes = Processes()
    try:
        model = load_run(record.path, options.checkpoint, processes.device(options.device))
        scorer = BabyLMScorer(model, score, options)
        checkpoint = options.checkpoint or which_checkpoint(record, model.step)
        results = []
        for task, folder, items in tasks:
            start = time.monotonic()
            scorer.truncated_contexts = scorer.truncated_continuations = 0
            part = scorer.outcomes(items[processes.rank :: processes.world])
            cut = scorer.truncated_contexts, scorer.truncated_continuations
            gathered = processes.gather((part, cut))
            if processes.rank:
                continue
            outcomes: list[_Outcome] = [(False, 0.0)] * len(items)
            for rank, (those, _) in enumerate(gathered):
                outcomes[rank :: processes.world] = those
            results.append(
                TaskResult(
                    task=task.name,
                    family=record.family,
                    checkpoint=checkpoint,
                    step=model.step,
                    mode=score,
                    draws=scorer.draws,
                    seed=options.seed,
                    padded=scorer.reader.pad_to > 0,
                    metrics={"macro_acc": _average(task, items, outcomes)},
                    chance=float(np.mean([1 / len(item.texts) for item in items])),
                    paper=None,
                    documents=len(items),
                    truncated_contexts=sum(counts[0] for _, counts in gathered),
                    truncated_continuations=sum(counts[1] for _, counts in gathered),
                    harness=None,
                    data=folder,
                    limit=options.limit,
                    seconds=time.monotonic() - start,
                    groups=_groups(items, outcomes),
                )
            )
            if options.limit is None:
                save(results[-1], record)
    finally:
        processes.close()
    return results


class BabyLMScorer:
    """Log-likelihoods of the scored parts of texts."""

    def __init__(self, model: LoadedModel, score: str, options: DownstreamOptions) -> None:
        """`score` is one of those that `check_babylm` gives for the model's family."""
        family = get_family(model.family)
        self.score, self.seed = score, options.seed
        self.draws = (options.draws or DEFAULT_DRAWS) if score == "bound" else None
        # The evaluation that pseudo is compared with reads rows at their own length.
        pad = False if score == "pseudo" and options.pad is None else options.pad
        self.reader = model.reader(pad=pad, masked=score != "exact")
        self.reader.vocabulary = model.model.embedding.num_embeddings
        self.tokenizer = model.tokenizer
        self.block = model.recipe.options.size if family.attention == "blocks" else 0
        # A causal model scores one token more than it reads.
        self.limit = model.sequence_length + (1 if self.reader.causal else 0)
        self.truncated_contexts = 0
        """Texts that were cut at the left, since they did not fit."""
        self.truncated_continuations = 0
        """Texts whose scored part was cut so."""

    def outcomes(self, items: Sequence[Item]) -> list[_Outcome]:
        """Whether each item is right, and how sure that is."""
        random = np.random.default_rng(0)
        found = []
        for each in self.likelihoods(items):
            values = np.array([one.log_prob for one in each])
            errors = np.array([one.standard_error for one in each])
            variance = flip_variance(values, errors, 0, random) if errors.any() else 0.0
            found.append((int(values.argmax()) == 0, variance))
        return found

    def likelihoods(self, items: Sequence[Item]) -> list[list[Likelihood]]:
        """For each text of each item: its log-likelihood in nats, and the error from masks."""
        requests: list[Request] = []
        owner: list[tuple[int, int]] = []
        for number, item in enumerate(items):
            key = rng.stream_key(0, "\n".join(item.texts))  # the same masks for all texts
            for place, (text, scored) in enumerate(zip(item.texts, item.scored, strict=True)):
                parts = self._requests(text, scored, key)
                requests += parts
                owner += [(number, place)] * len(parts)
        sums: dict[tuple[int, int], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        with bar("score", len(requests)) as progress:
            answers = self._answers(requests, progress.update)
        for which, answer in zip(owner, answers, strict=True):
            total, variance = sums[which]
            sums[which] = total + answer.log_prob, variance + answer.standard_error**2
        return [
            [
                Likelihood(total, math.sqrt(variance), None)
                for total, variance in (sums[number, place] for place in range(len(item.texts)))
            ]
            for number, item in enumerate(items)
        ]

    def _requests(self, text: str, scored: int, key: int) -> list[Request]:
        """The text's scored tokens; where a model reads blocks, those of each by themselves."""
        ends = self.tokenizer.ends(text)
        count = int((ends > len(text) - scored).sum())
        ids = np.append(np.int32(self.tokenizer.end_of_document), self.tokenizer.encode(text))
        self.truncated_contexts += len(ids) > self.limit
        ids = ids[-self.limit :]
        self.truncated_continuations += count > len(ids) - 1
        count = min(count, len(ids) - 1)
        if not self.block:
            return [Request(ids, count, key)]
        places = range(len(ids) - count, len(ids))
        return [
            Request(
                ids[: (block + 1) * self.block], len(list(those)), rng.stream_key(key, "", block)
            )
            for block, those in groupby(places, lambda place: place // self.block)
        ]

    def _answers(self, requests: Sequence[Request], report: Report) -> list[Likelihood]:
        if self.score == "exact":
            return exact(self.reader, requests, report)
        mask = self.tokenizer.mask
        if self.draws is None:
            return pseudo(self.reader, requests, mask, report)
        return monte_carlo(self.reader, requests, mask, self.draws, self.seed, report)


def _average(task: BabyLMTask, items: Sequence[Item], outcomes: Sequence[_Outcome]) -> Score:
    """The macro average as the evaluation prints it, and its errors: those of the subtasks, which
    have other items, squared and weighed."""
    parts = _scores((item.subtask for item in items), outcomes)
    weights = task.weights(list(parts))

    def error(found: dict[str, float | None]) -> float | None:
        known = [weights[name] * value for name, value in found.items() if value is not None]
        return math.hypot(*known) if len(known) == len(found) else None

    return Score(
        value=sum(weights[name] * part.value for name, part in parts.items()),
        standard_error=error({name: part.standard_error for name, part in parts.items()}),
        standard_error_draws=error(
            {name: part.standard_error_draws for name, part in parts.items()}
        ),
    )


def _groups(items: Sequence[Item], outcomes: Sequence[_Outcome]) -> dict[str, dict[str, Score]]:
    """Accuracies of the subtasks and of what else the items are told apart by."""
    names = dict.fromkeys(name for item in items for name in item.groups)
    groups = {"subtask": _scores((item.subtask for item in items), outcomes)}
    for name in names:
        those = [n for n, item in enumerate(items) if name in item.groups]
        groups[name] = _scores((items[n].groups[name] for n in those), [outcomes[n] for n in those])
    return groups


def _scores(parts: Iterable[str], outcomes: Sequence[_Outcome]) -> dict[str, Score]:
    """Accuracy of each part; its error over items is None for a single one."""
    by_part: dict[str, list[_Outcome]] = defaultdict(list)
    for part, outcome in zip(parts, outcomes, strict=True):
        by_part[part].append(outcome)
    scores = {}
    for part, those in by_part.items():
        n, share = len(those), sum(right for right, _ in those) / len(those)
        scores[part] = Score(
            value=share,
            standard_error=math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None,
            standard_error_draws=math.sqrt(sum(variance for _, variance in those)) / n,
        )
    return scores

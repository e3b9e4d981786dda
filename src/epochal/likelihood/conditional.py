"""log p(continuation | context): exact for causal models, three ways for masked diffusion.

With a context c and a continuation x_1 … x_m:

Exact         Σ_i log p(x_i | c, x_<i).
Chain rule    the same sum with a diffusion model's conditionals, x_i and all that follows
              masked: the likelihood of generating x from left to right. m passes, not random.
Monte Carlo   the bound averaged over all orders,
              −log p(x | c) ≤
                  E_{K ~ U{1…m}} E_{|M| = K} [ m/K · Σ_{i∈M} −log p(x_i | c, x outside M) ],
              masks inside the continuation only (arXiv 2507.15857, evaluate_diff.py of its
              code, there with a continuous noise level).

Pseudo        Σ_i log p(x_i | c, all others of x), each token masked alone. m passes, not random,
              and no likelihood: only comparisons mean something (Salazar et al., arXiv 1910.14659).

They are different numbers: compare the choices of a question by one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.likelihood.draws import check_masks
from epochal.likelihood.queries import Answer, Ids, Query, Reader
from epochal.objectives import noise

Report = Callable[[int], None]
_CHUNK_BATCHES = 64


@dataclass(frozen=True, slots=True)
class Request:
    """Score the last `scored` of `ids` given those before them."""

    ids: Ids
    scored: int
    key: int = 0
    """Decides the masks. Choices of one question share it, so that they get the same masks."""

    @property
    def start(self) -> int:
        """Position of the first scored token."""
        return len(self.ids) - self.scored


@dataclass(frozen=True, slots=True)
class Likelihood:
    """log p(continuation | context) in nats, or the negative bound on −log p."""

    log_prob: float
    standard_error: float
    """From the masks drawn; 0 where none were drawn."""
    greedy: bool | None
    """Whether each token is the most likely given all before it. Monte Carlo has no order: here it
    is the outcome of the first step of `greedy_match`, and None where more are needed."""


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """Masks of a continuation of m tokens and the weights of their sums of NLL."""

    masks: NDArray[np.bool_]
    """[R, m]"""
    weights: NDArray[np.float64]
    """[R]; Σ_r weights · Σ_{i∈M_r} NLL_i is the estimate, and Σ_r weights · |M_r| = m."""
    pairs: int
    """Pairs (a mask and its complement) after the first mask; 0 if nothing is random."""


def exact(reader: Reader, requests: Sequence[Request], report: Report) -> list[Likelihood]:
    """Causal models: all tokens of a continuation from one pass."""

    def queries(request: Request) -> list[Query]:
        places = np.arange(request.start - 1, len(request.ids) - 1)
        return [Query(request.ids[:-1], places, request.ids[request.start :].astype(np.int64))]

    return _score(reader, requests, report, lambda request: 1, queries, _summed)


def chain_rule(
    reader: Reader, requests: Sequence[Request], mask: int, report: Report
) -> list[Likelihood]:
    """Diffusion, left to right: pass i masks tokens i … m of the continuation and scores x_i."""
    return _one_by_one(reader, requests, mask, report, rest=True)


def pseudo(
    reader: Reader, requests: Sequence[Request], mask: int, report: Report
) -> list[Likelihood]:
    """Diffusion: each token of the continuation masked by itself, all others visible."""
    return _one_by_one(reader, requests, mask, report, rest=False)


def _one_by_one(
    reader: Reader, requests: Sequence[Request], mask: int, report: Report, *, rest: bool
) -> list[Likelihood]:
    """One pass for each token of the continuation; `rest`: what follows it is masked, too."""

    def queries(request: Request) -> list[Query]:
        passes = []
        for place in range(request.start, len(request.ids)):
            ids = request.ids.copy()
            ids[place : None if rest else place + 1] = mask
            target = request.ids[place : place + 1].astype(int)
            passes.append(Query(ids, np.array([place]), target))
        return passes

    return _score(reader, requests, report, lambda request: request.scored, queries, _summed)


def monte_carlo(
    reader: Reader,
    requests: Sequence[Request],
    mask: int,
    draws: int,
    seed: int,
    report: Report,
) -> list[Likelihood]:
    """Diffusion, any order: the bound, unbiased, from at most `draws` masks per continuation.

    Raises UserError for fewer than 7 draws.
    """
    check_masks(draws)

    def plan(request: Request) -> MaskPlan:
        return mask_plan(request.scored, draws, rng.stream_key(seed, "downstream", request.key))

    def queries(request: Request) -> list[Query]:
        passes = []
        for masked in plan(request).masks:
            places = request.start + masked.nonzero()[0]
            ids = request.ids.copy()
            ids[places] = mask
            passes.append(Query(ids, places, request.ids[places].astype(np.int64)))
        return passes

    def value(request: Request, answers: Sequence[Answer]) -> Likelihood:
        masks = plan(request)
        sums = np.array([answer.log_probs.sum() for answer in answers])
        # One of the masks covers everything: it is the first step of a generation.
        first = answers[int(masks.masks.all(axis=1).argmax())]
        surest = int(first.best_log_probs.argmax())
        right = bool(first.best[surest] == request.ids[request.start + surest])
        greedy = None if right and request.scored > 1 else right
        return Likelihood(*_estimate(masks, sums), greedy)

    return _score(reader, requests, report, lambda request: draws, queries, value)


def mask_plan(tokens: int, draws: int, key: int) -> MaskPlan:
    """Which masks estimate the bound of `tokens` tokens with at most `draws` passes.

    Where all 2^m − 1 masks fit in, they are all taken and the bound is exact. Otherwise the
    mask of everything (one count in m) is taken once, and the other counts come in pairs of a
    mask and its complement, K tokens and m − K, with K's level in equal slices of [0, ½).
    """
    if 2**tokens - 1 <= draws:
        return _all_masks(tokens)
    pairs = (draws - 1) // 2
    keys = rng.row_keys(key, np.arange(pairs))
    levels = (np.arange(pairs) + rng.uniforms(keys, 1)[:, 0]) / (2 * pairs)
    counts = noise.exact_counts(levels, np.full(pairs, tokens - 1))
    some = noise.exact_masks(keys, counts, np.ones((pairs, tokens), dtype=np.bool_))
    masks = np.concatenate([np.ones((1, tokens), dtype=np.bool_), some, ~some])
    # (m − 1)/m of all counts, shared by `pairs`, half to each of a pair, times m/K.
    weights = (tokens - 1) / (2 * pairs) / masks.sum(axis=1)
    weights[0] = 1 / tokens
    return MaskPlan(masks, weights, pairs)


@lru_cache(maxsize=16)
def _all_masks(tokens: int) -> MaskPlan:
    numbers = np.arange(1, 2**tokens)
    masks = (numbers[:, None] >> np.arange(tokens)[None, :] & 1).astype(np.bool_)
    sizes = masks.sum(axis=1)
    # Count K has the probability 1/m, one of its masks 1 / C(m, K), and the sum weighs m/K.
    ways = np.array([math.comb(tokens, int(size)) for size in sizes])
    return MaskPlan(masks, 1 / (ways * sizes), 0)


def _estimate(plan: MaskPlan, sums: NDArray[np.float64]) -> tuple[float, float]:
    """The estimate from each mask's sum of log p, and its standard error.

    Neighbouring pairs differ by chance and by a trend in K. Second differences take a linear
    trend out: E (g₁ − 2g₂ + g₃)² = 6 σ² (systematic sampling, Wolter, "Introduction to
    variance estimation", 1985, ch. 7).
    """
    parts = plan.weights * sums
    if not plan.pairs:
        return float(parts.sum()), 0.0
    pair = (parts[1 : 1 + plan.pairs] + parts[1 + plan.pairs :]) * plan.pairs
    variance = np.square(np.diff(pair, n=2)).mean() / 6
    return float(parts.sum()), float(np.sqrt(variance / plan.pairs))


def greedy_match(
    reader: Reader, requests: Sequence[Request], mask: int, report: Report
) -> list[bool]:
    """Diffusion: whether confidence-ordered generation writes exactly the continuation.

    It starts from all tokens masked and fixes the likeliest token of the surest place, one a
    pass (arXiv 2507.15857, DOWNSTREAM.md of its code). A request is dropped at its first wrong
    token, so the wrong ones, which are most, cost few passes.
    """
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].ids))
    matches = [True] * len(requests)
    done = 0
    for chunk in _chunks(requests, order, lambda request: 1, reader):
        rows = {}
        for i in chunk:
            rows[i] = requests[i].ids.copy()
            rows[i][requests[i].start :] = mask
        live = [i for i in chunk if requests[i].scored]
        while live:
            queries = []
            for i in live:
                start = requests[i].start
                places = start + (rows[i][start:] == mask).nonzero()[0]
                targets = requests[i].ids[places].astype(np.int64)
                queries.append(Query(rows[i].copy(), places, targets))
            left = []
            for i, query, answer in zip(live, queries, reader.answer(queries), strict=True):
                surest = int(answer.best_log_probs.argmax())
                place, token = query.places[surest], answer.best[surest]
                rows[i][place] = token
                if token != requests[i].ids[place]:
                    matches[i] = False
                elif len(query.places) > 1:
                    left.append(i)
            live = left
        done += len(chunk)
        report(done)
    return matches


def _summed(request: Request, answers: Sequence[Answer]) -> Likelihood:
    logs = np.concatenate([answer.log_probs for answer in answers])
    best = np.concatenate([answer.best for answer in answers])
    greedy = bool((best == request.ids[request.start :]).all())
    return Likelihood(float(logs.sum()), 0.0, greedy)


def _score(
    reader: Reader,
    requests: Sequence[Request],
    report: Report,
    passes: Callable[[Request], int],
    queries: Callable[[Request], list[Query]],
    value: Callable[[Request, Sequence[Answer]], Likelihood],
) -> list[Likelihood]:
    """Answer the queries of all requests, many requests at a time, and sum them up.

    An empty continuation has the likelihood 1. `report` hears how many requests are done.
    """
    results = [Likelihood(0.0, 0.0, True)] * len(requests)
    order = [i for i in range(len(requests)) if requests[i].scored]
    # Padded rows are all of one length; choices of a question, which share rows, then go together.
    order.sort(key=lambda i: requests[i].key if reader.pad_to else len(requests[i].ids))
    done = len(requests) - len(order)
    for chunk in _chunks(requests, order, passes, reader):
        passes_of = [queries(requests[i]) for i in chunk]
        answers = iter(reader.answer([query for each in passes_of for query in each]))
        for i, each in zip(chunk, passes_of, strict=True):
            results[i] = value(requests[i], [next(answers) for _ in each])
        done += len(chunk)
        report(done)
    return results


def _chunks(
    requests: Sequence[Request],
    order: Sequence[int],
    passes: Callable[[Request], int],
    reader: Reader,
) -> Iterator[list[int]]:
    """Parts of `order`, in order, each some dozens of batches large, so that memory is bounded."""
    chunk: list[int] = []
    tokens = 0
    for i in order:
        chunk.append(i)
        tokens += passes(requests[i]) * max(len(requests[i].ids), reader.pad_to)
        if tokens >= _CHUNK_BATCHES * reader.batch_tokens:
            yield chunk
            chunk, tokens = [], 0
    if chunk:
        yield chunk

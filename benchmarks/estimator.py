"""Error of the MDM bound per forward pass: ours, its parts, and the paper's estimator.

    python benchmarks/estimator.py RUN [--draws 8] [--replicates 40] [--tokens 6400]

Each replicate has a seed of its own, so replicates are independent. The gain is the paper's
variance of one pass over ours per pass: how many times more passes it needs for the same error.
"reported" takes ours from the standard error that each evaluation prints (mean of squares over
replicates), "seen" from the scatter of the replicates.
"""

from __future__ import annotations

import argparse

import numpy as np

from epochal.data.opened import open_corpus
from epochal.data.windows import ScoredWindows
from epochal.interop.load import load
from epochal.likelihood.nll import Evaluator
from epochal.likelihood.paper import PaperEvaluator
from epochal.progress import bar

FEATURES = {"stratified exact counts": 0, "and unigram control": 1, "and earlier draws": 2}


def without(evaluator: Evaluator, kept: int) -> tuple[float, float]:
    """(NLL, its error) with only the first `kept` control variates."""
    for draw in evaluator._draws:
        draw.controls[kept:] = 0
        draw.products[:, :, kept:-2] = draw.products[:, :, :, kept:-2] = 0
    found = evaluator.result()
    return found.nll, found.error_draws


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--replicates", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=6400)
    given = parser.parse_args()
    loaded = load(given.run)
    store = open_corpus(loaded.recipe.data).validation
    tokens = np.asarray(store.tokens[: given.tokens])
    starts = store.document_starts()
    starts = np.append(starts[starts < len(tokens)], len(tokens))
    length, vocabulary = loaded.sequence_length, loaded.tokenizer.vocabulary
    windows = ScoredWindows(tokens, length)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in FEATURES}
    papers = []
    with bar("replicates", given.replicates) as progress:
        for seed in range(given.replicates):
            evaluator = Evaluator(
                loaded.objective, loaded.machine, windows, starts, vocabulary, 128, seed
            )
            for _ in range(given.draws):
                evaluator.add_draw(loaded.model)
            for name, kept in reversed(FEATURES.items()):
                found[name].append(without(evaluator, kept))
            paper = PaperEvaluator(loaded.objective, loaded.machine, tokens, length, 128, seed)
            paper.add_draw(loaded.model)
            papers.append(paper.result().nll)
            progress.update(seed + 1)
    variance = float(np.var(papers, ddof=1))
    print(f"paper's, one pass: mean {np.mean(papers):.4f}, error {variance**0.5:.4f}")
    print(f"ours, {given.draws} draws:")
    for name, pairs in found.items():
        nll, errors = np.array(pairs).T
        reported, seen = float(np.mean(errors**2)), float(np.var(nll, ddof=1))
        gains = [variance / (each * given.draws) for each in (reported, seen)]
        print(
            f"  {name:24s} mean {nll.mean():.4f}, error {reported**0.5:.4f}, passes saved "
            f"{gains[0]:.1f} × (reported), {gains[1]:.1f} × (seen)"
        )


if __name__ == "__main__":
    main()

"""Folders of searches and sweeps → Evidence: the best of each family, differences, crossings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from epochal.comparison import is_clear, nll_gap
from epochal.errors import EpochalError, RunError
from epochal.families import family_names
from epochal.recipe.load import read_toml
from epochal.recipe.renames import rename_tree
from epochal.report.evidence import (
    TUNED,
    USUAL,
    Best,
    CriticalCompute,
    Difference,
    Evidence,
    Penalty,
    SearchCost,
    TextEvidence,
)
from epochal.runs import NLLResult, RunRecord
from epochal.runs.comparable import mismatches
from epochal.runs.find import TUNE_FILE, find_runs
from epochal.scaling.crossing import (
    critical_compute_of_size,
    paper_critical_compute,
)
from epochal.scaling.fit import FamilyFit, fit_points
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.read import read_points
from epochal.scaling.repetition import ONE_SIZE, family_costs
from epochal.sweeps.search import Axis
from epochal.sweeps.tuned import Neighbour, Verdict

_RESAMPLES = 200
_OPEN = (Verdict.CLOSE, Verdict.BETTER, Verdict.UNTRIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A finished and evaluated run, in one of the kinds of settings that it counts for."""

    record: RunRecord
    result: NLLResult
    """Of its best checkpoint."""
    settings: str
    chosen: bool
    """Whether a search chose it as its best."""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """(family, settings, unique tokens, parameters)."""
        numbers = self.record.numbers
        return self.record.family, self.settings, numbers["unique_tokens"], numbers["params"]

    @property
    def nll(self) -> float:
        return self.result.nll_nats_per_token

    @property
    def recipe(self) -> dict[str, Any]:
        return {k: v for k, v in self.record.info["identity"].items() if k != "seed"}

    @property
    def train(self) -> dict[str, Any]:
        """The recipe's `[train]`, with today's names."""
        tree = rename_tree(read_toml(self.record.folder.recipe_file), notice=False)
        train: dict[str, Any] = tree["train"]
        return train


def find_evidence(places: Sequence[Path]) -> tuple[Evidence, list[Path]]:
    """What the places show, and the runs that it rests on most: the best, and usual settings.

    A place with a tune.json holds searches; runs of other places count with settings of the
    place's name. Without any tune.json there is no evidence. Raises RunError for damaged records.
    """
    found: list[_Run] = []
    costs: list[tuple[RunRecord, SearchCost]] = []
    folders = [folder for place in places for folder in _folders(place)]
    if not any((folder / TUNE_FILE).is_file() for folder in folders):
        return Evidence(texts=[]), []
    for folder in folders:
        try:
            found += _runs(folder, costs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{folder / TUNE_FILE} or a record beside it is damaged ({type(error).__name__}: "
                f"{error}); run `epochal tune` again or leave the folder out"
            ) from error
    texts, shown = [], []
    for group in _texts(found):
        own = [cost for record, cost in costs if not mismatches([record, group[0].record])]
        text, best = _text(group, own)
        texts.append(text)
        shown += [run.record.path for runs in best for run in runs]
    return Evidence(texts=texts), list(dict.fromkeys(shown))


def _folders(place: Path) -> Iterator[Path]:
    """The place, or folders in it that hold searches or runs."""
    inner = sorted(path.parent for path in place.glob(f"*/{TUNE_FILE}"))
    if (place / TUNE_FILE).is_file() or not inner:
        yield place
    else:
        yield from inner


def _runs(folder: Path, costs: list[tuple[RunRecord, SearchCost]]) -> Iterator[_Run]:
    """The runs of a folder; those of searches once as tuned and, some of the first search of a
    family, size and number of unique tokens, once more as usual."""
    records = {
        record.name: (record, result)
        for record in map(RunRecord, find_runs([folder]))
        if record.status == "finished" and (result := record.evaluation("best")) is not None
    }
    if not (folder / TUNE_FILE).is_file():
        for record, result in records.values():
            yield _Run(record=record, result=result, settings=folder.name, chosen=False)
        return
    for search in json.loads((folder / TUNE_FILE).read_text(encoding="utf-8"))["searches"]:
        best = Path(search["best"]["run"]).name
        if best not in records or search["best"]["nll"] is None:
            continue
        record, cost = records[best][0], _cost(search)
        again = any(
            (one.family, one.params, one.unique_tokens)
            == (cost.family, cost.params, cost.unique_tokens)
            and not mismatches([earlier, record])
            for earlier, one in costs
        )
        costs.append((record, cost))
        own = [Path(run["run"]).name for run in search["runs"]]
        own += [name for name in records if name.startswith(f"{best}-seed")]
        start = search["start"]["settings"]
        settings = {Path(run["run"]).name: run["settings"] for run in search["runs"]}
        for name in own:
            if name not in records:
                continue
            record, result = records[name]
            yield _Run(record=record, result=result, settings=TUNED, chosen=name == best)
            at = settings.get(name)
            if at is not None and not again and at | {"epochs": 0} == start | {"epochs": 0}:
                yield _Run(record=record, result=result, settings=USUAL, chosen=False)


def _cost(search: dict[str, Any]) -> SearchCost:
    return SearchCost(
        family=search["family"],
        unique_tokens=search["unique_tokens"],
        params=search["params"],
        certified=search["certified"],
        open=[
            Neighbour(
                axis=Axis(one["axis"]),
                value=one["value"],
                verdict=Verdict(one["verdict"]),
                difference=one["difference"],
                error=one["error"],
            )
            for one in search["neighbours"]
            if Verdict(one["verdict"]) in _OPEN
        ],
        **search["effort"],
    )


def _texts(runs: Iterable[_Run]) -> list[list[_Run]]:
    """Runs whose losses are on one scale."""
    groups: list[list[_Run]] = []
    for run in runs:
        for group in groups:
            if not mismatches([group[0].record, run.record]):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _text(runs: list[_Run], searches: list[SearchCost]) -> tuple[TextEvidence, list[list[_Run]]]:
    """The evidence of one text, and per best its seeds."""
    order = family_names().index
    keys = sorted(
        {run.key for run in runs}, key=lambda k: (k[2], k[3], order(k[0]), k[1] != TUNED, k[1])
    )
    best = {key: _best([run for run in runs if run.key == key]) for key in keys}
    info = runs[0].record.info["corpus"]["validation"]
    metadata = info.get("metadata", {})
    listed = metadata.get("sources", {}).get("listed") or [{}]
    result = runs[0].result
    differences = list(_differences(best))
    text = TextEvidence(
        name=str(listed[0].get("name", "a text")),
        tokenizer=str(metadata.get("tokenizer", {}).get("name", "unknown")),
        validation_sha256=info["content_sha256"],
        validation_tokens=result.tokens_scored,
        documents=result.documents,
        best=[_best_of(own, [r for r in runs if r.key == key]) for key, own in best.items()],
        searches=sorted(searches, key=lambda s: (s.unique_tokens, s.params, order(s.family))),
        differences=differences,
        critical=list(_critical(runs, differences)),
        penalties=list(_penalties(runs)),
    )
    return text, list(best.values())


def _best(runs: list[_Run]) -> list[_Run]:
    """The seeds of the best recipe: the one a search chose, else the lowest mean NLL of those
    with the most seeds."""
    seeds = [[other for other in runs if other.recipe == run.recipe] for run in runs]
    chosen = [own for run, own in zip(runs, seeds, strict=True) if run.chosen]
    most = max(map(len, seeds))
    return min(chosen or [own for own in seeds if len(own) == most], key=_mean_nll)


def _mean_nll(seeds: Sequence[_Run]) -> float:
    return float(np.mean([run.nll for run in seeds]))


def _best_of(seeds: list[_Run], runs: list[_Run]) -> Best:
    known = [run.result for run in seeds]
    family, settings, unique, params = seeds[0].key
    bits = [result.bits_per_byte for result in known if result.bits_per_byte is not None]
    train, count = seeds[0].train, len(known)
    own = float(np.std([run.nll for run in seeds], ddof=1)) if count > 1 else 0.0
    return Best(
        family=family,
        settings=settings,
        unique_tokens=unique,
        params=params,
        lr=train["lr"],
        weight_decay=train["weight_decay"],
        dropout=train.get("hidden_dropout", 0.0),
        epochs=seeds[0].record.numbers["epochs"],
        nll=_mean_nll(seeds),
        error=math.hypot(known[0].standard_error, own / count**0.5),
        bits_per_byte=float(np.mean(bits)) if len(bits) == count else None,
        seeds=count,
        frontier=_frontier(runs),
    )


def _frontier(runs: Iterable[_Run]) -> list[tuple[float, float]]:
    steps: list[tuple[float, float]] = []
    for flops, nll in sorted((run.record.numbers["flops"], run.nll) for run in runs):
        if not steps or nll < steps[-1][1]:
            steps.append((float(flops), nll))
    return steps


def _differences(best: dict[tuple[str, str, int, int], list[_Run]]) -> Iterator[Difference]:
    """Of every pair of families, per settings, U and size, and at each one's best size."""
    cells = dict.fromkeys((unique, settings) for _, settings, unique, _ in best)
    for unique, settings in cells:
        own = {k: seeds for k, seeds in best.items() if k[1:3] == (settings, unique)}
        sizes = sorted({key[3] for key in own})
        for first, second in combinations(family_names(), 2):
            for size in [*sizes, None] if len(sizes) > 1 else sizes:
                sides = [
                    min(found, key=_mean_nll)
                    for family in (first, second)
                    if (
                        found := [
                            s for k, s in own.items() if k[0] == family and size in (None, k[3])
                        ]
                    )
                ]
                if len(sides) == 2:
                    yield _difference(sides[0], sides[1], size)


def _difference(first: list[_Run], second: list[_Run], size: int | None) -> Difference:
    found = nll_gap([run.record for run in second], [run.record for run in first])
    low, high = found.interval()
    family, settings, unique, _ = first[0].key
    return Difference(
        families=(family, second[0].key[0]),
        settings=settings,
        unique_tokens=unique,
        params=size,
        difference=found.difference,
        error=found.error,
        interval=(low, high),
        seeds=(len(first), len(second)),
        clear=is_clear(found.difference, found.error),
    )


def _critical(runs: list[_Run], differences: list[Difference]) -> Iterator[CriticalCompute]:
    cells = [one for one in differences if one.params is not None]
    laws = {
        cell: _laws(runs, *cell)
        for cell in dict.fromkeys((d.settings, d.params) for d in cells if d.params)
    }
    for one in cells:
        unique, size = one.unique_tokens, one.params
        assert size is not None
        own = [
            [run for run in runs if run.key == (family, one.settings, unique, size)]
            for family in one.families
        ]
        seen = None
        if one.clear and one.difference < 0:
            plateau = min(run.nll for run in own[0])
            seen = next((flops for flops, nll in _frontier(own[1]) if nll < plateau), None)
        fits, refused = laws[one.settings, size]
        first, second = (fits.get(family) for family in one.families)
        found = first and second and critical_compute_of_size(first, second, unique, size)
        yield CriticalCompute(
            families=one.families,
            settings=one.settings,
            unique_tokens=unique,
            params=size,
            seen=seen,
            largest=max(float(run.record.numbers["flops"]) for run in own[1]),
            law=found.first_into(one.families[1]) if found else None,
            interval=found.interval if found else None,
            share=found.share if found else None,
            refused=None if found else refused,
            paper=paper_critical_compute(unique),
        )


def _points(runs: list[_Run], settings: str, params: int) -> Points:
    own = [run for run in runs if run.settings == settings and run.key[3] == params]
    return read_points([run.record.path for run in own])


def _laws(runs: list[_Run], settings: str, params: int) -> tuple[dict[str, FamilyFit], str | None]:
    """The law of each family at one size, at the best settings of each length; or why not."""
    options = FitOptions(bootstraps=_RESAMPLES, fix=ONE_SIZE)
    try:
        report = fit_points(_points(runs, settings, params), options)
    except EpochalError as error:
        return {}, str(error)
    return dict(report.families), "; ".join(report.refused.values()) or None


def _penalties(runs: list[_Run]) -> Iterator[Penalty]:
    """P at each size, with the constants fixed as in `_laws`."""
    options = FitOptions(bootstraps=_RESAMPLES)
    for settings, params in sorted({(run.settings, run.key[3]) for run in runs}):
        try:
            points = _points(runs, settings, params)
        except EpochalError:  # said of the law
            continue
        fitted, _ = family_costs(points, options)
        for cost in fitted.costs if fitted is not None else []:
            yield Penalty(
                family=cost.family,
                settings=settings,
                params=params,
                penalty=cost.penalty,
                interval=cost.interval,
                runs=cost.runs,
            )

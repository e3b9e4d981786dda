"""Several models as one: their mean prediction (ensemble), or their mean weights (average)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from epochal.errors import OptionError, RunError, UserError
from epochal.estimates import Estimate
from epochal.estimates import gap as paired_gap
from epochal.evaluation.evaluate import Scorer, distributed_eval
from epochal.evaluation.load import LoadedModel, load_run
from epochal.evaluation.options import EvalOptions
from epochal.families import families, get_family
from epochal.likelihood.nll import Averaging, Ensemble, Part
from epochal.models import Transformer
from epochal.recipe.numbers import cycle_ends
from epochal.runs import NLLResult, RunFolder, RunRecord, checkpoints, parse_run_checkpoint
from epochal.training import checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleSize:
    """Ensembles of `members` of the models: the mean over groups in which each counts as often."""

    members: int
    """K: 1, 2, … all."""
    average: Averaging
    groups: int
    """Models i, i + 1, … i + K − 1, in the order given and around its end, for each i."""
    nll_nats_per_token: float
    """Mean NLL of the groups."""
    standard_error: float
    """From draws and documents, which are the same for all K."""
    gain: float
    """Mean NLL of the models alone minus this, nats per token."""
    gain_error: float
    """Paired by draws and documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleResult:
    """NLL of an ensemble and of its members, on the same tokens with the same masks."""

    average: Averaging
    """What was averaged: the members' probabilities, or their logits."""
    ensemble: NLLResult
    members: list[NLLResult]
    names: list[str]
    best: int
    """Which member is best alone, from 0."""
    gain: float
    """NLL of the best member minus that of the ensemble, nats per token."""
    gain_error: float
    ladder: list[EnsembleSize]
    """For each K with probabilities averaged, then with logits; no logits where the models' tables
    have unlike numbers of rows."""


def ensemble(
    runs: Sequence[str | Path],
    options: EvalOptions | None = None,
    averaging: Averaging = "probabilities",
) -> EnsembleResult:
    """Score runs of one family as an ensemble: −log of the mean of their probabilities, or of the
    softmax of the mean of their logits; all of them, each alone, and 2, 3, … of them.

    A run may be given as `RUN@CHECKPOINT` (best, last, ema or a step), so that checkpoints of
    one run can be combined; a single run with `train.cycles` stands for the ends of all its cycles.
    Nothing is stored with the runs. Raises UserError for fewer than two,
    or for models that differ in family, sequence length or tokenizer, or, for logits, in the rows
    of their tables; OptionError for another `averaging`.
    """
    if averaging not in get_args(Averaging):
        raise OptionError("averaging", averaging, f"it is not {' or '.join(get_args(Averaging))}")
    given = options or EvalOptions()
    if len(runs) == 1:
        runs = _snapshots(str(runs[0]))
    if len(runs) < 2:
        raise UserError(
            "an ensemble needs at least two runs or checkpoints, or one run with `train.cycles`; "
            "give more"
        )
    with distributed_eval() as shard:
        members = [parse_run_checkpoint(str(run)) for run in runs]
        loaded = [load_run(path, name or given.checkpoint, given.device) for path, name in members]
        _check_alike(runs, loaded)
        _check_averages(loaded[0].family)
        scorer = Scorer.of(RunRecord(members[0][0]), loaded[0], given, shard)
        models = tuple(one.model for one in loaded)
        if averaging == "logits":
            _check_rows(runs, models)
        single, ladder = _parts(models)
        everything = Ensemble(models, averaging, (*single, *ladder))
        together, whole = scorer.score(loaded[0], everything, f"ensemble of {len(loaded)}", given)
        found = [one.result() for one in scorer.evaluator.parts]
    each, sizes = found[: len(single)], found[len(single) :]
    best = min(range(len(each)), key=lambda number: each[number].nll)
    gain = paired_gap(each[best], whole)
    return EnsembleResult(
        average=averaging,
        ensemble=together,
        members=[
            scorer.result(one, estimate, f"step {one.step}", together.seconds)
            for one, estimate in zip(loaded, each, strict=True)
        ],
        names=[str(run) for run in runs],
        best=best,
        gain=gain.difference,
        gain_error=gain.error,
        ladder=[
            _size(part, estimate, sizes[0]) for part, estimate in zip(ladder, sizes, strict=True)
        ],
    )


def _check_averages(family: str) -> None:
    if not get_family(family).cross_entropy:
        able = ", ".join(one.name for one in families() if one.cross_entropy)
        raise UserError(
            f"{get_family(family).title} models cannot be scored as an ensemble: their loss is not "
            f"the NLL of tokens; give runs of {able}"
        )


def _snapshots(run: str) -> list[str]:
    """The ends of a run's cycles as `RUN@STEP`."""
    path, checkpoint_name = parse_run_checkpoint(run)
    if checkpoint_name is not None:
        return [run]
    record = RunRecord(path)
    ends = cycle_ends(record.recipe.train, int(record.numbers["steps"]))
    return [f"{path}@{step}" for step in ends]


def _parts(models: Sequence[Transformer]) -> tuple[list[Part], list[Part]]:
    """(each model alone, the ladder): for each K and what is averaged, all groups of K
    neighbours in a ring, so that the chance of who is a member is the same for every K."""
    count = len(models)
    alike = len({len(model.table) for model in models}) == 1
    rings = [
        tuple(sorted({tuple(sorted((i + k) % count for k in range(size))) for i in range(count)}))
        for size in range(1, count + 1)
    ]
    averages: tuple[Averaging, ...] = get_args(Averaging) if alike else ("probabilities",)
    ladder = [Part(groups, average) for average in averages for groups in rings]
    return [Part(((number,),)) for number in range(count)], ladder


def _size(part: Part, found: Estimate, alone: Estimate) -> EnsembleSize:
    gain = paired_gap(alone, found)
    return EnsembleSize(
        members=len(part.groups[0]),
        average=part.average,
        groups=len(part.groups),
        nll_nats_per_token=found.nll,
        standard_error=found.error,
        gain=gain.difference,
        gain_error=gain.error,
    )


def average(runs: Sequence[str | Path], out: str | Path, last: int | None = None) -> RunRecord:
    """A new run in folder `out` whose best checkpoint is the mean of others' weights.

    Of one run: its newest `last` checkpoints (all of them if not given), each step once. Of
    several: the best checkpoint of each, or `RUN@CHECKPOINT`. Weights are averaged in float64.
    Raises UserError for fewer than two checkpoints or models of another shape, RunError if
    `out` already exists.
    """
    if (Path(out) / "run.json").exists():
        raise RunError(f"{out} is already a run; give another folder")
    wanted = _checkpoints([str(run) for run in runs], last)
    if len(wanted) < 2:
        raise UserError(
            f"{runs[0]} has a single checkpoint, so there is nothing to average; keep more with "
            "`checkpoint.keep` or `checkpoint.keep_every`, or give several runs"
        )
    members = [load_run(record.path, name, "cpu") for record, name in wanted]
    _check_alike([record.path for record, _ in wanted], members)
    model = members[0].model
    with torch.no_grad():
        weights = [dict(one.model.named_parameters()) for one in members]
        for name, weight in model.named_parameters():
            mean = sum(each[name].double() for each in weights) / len(weights)
            weight.copy_(torch.as_tensor(mean))
    source, folder = wanted[0][0], RunFolder(Path(out))
    step = max(one.step for one in members)
    state = checkpoint.TrainState(source.family, step=step)
    checkpoint.save(folder.checkpoints, "best", state, model)
    folder.write_recipe(source.recipe)
    members[0].tokenizer.save(folder.tokenizer_file)
    made_of = [
        f"{record.path}@{one.step}" for (record, _), one in zip(wanted, members, strict=True)
    ]
    folder.write_info(
        source.info | {"status": "finished", "best": {"step": step}, "average_of": made_of}
    )
    return RunRecord(out)


def _checkpoints(runs: Sequence[str], last: int | None) -> list[tuple[RunRecord, str | None]]:
    """(run, checkpoint) of all that is to be averaged."""
    if last is not None and last < 2:
        raise UserError(f"last = {last}: at least 2 checkpoints make an average")
    if len(runs) > 1:
        if last is not None:
            raise UserError("`last` counts the checkpoints of one run; give a single run with it")
        return [(RunRecord(path), name) for path, name in map(parse_run_checkpoint, runs)]
    if parse_run_checkpoint(runs[0])[1] is not None:
        raise UserError(
            f"{runs[0]} is a single checkpoint, so there is nothing to average; give several, or "
            "the run alone for all that it keeps"
        )
    record = RunRecord(runs[0])
    steps = sorted({step for step, _ in checkpoints.list_checkpoints(record.folder.checkpoints)})
    if last is not None and last > len(steps):
        raise UserError(
            f"last = {last}: {record.path} has checkpoints of {len(steps)} steps only; keep more "
            "with `checkpoint.keep` or `checkpoint.keep_every`"
        )
    return [(record, str(step)) for step in (steps if last is None else steps[-last:])]


def _check_rows(names: Sequence[str | Path], models: Sequence[Transformer]) -> None:
    """Models whose logits are of the same ids."""
    rows = [len(model.table) for model in models]
    for name, count in zip(names, rows, strict=True):
        if count != rows[0]:
            raise UserError(
                f"{names[0]} and {name} have tables of {rows[0]:,} and {count:,} rows "
                "(`model.padded_vocab_size`), so their logits have no mean; average their "
                "probabilities"
            )


def _check_alike(names: Sequence[str | Path], loaded: Sequence[LoadedModel]) -> None:
    """Models that score the same problems. For averages `load` checks the shapes besides."""
    first = loaded[0]
    for name, one in zip(names[1:], loaded[1:], strict=True):
        for what, left, right in (
            ("family", first.family, one.family),
            ("`data.sequence_length`", first.sequence_length, one.sequence_length),
            ("tokenizer", first.tokenizer.sha256, one.tokenizer.sha256),
        ):
            if left != right:
                raise UserError(
                    f"{names[0]} and {name} differ in {what}, so they cannot be combined"
                )

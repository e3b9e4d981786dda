"""Train one run: from a recipe to a run record."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from epochal import files
from epochal._version import __version__
from epochal.data.blend import row_order
from epochal.data.corpus import Corpus, open_corpus
from epochal.data.rows import Order, ScoredWindows
from epochal.data.store import TokenStore
from epochal.data.subset import warn_unshuffled_subset
from epochal.data.text_facts import TextFacts
from epochal.device import Machine, deterministic_kernels, find_machine
from epochal.errors import RecipeError, RunError
from epochal.families import get_family
from epochal.likelihood.draws import EvalShard
from epochal.likelihood.nll import Evaluator
from epochal.models import Transformer, initialise
from epochal.objectives import objective
from epochal.progress import say
from epochal.recipe import Recipe, RecipeLike, RunNumbers, load_recipe, run_numbers
from epochal.recipe.load import differing_keys
from epochal.recipe.numbers import MICRO_BATCH_TOKENS
from epochal.results import to_json
from epochal.runs import RunFolder, RunRecord, read_lines
from epochal.runs.record import FORMAT
from epochal.runs.teachers import Teacher, run_identity
from epochal.scaling.advisor import advise, progress_text
from epochal.scaling.law import read_laws
from epochal.training.branch import Start, find_start
from epochal.training.logger import RunLogger
from epochal.training.loop import Advise, Evaluate, Loop
from epochal.training.optim import grad_clip_microbatches, make_average, make_optimizer
from epochal.training.parallel.mesh import MeshPlan, plan_mesh
from epochal.training.parallel.parallelize import copy_into_shard, parallelize
from epochal.training.parallel.world import (
    World,
    local_device,
    open_world,
    process_count,
    report_errors_once,
)
from epochal.training.precision import runs_in_bf16
from epochal.training.profile import ProfiledStepper
from epochal.training.room import check_room
from epochal.training.step import Stepper
from epochal.training.teachers import check_teachers, load_teachers


@report_errors_once()
def train(
    recipe: RecipeLike = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    restart: bool = False,
    profile: bool = False,
    comparable: bool = False,
) -> RunRecord:
    """Train a model from a recipe, or resume its run; return the run's record.

    `recipe` is a TOML file, a shipped recipe's name, a Recipe, or None for the defaults;
    `overrides` are like ["train.epochs=20"] or {"train.epochs": 20}. A finished run is
    returned as it is; `restart` archives an existing run first; `profile` writes a trace of a
    few steps; `comparable` leaves the precision "auto" on a CPU at fp32, as in runs of a sweep.
    Started by torchrun, all its processes train the run together, as `[parallel]`
    says. Raises RecipeError, DataError, RunError, CheckpointError or StorageError for what the
    user can fix, TrainingStopped and TrainingDiverged for a run that ended early.
    """
    settings = load_recipe(recipe, overrides)
    corpus = open_corpus(settings.data)
    numbers = run_numbers(settings, corpus.train.unique_tokens, corpus.tokenizer.vocabulary)
    plan = plan_mesh(settings, process_count(), corpus.tokenizer.vocabulary)
    teachers = check_teachers(settings, corpus.tokenizer)
    machine = local_device(find_machine(settings.train))
    folder = _run_folder(settings)
    with open_world(plan, machine, settings.parallel.timeout) as world, ExitStack() as held:
        bf16 = world.run_on_rank_zero(
            lambda: runs_in_bf16(
                settings, numbers, machine, None if restart else folder.read_info(), comparable
            )
        )
        computing = replace(machine, bf16=bf16)
        info = run_info(settings, corpus, numbers, computing, plan, teachers)
        finished, start = world.run_on_rank_zero(
            lambda: _prepare(settings, corpus, numbers, info, restart, held)
        )
        if finished:
            return RunRecord(folder.path)
        world.run_on_rank_zero(lambda: check_room(settings, numbers, computing, plan, folder.path))
        with (
            deterministic_kernels(settings.train.deterministic),
            RunLogger(folder, info, settings.log, world.main) as logger,
        ):
            profiled = profile and world.main
            loop = _loop(settings, corpus, numbers, computing, folder, logger, world, profiled)
            loop.start = None if start is None else start.checkpoint
            loop.run()
            if isinstance(loop.stepper, ProfiledStepper):
                loop.stepper.report()
        world.barrier()
    return RunRecord(folder.path)


def _prepare(
    settings: Recipe,
    corpus: Corpus,
    numbers: RunNumbers,
    info: dict[str, Any],
    restart: bool,
    held: ExitStack,
) -> tuple[bool, Start | None]:
    """(whether the run is finished, where it branches off): lock the run's folder and write what
    identifies the run, on rank 0. `info` takes over what an earlier session wrote."""
    folder = _run_folder(settings)
    held.enter_context(folder.lock())
    if restart:
        archive_run(folder)
    old = folder.read_info()
    start = find_start(settings, numbers, info["identity"], old)
    if start is not None:
        info["start"] = to_json(start)
    if old is not None:
        changed = _check_same_run(folder, old["identity"], info["identity"])
        new = ("identity", "identity_sha256") if changed and old["status"] != "finished" else ()
        info |= {key: old[key] for key in old if key not in ("software", "machine", *new)}
        if old["status"] == "finished":
            say(f"{folder.path} is already finished; nothing to do")
            return True, None
    if old is None and isinstance(corpus.train, TokenStore):
        warn_unshuffled_subset(corpus.train.metadata)
    folder.write_recipe(settings)
    corpus.tokenizer.save(folder.tokenizer_file)
    return False, start


def _check_same_run(folder: RunFolder, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether `new` differs from the folder's identity `old` in keys that may change on resume
    (`on_nan`, `on_spike` of a run that has stopped at every fault so far).

    Raises RunError, naming what differs, if it is the identity of another run.
    """
    differing = differing_keys(old, new)
    if not differing:
        return old != new
    changes = ", ".join(f"`{key}` {old.get(key)!r} → {new.get(key)!r}" for key in differing[:4])
    more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
    raise RunError(
        f"{folder.path} holds a run with other settings: {changes}{more}. Give this run another "
        "folder with run_dir=…, or add --restart to archive the existing run and start over"
    )


def build_model(settings: Recipe, vocabulary: int) -> Transformer:
    """The recipe's model with its initial weights, on the CPU. Raises what `bare_model` raises."""
    model = bare_model(settings, vocabulary).to_empty(device="cpu")
    initialise(model, settings.seed, std=settings.model.init_std)
    return model


def bare_model(settings: Recipe, vocabulary: int) -> Transformer:
    """The recipe's model without weights, on the meta device; `to_empty` gives it room for them.

    Raises RecipeError if the family needs a mask token and the embedding has no row for it.
    """
    shape = settings.model.architecture()
    family = get_family(settings.family)
    if family.mask_token and shape.rows(vocabulary) <= vocabulary:
        raise RecipeError(
            f"`model.padded_vocab_size` = {shape.padded_vocab_size} leaves no row for the mask "
            f"beside the tokenizer's {vocabulary} tokens; {family.title} needs at least "
            f"{vocabulary + 1}"
        )
    with torch.device("meta"):
        return Transformer(
            shape,
            vocabulary,
            norm_eps=settings.model.norm_eps,
            rope_theta=settings.model.rope_theta,
            attention_dropout=settings.train.attention_dropout,
            hidden_dropout=settings.train.hidden_dropout,
            embedding_dropout=settings.train.embedding_dropout,
        )


def evaluation_batch(settings: Recipe) -> int:
    """Rows per forward pass in evaluation."""
    return settings.eval.batch_size or max(1, MICRO_BATCH_TOKENS // settings.data.sequence_length)


def _run_folder(settings: Recipe) -> RunFolder:
    """The recipe's run folder."""
    return RunFolder(Path(settings.run_dir or f"runs/run-{settings.family}"))


def _loop(
    settings: Recipe,
    corpus: Corpus,
    numbers: RunNumbers,
    machine: Machine,
    folder: RunFolder,
    logger: RunLogger,
    world: World,
    profile: bool,
) -> Loop:
    kind = ProfiledStepper if profile else Stepper
    stepper = make_stepper(settings, corpus, numbers, machine, world, folder.order_folder, kind)
    if isinstance(stepper, ProfiledStepper):
        stepper.folder = folder.path / "profile"
    return Loop(
        numbers=numbers,
        stepper=stepper,
        folder=folder,
        logger=logger,
        evaluate=_validation(settings, corpus, machine, world),
        advise=_advice(settings, numbers, folder),
    )


def make_stepper(
    settings: Recipe,
    corpus: Corpus,
    numbers: RunNumbers,
    machine: Machine,
    world: World | None = None,
    order_folder: Path | None = None,
    kind: type[Stepper] = Stepper,
) -> Stepper:
    """What makes the recipe's steps, from initial weights, sharded over the processes of `world`.
    Orders of rows that are computed once are kept in `order_folder`."""
    world, vocabulary = world or World(), corpus.tokenizer.vocabulary
    if world.size == 1:
        model = build_model(settings, vocabulary).to(machine.device)
    else:
        model = bare_model(settings, vocabulary)

    def fill() -> None:
        initialise(model, settings.seed, copy_into_shard, settings.model.init_std)

    def order() -> Order:
        return row_order(settings, corpus.train, numbers, order_folder)

    parallel_model = parallelize(model, fill, settings.parallel, machine, world)
    if world.size > 1:  # rank 0 writes its files
        world.run_on_rank_zero(lambda: bool(order()))
    return kind(
        settings,
        model,
        make_optimizer(model, settings.train, grad_clip_microbatches(settings)),
        objective(settings, corpus.tokenizer.mask, numbers.epochs),
        order(),
        machine,
        parallel_model,
        load_teachers(settings, corpus.tokenizer, machine, bare_model),
        make_average(model, settings.train, numbers),
        TextFacts(corpus.train, corpus.tokenizer, numbers.rows_per_epoch),
    )


def _advice(settings: Recipe, numbers: RunNumbers, folder: RunFolder) -> Advise:
    """What the progress line says about the validation curve, and about the law if one is given."""
    laws = read_laws(settings.log.law) if settings.log.law is not None else {}
    law = laws.get(settings.family)
    if settings.log.law is not None and law is None:
        say(f"`log.law` = {settings.log.law} has no law of the family {settings.family}; not used")

    def advice(seconds: float) -> str:
        lines = [line for line in read_lines(folder.metrics_file) if line["kind"] == "eval"]
        return progress_text(advise(lines, law, numbers=to_json(numbers), seconds=seconds))

    return advice


def _validation(settings: Recipe, corpus: Corpus, machine: Machine, world: World) -> Evaluate:
    """Validation during training: the same rows and draws each time, distributed over the
    processes; all get the same result."""
    windows = ScoredWindows(
        corpus.validation.tokens, settings.data.sequence_length, settings.eval.max_tokens
    )
    evaluator = Evaluator(
        objective(settings, corpus.tokenizer.mask),
        machine,
        windows,
        corpus.validation.document_starts,
        corpus.tokenizer.vocabulary,
        evaluation_batch(settings),
        shard=EvalShard(world.data_rank, world.plan.data, world.all_reduce_sum),
    )

    def evaluate(model: Transformer) -> dict[str, float]:
        evaluator.clear()
        for _ in range(1 if evaluator.objective.exact else settings.eval.draws):
            evaluator.add_draw(model)
        return {"nll_nats_per_token": evaluator.result().nll}

    return evaluate


def run_info(
    settings: Recipe,
    corpus: Corpus | None,
    numbers: RunNumbers,
    machine: Machine,
    plan: MeshPlan | None = None,
    teachers: Sequence[Teacher] = (),
) -> dict[str, Any]:
    """Content of run.json, except the status; without a corpus (an import) no facts about one."""
    stores = {"train": corpus.train, "validation": corpus.validation} if corpus else {}
    what = run_identity(settings, teachers) | (corpus.identity() if corpus else {})
    return {
        "format": FORMAT,
        "family": settings.family,
        "identity": what,
        "identity_sha256": files.sha256_json(what),
        "numbers": to_json(numbers),
        "corpus": {
            role: {
                "unique_tokens": store.unique_tokens,
                "documents": store.documents,
                "content_sha256": store.content_sha256,
                "metadata": store.metadata.as_json() if store.metadata else None,
            }
            for role, store in stores.items()
        },
        "software": {
            "epochal": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "device": machine.title,
            "precision": machine.precision,
            "compiled": machine.compiled,
            "processes": to_json(plan or MeshPlan()),
        },
        **({"teachers": to_json(teachers)} if teachers else {}),
    }


def archive_run(folder: RunFolder) -> None:
    """Move the content of the run's folder to `<folder>.old-1` (or the next free number)."""
    content = [path for path in folder.path.iterdir() if path.name not in (".lock", ".owner.json")]
    if not content:
        return
    number = 1
    while (archive := folder.path.with_name(f"{folder.path.name}.old-{number}")).exists():
        number += 1
    with files.storage_errors(archive):
        archive.mkdir()
        for path in content:
            os.rename(path, archive / path.name)  # noqa: PTH104 (Path.rename would do the same)
    say(f"the existing run is archived in {archive}")

"""A plan → recipes that can be trained as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from epochal import files
from epochal.errors import RecipeError, UserError
from epochal.families import get_family
from epochal.recipe import Recipe, recipe_from_tree, recipe_toml
from epochal.recipe.estimate import Sharding, estimate_memory
from epochal.recipe.schema import Data, Evaluation, Parallel, Train
from epochal.results import Note, note
from epochal.scaling.law import ScalingLaw
from epochal.scaling.notes import PlanNote
from epochal.scaling.optimum import model_for
from epochal.scaling.planner import FamilyPlan, PlanReport, recipe_length
from epochal.sizes import LADDER, gpu_memory
from epochal.units import Interval, format_count

_STEPS = 2000
_USED = 0.9
"""Share of a GPU's memory that a run may take; CUDA and the allocator need the rest."""


def plan_recipe(
    plan: FamilyPlan, unique_tokens: float, vocabulary: int, corpus: str = "corpus"
) -> Recipe:
    """The recipe of one family's plan.

    The size is the plan's own if it is of the ladder, else one near the optimum; the length is
    the plan's compute. Rows are as long as those of the fitted runs (`recipe_length`) and the
    batch is the paper's 256 rows, or less where that would leave fewer than about 2,000 steps.
    """
    model = model_for(plan.params, vocabulary)
    if plan.size is not None and plan.size.name in LADDER:
        model = replace(model, size=plan.size.name, d_model=None, layers=None, heads=None)
    elif plan.size is not None:
        model = model_for(plan.size.params, vocabulary)
    params = model.architecture().params(vocabulary)
    length = recipe_length(plan, unique_tokens)
    tokens = plan.flops / (6 * params)
    batch = 256
    while batch > 1 and tokens / (length * batch) < _STEPS:
        batch //= 2
    return Recipe(
        family=plan.family,
        data=Data(corpus=corpus, unique_tokens=int(unique_tokens), sequence_length=length),
        model=model,
        train=Train(epochs=float(f"{tokens / unique_tokens:.6g}"), global_batch_size=batch),
        eval=replace(Evaluation(), every=Interval(2, "percent")),
    )


def memory_notes(report: PlanReport, gpus: int, gpu: str, vocabulary: int) -> list[Note]:
    """A note for each family whose recipe needs sharding, or does not fit even so.

    Estimated as `epochal train --dry-run` does, with one row per micro-batch: first with the whole
    state on each GPU, then with ZeRO 3 over all `gpus` and full activation checkpointing.
    """
    memory = gpu_memory(gpu)
    notes = []
    for plan in report.families:
        recipe = plan_recipe(plan, report.unique_tokens, vocabulary)
        recipe = replace(recipe, train=replace(recipe.train, micro_batch_size=1))
        whole = estimate_memory(recipe, vocabulary).total
        if whole <= _USED * memory:
            continue
        cut = Sharding(
            data=gpus, weights=gpus, gradients=gpus, optimizer=gpus, checkpointing="full"
        )
        recipe = replace(recipe, parallel=Parallel(zero=3, activation_checkpointing="full"))
        sharded = estimate_memory(recipe, vocabulary, cut).total
        code = PlanNote.NEEDS_SHARDING if sharded <= _USED * memory else PlanNote.DOES_NOT_FIT
        values = {"gpu": gpu, "gpus": gpus, "memory": memory, "whole": whole, "sharded": sharded}
        notes.append(note(code, family=plan.family, **values))
    return notes


def like_run(plan: Recipe, run: Recipe) -> Recipe:
    """`plan`'s size and length, with all else as `run` was trained: rows, batch, rate, data.

    Its folder, its trunk and how it was parallelised are left out.
    """
    model, length = plan.model, plan.train
    kept = run.model
    return replace(
        run,
        run_dir=None,
        data=replace(run.data, unique_tokens=plan.data.unique_tokens),
        model=replace(
            model,
            tie_embeddings=kept.tie_embeddings,
            rope_theta=kept.rope_theta,
            norm_eps=kept.norm_eps,
            init_std=kept.init_std,
            padded_vocab_size=kept.padded_vocab_size,
        ),
        train=replace(
            run.train,
            epochs=length.epochs,
            tokens=None,
            steps=None,
            flops=None,
            micro_batch_size=None,
            start_from=None,
            start_step=None,
        ),
        checkpoint=replace(run.checkpoint, keep_at=()),
        parallel=plan.parallel,
    )


def recipe_by_law(
    plan: FamilyPlan, law: ScalingLaw, report: PlanReport, corpus: str | None = None
) -> Recipe:
    """The recipe of one family's plan, as the law's runs were trained if it carries a recipe.

    `corpus` is the folder to train on; None: that of the runs, or "corpus". Raises UserError for
    a law file whose recipe cannot be read.
    """
    planned = plan_recipe(plan, report.unique_tokens, report.vocabulary, corpus or "corpus")
    if law.recipe is None:
        return planned
    try:
        run = recipe_from_tree(dict(law.recipe))
    except RecipeError as error:
        raise UserError(
            f"{law.source}: the recipe of {plan.family} cannot be read ({error}); fit the law "
            "again with `epochal fit RUNS --out`, or remove the recipe from the file"
        ) from None
    alike = like_run(planned, run)
    data = planned.data if corpus else alike.data
    return replace(alike, data=replace(data, sequence_length=planned.data.sequence_length))


def write_recipes(
    path: str | Path,
    report: PlanReport,
    laws: Mapping[str, ScalingLaw],
    corpus: str | None = None,
) -> list[Path]:
    """Write the recommended family's recipe to `path`, the others' beside it with their names.

    If no family beats all others, the one with the lowest prediction is the first. Raises
    UserError for a law whose recipe cannot be read.
    """
    path = Path(path)
    order = sorted(report.families, key=lambda p: (p.family != report.winner, p.loss))
    written = []
    for number, plan in enumerate(order):
        place = path if number == 0 else path.with_name(f"{path.stem}-{plan.family}{path.suffix}")
        law = laws[plan.family]
        recipe = recipe_by_law(plan, law, report, corpus)
        files.write_text(place, _head(plan, report, law) + recipe_toml(recipe))
        written.append(place)
    return written


def _head(plan: FamilyPlan, report: PlanReport, law: ScalingLaw) -> str:
    size = f"{format_count(plan.params)} parameters"
    passes = plan.tokens / report.unique_tokens  # plan.epochs is 1 for a part of an epoch
    length = "1 epoch" if round(passes, 4) == 1 else f"{passes:.4g} epochs"
    if passes < 1:
        length = f"{passes:.4g} of an epoch"
    return (
        f"# {get_family(plan.family).title}, from `epochal plan` for "
        f"{format_count(report.unique_tokens)} unique tokens and {format_count(report.flops)} "
        "FLOPs.\n"
        f"# Predicted loss {plan.loss:.4f} nats per token at {size} and {length}.\n"
        + (
            "# Batch, learning rate, dropout and the rest are defaults: set those of your runs.\n"
            if law.recipe is None
            else "# All but size and length as in the law's best run.\n"
        )
    )

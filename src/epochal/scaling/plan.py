"""From unique tokens and a budget to a decision, and to a recipe that trains it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from epochal.data.corpus import open_corpus
from epochal.data.duplicates import measure_duplicates
from epochal.errors import OptionError, RecipeError, UserError
from epochal.recipe import Recipe, recipe_from_tree
from epochal.recipe.estimate import Sharding, estimate_memory
from epochal.recipe.schema import Data, Evaluation, Parallel, Train
from epochal.results import Note, note
from epochal.scaling.law import ScalingLaw, read_laws
from epochal.scaling.optimum import model_for
from epochal.scaling.options import PlanOptions
from epochal.scaling.planner import (
    CriticalDataReport,
    FamilyPlan,
    PlanNote,
    PlanReport,
    make_critical_data,
    make_plan,
    recipe_length,
)
from epochal.sizes import DEFAULT_MFU, GPT2_VOCABULARY, LADDER, get_gpu
from epochal.units import Interval

PRESETS = {
    "paper": (PlanNote.PAPER_CONSTANTS, PlanNote.PAPER_FIT, PlanNote.PAPER_BEST_RUNS),
    "paper-grid": (PlanNote.GRID_CONSTANTS, PlanNote.GRID_ONE_BUDGET),
    "muennighoff": (PlanNote.MUENNIGHOFF_CONSTANTS,),
    "quokka": (PlanNote.QUOKKA_CONSTANTS, PlanNote.QUOKKA_OPTIMA),
}
"""Laws from the literature, preset_NAME.toml beside this file, and notes about each."""
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


def _memory_notes(report: PlanReport, gpus: int, gpu: str, vocabulary: int) -> list[Note]:
    """A note for each family whose recipe needs sharding, or does not fit even so.

    Estimated as `epochal train --dry-run` does, with one row per micro-batch: first with the whole
    state on each GPU, then with ZeRO 3 over all `gpus` and full activation checkpointing.
    """
    memory = get_gpu(gpu).memory
    notes = []
    for plan in report.families:
        recipe = plan_recipe(plan, report.stored_tokens, vocabulary)
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
            parametrisation=kept.parametrisation,
            base_width=kept.base_width,
            base_depth=kept.base_depth,
            base_head_dim=kept.base_head_dim,
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


def planned_recipes(
    report: PlanReport, laws: Mapping[str, ScalingLaw], corpus: str | None = None
) -> list[tuple[FamilyPlan, Recipe]]:
    """Every family's plan with its recipe, in the order of `PlanReport.ranked`.

    All but size and length is as the law's runs were trained if it carries a recipe. `corpus` is
    the folder to train on; None: that of the runs, or "corpus". Raises UserError for a law file
    whose recipe cannot be read.
    """
    planned = []
    for plan in report.ranked:
        recipe = plan_recipe(plan, report.stored_tokens, report.vocabulary, corpus or "corpus")
        law = laws[plan.family]
        if law.recipe is not None:
            try:
                run = recipe_from_tree(dict(law.recipe))
            except RecipeError as error:
                raise UserError(
                    f"{law.source}: the recipe of {plan.family} cannot be read ({error}); fit the "
                    "law again with `epochal fit RUNS --out`, or remove the recipe from the file"
                ) from None
            alike = like_run(recipe, run)
            data = recipe.data if corpus else alike.data
            length = recipe.data.sequence_length
            recipe = replace(alike, data=replace(data, sequence_length=length))
        planned.append((plan, recipe))
    return planned


def plan(
    unique_tokens: float | None = None,
    flops: float | None = None,
    options: PlanOptions | None = None,
) -> PlanReport:
    """What to train on `unique_tokens` with a budget, per family, and which family to take.

    The budget is `flops`, or GPUs and hours in `options`; a corpus there gives the unique tokens
    if they are not given. Raises UserError for a budget given twice or not at all, and for more
    unique tokens than the corpus holds.
    """
    options = options or PlanOptions()
    budget, budget_notes = _budget(flops, options)
    laws, law_notes = find_laws(options.laws)
    vocabulary = options.vocabulary
    effective = None
    if options.effective and options.corpus is not None:
        if unique_tokens is not None:
            raise OptionError(
                "unique_tokens",
                unique_tokens,
                "the effective ones of the whole corpus are measured",
            )
        effective = measure_duplicates(options.corpus).effective
        unique_tokens = effective.estimate
    if options.corpus is not None:
        corpus = open_corpus(Data(corpus=str(options.corpus)))
        vocabulary = vocabulary or corpus.tokenizer.vocabulary
        unique_tokens = unique_tokens or corpus.train.unique_tokens
        if unique_tokens > corpus.train.unique_tokens:
            raise UserError(
                f"the corpus {options.corpus} holds {corpus.train.unique_tokens:,} unique tokens, "
                f"not {unique_tokens:,.0f}; give no more, or another corpus"
            )
    if unique_tokens is None:
        raise UserError(
            "a plan needs unique_tokens, or a corpus; critical_unique_tokens needs neither"
        )
    known = [law.vocabulary for law in laws.values() if law.vocabulary is not None]
    vocabulary = vocabulary or max(known, default=GPT2_VOCABULARY)
    notes = [*budget_notes, *law_notes, *_vocabulary_notes(laws, vocabulary)]
    report = make_plan(
        laws, unique_tokens, budget, vocabulary=vocabulary, sizes=options.sizes, notes=notes
    )
    report = replace(report, effective=effective)
    if options.gpus is None:
        return report
    more = _memory_notes(report, *_gpus(options.gpus), vocabulary)
    return replace(report, notes=[*more, *report.notes])


def critical_unique_tokens(
    flops: float | None = None, options: PlanOptions | None = None
) -> CriticalDataReport:
    """At which unique tokens each of two families leads when the budget is spent.

    Raises OptionError for options that only a plan takes, UserError for laws of one family and for
    a budget given twice or not at all.
    """
    options = options or PlanOptions()
    for name in ("corpus", "sizes", "vocabulary"):
        if value := getattr(options, name):
            raise OptionError(name, value, "only a plan for given unique tokens takes it")
    budget, budget_notes = _budget(flops, options)
    laws, law_notes = find_laws(options.laws)
    return make_critical_data(laws, budget, [*budget_notes, *law_notes])


def find_laws(laws: str | Path | Any) -> tuple[dict[str, ScalingLaw], list[Note]]:
    """Laws by family, and notes about them.

    `laws` is the name of a preset, a law file, a FitReport or a mapping of families to laws. Raises
    OptionError if it is none of these.
    """
    laws = getattr(laws, "families", laws)  # of a FitReport
    if isinstance(laws, Mapping):
        return dict(laws), []
    if str(laws) in PRESETS:
        return read_preset(str(laws)), [note(code) for code in PRESETS[str(laws)]]
    if not Path(laws).is_file():
        raise OptionError(
            "laws",
            str(laws),
            f"no such laws; give {' or '.join(PRESETS)}, or a file written by "
            "`epochal fit RUNS --out law.toml`",
        )
    return read_laws(laws), []


def read_preset(name: str) -> dict[str, ScalingLaw]:
    """The laws of PRESETS, by family."""
    laws = read_laws(Path(__file__).with_name(f"preset_{name}.toml"))
    return {family: replace(law, source=name) for family, law in laws.items()}


def _vocabulary_notes(laws: Mapping[str, ScalingLaw], vocabulary: int) -> list[Note]:
    """Laws with another vocabulary than the plan."""
    return [
        note(PlanNote.OTHER_VOCABULARY, family=family, law=law.vocabulary, plan=vocabulary)
        for family, law in laws.items()
        if law.vocabulary not in (None, vocabulary)
    ]


def _budget(flops: float | None, options: PlanOptions) -> tuple[float, list[Note]]:
    gpus, hours = options.gpus, options.hours
    if flops is not None:
        if gpus is not None or hours is not None:
            raise UserError("give the budget once: flops, or gpus with hours")
        if options.mfu is not None:
            raise OptionError("mfu", options.mfu, "it needs gpus and hours, not flops")
        return flops, []
    if gpus is None or hours is None:
        raise UserError("give the budget: flops such as 1e20, or gpus such as 8xH100 with hours")
    count, name = _gpus(gpus)
    mfu, peak = DEFAULT_MFU if options.mfu is None else options.mfu, get_gpu(name).peak
    total = count * peak * mfu * 3600 * hours
    if total <= 0:
        raise OptionError("gpus", gpus, "not a GPU; write for example 8xH100")
    values = {"count": count, "gpu": name, "hours": hours, "mfu": mfu, "peak": peak}
    return total, [note(PlanNote.BUDGET_OF_GPUS, **values, flops=total)]


def _gpus(text: str) -> tuple[int, str]:
    """Number and name: 8 and H100 of 8xH100. Raises OptionError."""
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(.+?)\s*", text)
    if match is None:
        raise OptionError("gpus", text, "not a GPU; write for example 8xH100")
    return int(match[1] or 1), match[2]

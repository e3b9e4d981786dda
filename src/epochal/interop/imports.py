"""Models that other programs trained → ordinary run folders, or models in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from epochal import files
from epochal.data.corpus import Corpus, is_prepared, open_corpus
from epochal.data.tokenizer import NOT_KNOWN, Tokenizer, UnknownTokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.device import find_machine
from epochal.errors import CheckpointError, RunError, UserError
from epochal.interop import (
    ForeignModel,
    hf_tokenizer,
    is_hf,
    is_megatron,
    read_hf,
    read_megatron,
)
from epochal.interop.megatron_optimizer import MOMENTS
from epochal.models import Transformer
from epochal.recipe import Recipe, RunNumbers, run_numbers
from epochal.runs import RunFolder, RunRecord
from epochal.training import checkpoint
from epochal.training.checkpoint import TrainState
from epochal.training.optim import make_optimizer
from epochal.training.train import bare_model, build_model, run_info

"""Stands in run.json for the hash of a corpus that was not named."""
_UNIQUE = "unique_tokens"
_MOST_TOKENS = 10**15
"""More than all text there is."""


def import_megatron(
    folder: str | Path,
    out: str | Path,
    *,
    family: str | None = None,
    tokenizer: str | Path | None = None,
    vocabulary: int | None = None,
    step: int | None = None,
    optimizer: bool = False,
    corpus: str | Path | None = None,
    unique_tokens: int | None = None,
) -> RunRecord:
    """The run made in `out` from a checkpoint folder of the original (Megatron-DeepSpeed).

    `family` (ar, mdm) decides what the model is; if it is not given, the attention mask stored
    with the checkpoint tells. `tokenizer` is what `load_tokenizer` takes; without one the run
    knows ids but no text, and `vocabulary` gives the number of tokens where the checkpoint does
    not. `optimizer` brings Adam's moments along and, with a `corpus`, training can go on.
    `corpus` is the folder that the run is judged on, `unique_tokens` how many it learned from.
    Raises CheckpointError naming each file that is missing or damaged, DataError for a
    tokenizer or corpus that does not fit, RunError if `out` is in use.
    """
    named = _named_tokenizer(tokenizer, corpus)
    tokens = vocabulary if vocabulary is not None else named.vocabulary if named else None
    if vocabulary is not None and named and vocabulary != named.vocabulary:
        raise UserError(
            f"vocabulary = {vocabulary:,}, but the tokenizer {named.name} has "
            f"{named.vocabulary:,} tokens; give one of the two"
        )
    _refuse(Path(out), unique_tokens)
    model = read_megatron(folder, family=family, vocabulary=tokens, step=step, optimizer=optimizer)
    return _write_run(model, Path(out), named, corpus, unique_tokens)


def import_hf(
    folder: str | Path,
    out: str | Path,
    *,
    family: str | None = None,
    tokenizer: str | Path | None = None,
    corpus: str | Path | None = None,
    unique_tokens: int | None = None,
) -> RunRecord:
    """The run made in `out` from a model in the Hugging Face format.

    What `export_hf` wrote comes back as it was; a Llama of another origin comes if it has
    neither biases nor grouped-query attention nor scaled rotary positions. The tokenizer is
    the folder's, if `tokenizer` names no other. Raises CheckpointError, DataError, RunError.
    """
    _refuse(Path(out), unique_tokens)
    named = _named_tokenizer(tokenizer, corpus) or hf_tokenizer(folder)
    model = read_hf(folder, family=family, vocabulary=named.vocabulary if named else None)
    return _write_run(model, Path(out), named, corpus, unique_tokens)


def is_foreign(path: Path) -> bool:
    """Whether `path` is a model of another program's that can be loaded as it is."""
    return not (path / "run.json").exists() and (is_megatron(path) or is_hf(path))


def open_foreign(
    path: Path, family: str | None, tokenizer: str | Path | None
) -> tuple[Recipe, Transformer, Tokenizer, int]:
    """(recipe, model, tokenizer, step) of a model of another program's, nothing written."""
    named = _named_tokenizer(tokenizer, None) or (hf_tokenizer(path) if is_hf(path) else None)
    read = read_hf if is_hf(path) else read_megatron
    model = read(path, family=family, vocabulary=named.vocabulary if named else None)
    return model.recipe, _built(model), named or _unknown(model), model.step


def _named_tokenizer(spec: str | Path | None, corpus: str | Path | None) -> Tokenizer | None:
    if corpus is not None and (spec is None or not is_prepared(Path(corpus))):
        return Corpus.open(corpus).tokenizer  # or says what is missing
    return None if spec is None else load_tokenizer(spec)


def _unknown(model: ForeignModel) -> Tokenizer:
    return UnknownTokenizer(model.vocabulary)


def _refuse(out: Path, unique_tokens: int | None) -> None:
    if unique_tokens is not None and not 0 < unique_tokens <= _MOST_TOKENS:
        raise UserError(
            f"`unique_tokens` = {unique_tokens:g} is no number of tokens that a model can have "
            f"learned from; give one from 1 to {_MOST_TOKENS:,}, such as 100M"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is there already; give another place for the run with --out")


def _built(model: ForeignModel) -> Transformer:
    with torch.device("meta"):  # shapes alone: those that the settings tell may fill any memory
        shapes = bare_model(model.recipe, model.vocabulary)
    for name, weight in shapes.named_parameters():
        if (found := model.weights[name].shape) != weight.shape:
            raise CheckpointError(
                f"the tensor that becomes {name} has the shape {list(found)}, but by the "
                f"model's settings it should be {list(weight.shape)}"
            )
    built = build_model(model.recipe, model.vocabulary)
    built.load_state_dict(model.weights)
    if bad := [name for name, weight in built.named_parameters() if not weight.isfinite().all()]:
        raise CheckpointError(
            f"the weights hold numbers that are not finite, first in {bad[0]}; the training had "
            "diverged or the file is damaged"
        )
    return built


def _write_run(
    model: ForeignModel,
    out: Path,
    tokenizer: Tokenizer | None,
    corpus: str | Path | None,
    unique_tokens: int | None,
) -> RunRecord:
    data = dataclasses.replace(
        model.recipe.data,
        corpus=str(corpus) if corpus is not None else model.recipe.data.corpus,
        unique_tokens=unique_tokens or model.recipe.data.unique_tokens,
    )
    settings = dataclasses.replace(model.recipe, run_dir=str(out), data=data)
    opened = open_corpus(data) if corpus is not None else None
    seen = settings.train.global_batch_size * data.sequence_length * (settings.train.steps or 1)
    known = opened.train.unique_tokens if opened else unique_tokens or model.facts.get(_UNIQUE)
    unique = int(known or seen)
    built = _built(dataclasses.replace(model, recipe=settings))
    numbers = run_numbers(settings, max(unique, data.sequence_length + 1), model.vocabulary)
    info = _info(settings, opened, numbers)
    info["imported"] = {
        **model.facts,
        "step": model.step,
        "optimizer": model.moments is not None,
        "unique_tokens_known": known is not None,
    }
    unfinished = model.moments is not None and model.step < numbers.steps
    info |= {
        "status": "stopped" if unfinished else "finished",
        "best": {"step": model.step, "nll_nats_per_token": None},
        "seconds": 0.0,
    }
    with files.atomic_folder(out) as temporary:
        folder = RunFolder(temporary)
        state = TrainState(step=model.step, best_step=model.step)
        checkpoint.save(folder.checkpoints, "best", state, built)
        if model.moments is not None:
            optimizer = _optimizer(built, settings, model.moments)
            checkpoint.save(folder.checkpoints, "last", state, built, optimizer)
        folder.write_recipe(settings)
        if tokenizer is not None:
            tokenizer.save(folder.tokenizer_file)
        folder.write_metrics([])
        folder.write_info(info)
    return RunRecord(out)


def _info(settings: Recipe, corpus: Corpus | None, numbers: RunNumbers) -> dict[str, Any]:
    """run.json as training writes it; without a corpus its facts are told to be unknown."""
    machine = find_machine(dataclasses.replace(settings.train, device="cpu"))
    if corpus is not None:
        return run_info(settings, corpus, numbers, machine)
    info = run_info(settings, None, numbers, machine)
    unknown = {
        "unique_tokens": numbers.unique_tokens,
        "documents": 0,
        "content_sha256": NOT_KNOWN,
        "metadata": None,
    }
    return info | {"corpus": {"train": unknown, "validation": unknown}}


def _optimizer(
    built: Transformer, settings: Recipe, moments: dict[str, dict[str, torch.Tensor]]
) -> torch.optim.Optimizer:
    """AdamW that holds the moments, as after the step at which they were saved."""
    optimizer = make_optimizer(built, settings.train)
    for name, weight in built.named_parameters():
        # Cloned: the parts of a fused tensor, and the one step count, share memory.
        state = {
            kind: tensors[name].float().clone(memory_format=torch.contiguous_format)
            for kind, tensors in moments.items()
        }
        for kind in MOMENTS:
            found, negative = state[kind], kind == "exp_avg_sq" and bool((state[kind] < 0).any())
            if found.shape != weight.shape or negative or not found.isfinite().all():
                raise CheckpointError(
                    f"Adam's moment {kind} of {name} is damaged: it has the shape "
                    f"{list(found.shape)} (the weights {list(weight.shape)}), or holds numbers "
                    "that no moment has; import the weights alone, without --optimizer"
                )
        optimizer.state[weight] = state
    return optimizer

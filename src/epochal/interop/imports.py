"""Models that other programs trained → ordinary run folders, or models in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epochal import files
from epochal.data.corpus import Corpus, is_prepared, open_corpus
from epochal.data.tokenizer import NOT_KNOWN, Tokenizer, UnknownTokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.device import find_machine
from epochal.errors import CheckpointError, OptionError
from epochal.interop.foreign import ForeignModel
from epochal.interop.huggingface import hf_tokenizer, is_hf, read_hf
from epochal.interop.megatron import read_megatron
from epochal.interop.megatron_files import is_megatron
from epochal.interop.megatron_optimizer import MOMENTS
from epochal.interop.options import ImportOptions, MegatronOptions
from epochal.models import Transformer
from epochal.recipe import Recipe, RunNumbers, run_numbers
from epochal.runs import RunFolder, RunRecord
from epochal.training import checkpoint
from epochal.training.checkpoint import TrainState
from epochal.training.optim import make_optimizer
from epochal.training.train import bare_model, run_info


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """A run made from a model of another program."""

    run: Path
    """Its folder."""
    family: str
    imported: Mapping[str, Any]
    """Where it came from: format, folder, step, whether with the optimizer's moments, and what
    else was stored with it."""
    numbers: Mapping[str, Any]
    """Its size and length, as in run.json."""

    @classmethod
    def from_record(cls, record: RunRecord) -> ImportedRun:
        """What the record of an imported run says about it."""
        return cls(record.path, record.family, record.info["imported"], record.numbers)


def import_megatron(
    folder: str | Path, out: str | Path, options: MegatronOptions | None = None
) -> RunRecord:
    """Make a run in `out` from a checkpoint folder of the original (Megatron-DeepSpeed).

    Raises CheckpointError naming each file that is missing or damaged, DataError for a tokenizer
    or corpus that does not fit, OptionError for an option that makes no sense, RunError if `out`
    exists.
    """
    options = options or MegatronOptions()
    options.check(Path(out))
    tokenizer = _named_tokenizer(options.tokenizer, options.corpus)
    if tokenizer is not None:
        if options.vocabulary not in (None, tokenizer.vocabulary):
            raise OptionError(
                "vocabulary",
                options.vocabulary,
                f"the tokenizer {tokenizer.name} has {tokenizer.vocabulary:,} tokens; give one of "
                "the two",
            )
        options = dataclasses.replace(options, vocabulary=tokenizer.vocabulary)
    return _write_run(read_megatron(folder, options), Path(out), tokenizer, options)


def import_hf(
    folder: str | Path, out: str | Path, options: ImportOptions | None = None
) -> RunRecord:
    """Make a run in `out` from a model in the Hugging Face format.

    What `export_hf` wrote comes back as it was. A Llama of another origin is imported if it has
    neither biases nor grouped-query attention nor scaled rotary positions. Raises CheckpointError,
    DataError, OptionError and RunError as `import_megatron` does.
    """
    options = options or ImportOptions()
    options.check(Path(out))
    tokenizer = _named_tokenizer(options.tokenizer, options.corpus) or hf_tokenizer(folder)
    vocabulary = tokenizer.vocabulary if tokenizer else None
    model = read_hf(folder, family=options.family, vocabulary=vocabulary)
    return _write_run(model, Path(out), tokenizer, options)


def is_foreign(path: Path) -> bool:
    """Whether `path` is a model of another program's that can be loaded as it is."""
    return not (path / "run.json").exists() and (is_megatron(path) or is_hf(path))


def open_foreign(
    path: Path, family: str | None, tokenizer: str | Path | None
) -> tuple[Recipe, Transformer, Tokenizer, int]:
    """(recipe, model, tokenizer, step) of a model of another program; nothing is written."""
    named = _named_tokenizer(tokenizer, None) or (hf_tokenizer(path) if is_hf(path) else None)
    vocabulary = named.vocabulary if named else None
    if is_hf(path):
        model = read_hf(path, family=family, vocabulary=vocabulary)
    else:
        model = read_megatron(path, MegatronOptions(family=family, vocabulary=vocabulary))
    return model.recipe, _built(model), named or UnknownTokenizer(model.vocabulary), model.step


def _named_tokenizer(spec: str | Path | None, corpus: str | Path | None) -> Tokenizer | None:
    if corpus is not None and (spec is None or not is_prepared(Path(corpus))):
        return Corpus.open(corpus).tokenizer  # or says what is missing
    return None if spec is None else load_tokenizer(spec)


def _built(model: ForeignModel) -> Transformer:
    # Shapes alone at first: wrong settings could ask for any amount of memory.
    built = bare_model(model.recipe, model.vocabulary)
    for name, weight in built.named_parameters():
        if (found := model.weights[name].shape) != weight.shape:
            raise CheckpointError(
                f"the tensor that becomes {name} has the shape {list(found)}, but by the "
                f"model's settings it should be {list(weight.shape)}"
            )
    built.to_empty(device="cpu").load_state_dict(model.weights)
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
    options: ImportOptions,
) -> RunRecord:
    corpus, unique_tokens = options.corpus, options.unique_tokens
    data = dataclasses.replace(
        model.recipe.data,
        corpus=str(corpus) if corpus is not None else model.recipe.data.corpus,
        unique_tokens=unique_tokens or model.recipe.data.unique_tokens,
    )
    settings = dataclasses.replace(model.recipe, run_dir=str(out), data=data)
    opened = open_corpus(data) if corpus is not None else None
    seen = settings.train.global_batch_size * data.sequence_length * (settings.train.steps or 1)
    stored = model.facts.get("unique_tokens")
    known = opened.train.unique_tokens if opened else unique_tokens or stored
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
        state = TrainState(settings.family, step=model.step, best_step=model.step)
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
    """run.json as training writes it; without a corpus its facts are unknown."""
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
                    "that no moment has; import the weights alone, without the optimizer"
                )
        optimizer.state[weight] = state
    return optimizer

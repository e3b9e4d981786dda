"""A run's model → a folder in another program's format, or one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from epochal import files
from epochal._version import __version__
from epochal.data.tokenizer import Tokenizer, UnknownTokenizer
from epochal.errors import OptionError, RunError, UserError
from epochal.evaluation.load import CheckpointName, LoadedModel, load_run
from epochal.families import get_family
from epochal.interop import hf_config, huggingface
from epochal.interop.model_card import model_card
from epochal.models import folded_weights
from epochal.recipe import recipe_toml
from epochal.runs import RunRecord
from epochal.training.checkpoint import save_tensors

Dtype = Literal["float32", "bfloat16"]
_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MASK_NAMES = ("[MASK]", "<|mask|>", "<|mask_of_epochal|>")


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """A model in the Hugging Face format."""

    path: Path
    """The folder."""
    family: str
    files: list[str]
    """Names of the files in it."""
    has_tokenizer: bool
    """Whether the run had a tokenizer to write; else the model knows ids but no text."""
    auto_classes: tuple[str, ...]
    """The auto classes of `transformers` that load it and, but for `AutoModel`, give its
    likelihoods."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """Weights in one safetensors file."""

    path: Path
    """The file."""
    family: str
    step: int
    """Optimizer step of the checkpoint."""
    tensors: int
    """Number of tensors."""
    params: int
    """Number of weights in all tensors."""
    dtype: str
    bytes: int
    """Size of the file."""


def export_safetensors(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: CheckpointName | None = None,
    dtype: Dtype = "float32",
) -> ExportedFile:
    """Write the weights of a run's checkpoint to one safetensors file, under our own names.

    `out` is a file that ends in .safetensors, or a folder that gets model.safetensors. Also
    for checkpoints that many processes wrote in parts. The header has family, step, run and
    recipe. Raises RunError if the file exists, and what `load` raises.
    """
    _check_dtype(dtype)
    target = Path(out)
    if target.is_dir() or target.suffix != ".safetensors":
        target = target / "model.safetensors"
    if target.exists():
        raise RunError(f"{target} already exists; give another place for the model")
    record = RunRecord(run)
    loaded = load_run(run, checkpoint, "cpu")
    tensors = {
        name: weight.detach().to(_DTYPES[dtype]).contiguous()
        for name, weight in loaded.model.state_dict().items()
    }
    facts = {
        "format": "pt",
        "epochal": __version__,
        "run": record.name,
        "family": loaded.family,
        "step": str(loaded.step),
        "vocabulary": str(loaded.tokenizer.vocabulary),
        "recipe": recipe_toml(huggingface.portable(loaded.recipe)),
    }
    with files.atomic_path(target) as temporary:
        save_tensors(temporary, tensors, facts)
    return ExportedFile(
        path=target,
        family=loaded.family,
        step=loaded.step,
        tensors=len(tensors),
        params=sum(tensor.numel() for tensor in tensors.values()),
        dtype=dtype,
        bytes=target.stat().st_size,
    )


def _check_dtype(dtype: str) -> None:
    if dtype not in _DTYPES:
        raise OptionError("dtype", dtype, f"give one of {', '.join(_DTYPES)}")


def export_hf(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: CheckpointName | None = None,
    dtype: Dtype = "float32",
) -> ExportedFolder:
    """Write the run's model to the folder `out` in the Hugging Face format.

    A causal family becomes a stock Llama, another a model with a small class of its own beside the
    weights; both with tokenizer and model card. `checkpoint` is best or last, `dtype` the
    weights'. Raises RunError if `out` is in use, UserError for a family that no auto class of
    `transformers` can load, and what `load` raises.
    """
    _check_dtype(dtype)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} already exists; give another place for the model")
    record = RunRecord(run)
    classes = hf_config.auto_classes(get_family(record.family))
    if not classes:
        raise UserError(
            f"no auto class of transformers loads {get_family(record.family).title} models; "
            "`epochal export safetensors` writes the weights"
        )
    loaded = load_run(run, checkpoint, "cpu")
    tokenizer = loaded.tokenizer
    text = not isinstance(tokenizer, UnknownTokenizer)
    card = model_card(
        record,
        loaded.step,
        target.resolve().name,
        tokenizer.vocabulary,
        loaded.model.embedding.num_embeddings,
        tokenizer.end_token,
        mask_name(tokenizer) if text else "",
    )
    facts: dict[str, Any] = {"version": __version__, "run": record.name, "step": loaded.step}
    if (record.info.get("imported") or {}).get("unique_tokens_known", True):
        facts["unique_tokens"] = record.numbers["unique_tokens"]
    with files.atomic_folder(target) as temporary:
        names = _write_hf(loaded, text, card, facts, temporary, dtype)
    return ExportedFolder(target, loaded.family, names, text, classes)


def _write_hf(
    loaded: LoadedModel, text: bool, card: str, facts: dict[str, Any], folder: Path, dtype: Dtype
) -> list[str]:
    """Names of the files written into the empty `folder`: safetensors, JSON, TOML and README.md.

    Exporting does not wait for `transformers` and works where it is not installed. `text`:
    whether the tokenizer knows text; without it no tokenizer files are written. `facts` are for
    config.json, to be found again by `import hf`.
    """
    recipe, model, tokenizer = loaded.recipe, loaded.model, loaded.tokenizer
    tensors = {
        huggingface.their_name(name): weight.cpu().to(_DTYPES[dtype]).contiguous()
        for name, weight in folded_weights(model).items()
    }
    save_tensors(folder / huggingface.WEIGHTS, tensors, {"format": "pt"})
    rows, vocabulary = model.embedding.num_embeddings, tokenizer.vocabulary
    end, classes = tokenizer.end_of_document, hf_config.auto_classes(get_family(recipe.family))
    causal, ours = hf_config.CAUSAL in classes, classes != (hf_config.CAUSAL,)
    config = hf_config.config_of(recipe, vocabulary, rows, end, dtype, facts)
    files.write_json(folder / huggingface.CONFIG, config)
    files.write_json(folder / "generation_config.json", _generation(rows, vocabulary, end, causal))
    if text:
        mask = mask_name(tokenizer) if ours else None
        _write_tokenizer(tokenizer, folder, mask, recipe.data.sequence_length)
    if ours:
        code = Path(__file__).with_name(f"{hf_config.REMOTE_CODE}.py").read_text(encoding="utf-8")
        (folder / f"{hf_config.REMOTE_CODE}.py").write_text(code, encoding="utf-8")
    (folder / huggingface.RECIPE).write_text(
        recipe_toml(huggingface.portable(recipe)), encoding="utf-8"
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return sorted(path.name for path in folder.iterdir())


def _generation(rows: int, vocabulary: int, end: int, causal: bool) -> dict[str, Any]:
    """Ids of the padding are never drawn; a stock Llama's `generate` would know no better."""
    known: dict[str, Any] = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    if causal and rows > vocabulary:
        known["suppress_tokens"] = list(range(vocabulary, rows))
    return known


def mask_name(tokenizer: Tokenizer) -> str:
    """A name for the mask that no token has."""
    taken = {tokenizer.token_text(number) for number in range(tokenizer.vocabulary)}
    return next(name for name in _MASK_NAMES if name not in taken)


def _write_tokenizer(tokenizer: Tokenizer, folder: Path, mask: str | None, length: int) -> None:
    """tokenizer.json and what `AutoTokenizer` needs beside it: texts begin with the end of the
    document before them, as in training; the mask is one more token."""
    path = folder / huggingface.TOKENIZER
    tokenizer.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["post_processor"] = _begins_texts(content["post_processor"], tokenizer)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.end_token,
        "eos_token": tokenizer.end_token,
        "pad_token": tokenizer.end_token,
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
    }
    if mask is not None:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        token = {"id": tokenizer.mask, "content": mask, **flags, "special": True}
        content["added_tokens"].append(token)
        settings["mask_token"] = mask
    files.write_json(path, content)
    files.write_json(folder / "tokenizer_config.json", settings)


def _begins_texts(processor: dict[str, Any] | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """A post-processor of tokenizer.json that puts the end-of-document token before a text; of
    `processor` it keeps what adds no tokens."""
    known = processor or {}
    parts = known["processors"] if known.get("type") == "Sequence" else [known]
    end, number = tokenizer.end_token, tokenizer.end_of_document
    one = [{"SpecialToken": {"id": end, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    begin = {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [*one, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {end: {"id": end, "ids": [number], "tokens": [end]}},
    }
    kept = [part for part in parts if part.get("type") == "ByteLevel"]
    return {"type": "Sequence", "processors": [*kept, begin]}

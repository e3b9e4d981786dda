"""`epochal export hf`: a run's model as a folder that `transformers` loads.

Written with safetensors and JSON alone, so that exporting does not wait for `transformers`
and works where it is not installed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from epochal import files
from epochal.data.tokenizer import Tokenizer
from epochal.interop import hf_format
from epochal.models import Transformer
from epochal.recipe import Recipe, recipe_toml
from epochal.training.checkpoint import save_tensors

Dtype = Literal["float32", "bfloat16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MASK_NAMES = ("[MASK]", "<|mask|>", "<|mask_of_epochal|>")
CARD, RECIPE, TOKENIZER = "README.md", "recipe.toml", "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """What is written."""

    recipe: Recipe
    model: Transformer
    tokenizer: Tokenizer
    text: bool
    """Whether the tokenizer knows text; without it no tokenizer files are written."""
    card: str
    """README.md."""
    facts: dict[str, Any]
    """For config.json, to be found again by `import hf`."""


def write_hf(exported: Exported, folder: Path, dtype: Dtype) -> list[str]:
    """Names of the files written into the empty `folder`."""
    model, tokenizer = exported.model, exported.tokenizer
    tensors = {
        hf_format.their_name(name): weight.detach().cpu().to(DTYPES[dtype]).contiguous()
        for name, weight in model.named_parameters()
    }
    save_tensors(folder / hf_format.WEIGHTS, tensors, {"format": "pt"})
    rows, vocabulary = model.embedding.num_embeddings, tokenizer.vocabulary
    end, mdm = tokenizer.end_of_document, exported.recipe.family == "mdm"
    config = hf_format.config_of(exported.recipe, vocabulary, rows, end, dtype, exported.facts)
    files.write_json(folder / hf_format.CONFIG, config)
    files.write_json(folder / "generation_config.json", _generation(rows, vocabulary, end, mdm))
    if exported.text:
        mask = mask_name(tokenizer) if mdm else None
        _write_tokenizer(tokenizer, folder, mask, exported.recipe.data.sequence_length)
    if mdm:
        code = Path(__file__).with_name(f"{hf_format.REMOTE_CODE}.py").read_text(encoding="utf-8")
        (folder / f"{hf_format.REMOTE_CODE}.py").write_text(code, encoding="utf-8")
    (folder / RECIPE).write_text(recipe_toml(portable(exported.recipe)), encoding="utf-8")
    (folder / CARD).write_text(exported.card, encoding="utf-8")
    return sorted(path.name for path in folder.iterdir())


def portable(recipe: Recipe) -> Recipe:
    """The recipe without the places that files have on this machine."""
    names: dict[str, Any] = {
        key: Path(value).name
        for key in ("corpus", "train", "validation", "tokenizer")
        if (value := getattr(recipe.data, key)) is not None
    }
    return replace(recipe, run_dir=None, data=replace(recipe.data, **names))


def _generation(rows: int, vocabulary: int, end: int, mdm: bool) -> dict[str, Any]:
    """Ids of the padding are never drawn; a stock Llama's `generate` would know no better."""
    known: dict[str, Any] = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    if not mdm and rows > vocabulary:
        known["suppress_tokens"] = list(range(vocabulary, rows))
    return known


def mask_name(tokenizer: Tokenizer) -> str:
    """A name for the mask that no token has."""
    taken = {tokenizer.token_text(number) for number in range(tokenizer.vocabulary)}
    return next(name for name in MASK_NAMES if name not in taken)


def _write_tokenizer(tokenizer: Tokenizer, folder: Path, mask: str | None, length: int) -> None:
    """tokenizer.json and what `AutoTokenizer` needs beside it; the mask as one more token."""
    path = folder / TOKENIZER
    tokenizer.save(path)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.end_token,
        "eos_token": tokenizer.end_token,
        "pad_token": tokenizer.end_token,
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
    }
    if mask is not None:
        content = json.loads(path.read_text(encoding="utf-8"))
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        token = {"id": tokenizer.mask, "content": mask, **flags, "special": True}
        content["added_tokens"].append(token)
        files.write_json(path, content)
        settings["mask_token"] = mask
    files.write_json(folder / "tokenizer_config.json", settings)

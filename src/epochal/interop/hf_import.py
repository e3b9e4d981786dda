"""`epochal import hf`: a folder in the Hugging Face format → a model in our terms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_without_mask
from epochal.errors import CheckpointError
from epochal.interop import hf_format
from epochal.interop.foreign import ForeignModel
from epochal.recipe import Recipe, load_recipe
from epochal.recipe.load import recipe_from_tree


def is_hf(path: Path) -> bool:
    """Whether `path` looks like a model in the Hugging Face format."""
    return (path / hf_format.CONFIG).is_file()


def hf_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer in the folder without its mask token, or None if there is none."""
    path = Path(folder) / hf_format.TOKENIZER
    if not path.is_file():
        return None
    config = _config(Path(folder)) if is_hf(Path(folder)) else {}
    mask = None
    if config.get("mask_token_id") is not None:
        mask = hf_format.whole(config, "mask_token_id", 0, least=0)
    return load_without_mask(path, mask)


def read_hf(
    folder: str | Path, *, family: str | None = None, vocabulary: int | None = None
) -> ForeignModel:
    """The model in `folder`: what `epochal export hf` wrote, or any Llama of our shape.

    `vocabulary` is the tokenizer's number of tokens; by default that of config.json.
    Raises CheckpointError naming a file that is missing or damaged, and the setting of a
    model that is not ours (biases, grouped-query attention, scaled rotary positions).
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give the folder of a model")
    config = _config(path)
    kept = hf_format.table(config, hf_format.KEPT)
    rows = hf_format.whole(config, "vocab_size", 0)
    trained = hf_format.whole(kept, "vocabulary", vocabulary or rows)
    for key in ("step", "unique_tokens"):
        hf_format.whole(kept, key, 0, least=0)
    given = hf_format.family_of(config, family)
    tokens = _fitting(config, trained, vocabulary, given)
    model = hf_format.model_of(config, tokens)
    theirs = _tensors(path)
    weights = hf_format.our_tensors(theirs, model.layers or 0, not model.tie_embeddings)
    recipe = dataclasses.replace(_recipe(path, config, given), model=model)
    return ForeignModel(
        recipe=recipe,
        weights=weights,
        vocabulary=tokens,
        step=hf_format.whole(kept, "step", 0, least=0),
        facts={"format": "hf", "folder": path.resolve().name, **kept},
    )


def _fitting(config: dict[str, Any], trained: int, given: int | None, family: str) -> int:
    """The tokenizer's number of tokens, if it is the one that the model was trained with."""
    mask = hf_format.whole(config, "mask_token_id", trained, least=0)
    if family == "mdm" and mask != trained:
        raise CheckpointError(
            f"config.json has mask_token_id = {mask:,}, but here the mask is the id after the "
            f"tokenizer's tokens, {trained:,}"
        )
    if given is not None and given != trained:
        raise CheckpointError(
            f"the model was trained with a tokenizer of {trained:,} tokens, but this one has "
            f"{given:,}; name the one that fits with --tokenizer"
        )
    return trained


def _config(path: Path) -> dict[str, Any]:
    file = path / hf_format.CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} holds no model: the file {file.name} is missing; give a folder that "
            "`epochal export hf` or `save_pretrained` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} cannot be read (it holds no dictionary)")
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the files that its index names."""
    index = path / hf_format.INDEX
    names = [hf_format.WEIGHTS]
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} cannot be read ({error})") from error
        if odd := [n for n in names if not isinstance(n, str) or Path(n).name != n]:
            raise CheckpointError(f"{index} names {odd[0]!r}, which is not a file of this folder")
    if missing := [name for name in names if not (path / name).is_file()]:
        other = [file.name for file in path.glob("*.bin")]
        hint = (
            f"; {other[0]} is a pickle, which is not read: save it as safetensors" if other else ""
        )
        raise CheckpointError(f"{path} lacks {', '.join(missing)}{hint}")
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            found |= load_file(path / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path / name} is truncated or damaged ({error}); copy it again"
            ) from None
    return found


def _recipe(path: Path, config: dict[str, Any], family: str) -> Recipe:
    """The recipe kept beside the model, or one that says what config.json does."""
    if (path / hf_format.RECIPE).is_file():
        return load_recipe(path / hf_format.RECIPE, {"family": family})
    length = hf_format.whole(config, "max_position_embeddings", 2048)
    return recipe_from_tree(
        {
            "family": family,
            "data": {"sequence_length": length},
            "model": {"size": "7M"},  # replaced by the caller
            "train": {"steps": 1},
        }
    )

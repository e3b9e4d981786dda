"""The Hugging Face format: names of tensors and keys of config.json in both directions, reading.

What is written for which family is in `hf_config.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import CheckpointError
from epochal.families import family_names, get_family
from epochal.interop.foreign import ForeignModel, Tensors
from epochal.interop.hf_config import KEPT, TYPES, kind_of
from epochal.recipe import Recipe, load_recipe
from epochal.recipe.load import recipe_from_tree
from epochal.recipe.model import Model
from epochal.sizes import padded_vocabulary, swiglu_width

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
RECIPE, TOKENIZER = "recipe.toml", "tokenizer.json"
_TOO_LARGE = 2**31
_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
    "noise_level": "noise_level",
}
_OTHERS = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "partial_rotary_factor": (1, None),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
}
"""Key of config.json → the values that our transformer has."""


def their_name(ours: str) -> str:
    """`blocks.0.attention.query.weight` → `model.layers.0.self_attn.q_proj.weight`."""
    if ours in _OTHERS:
        return _OTHERS[ours]
    _, block, part = ours.removesuffix(".weight").split(".", 2)
    return f"model.layers.{block}.{_BLOCK[part]}.weight"


def _our_tensors(theirs: Mapping[str, Any], settings: Model) -> Tensors:
    """Their tensors under our names.

    Raises CheckpointError naming the first tensor that is missing or unknown.
    """
    layers, untied = settings.layers or 0, not settings.tie_embeddings
    if layers > len(theirs):  # before as many names are made as a damaged config.json says
        raise CheckpointError(
            f"config.json has num_hidden_layers = {layers:,}, but the weights hold only "
            f"{len(theirs):,} tensors; one of the two files belongs to another model"
        )
    ours = ["embedding.weight", "final_norm.weight", *(["head.weight"] if untied else [])]
    parts = [part for part in _BLOCK if part != "noise_level" or settings.noise_conditioning]
    ours += [f"blocks.{block}.{part}.weight" for block in range(layers) for part in parts]
    names = {their_name(name): name for name in ours}
    # A tied table may be written twice, and old files carry the angles of rotary positions.
    known = {name for name in theirs if name.endswith("rotary_emb.inv_freq")} | {"lm_head.weight"}
    missing = [name for name in names if name not in theirs]
    unknown = [name for name in theirs if name not in names and name not in known]
    for found, what in ((missing, "lacks the"), (unknown, "has the unknown")):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise CheckpointError(f"the model {what} tensor {found[0]}{more}")
    return {ours: theirs[name] for name, ours in names.items()}


def _family_of(config: Mapping[str, Any], given: str | None) -> str:
    """The family of what `epochal export hf` wrote; else ar for a causal Llama, mdm for one
    with `is_causal: false`.

    Raises CheckpointError for another model and for a family that contradicts the config.
    """
    kind = config.get("model_type")
    kinds = {name: kind for kind, (name, *_) in TYPES.items()}
    if kind not in kinds:
        llama, *others = kinds
        raise CheckpointError(
            f"config.json has model_type {kind!r}; only {llama} (autoregressive) and "
            f"{' and '.join(others)} (what `epochal export hf` writes) can be imported"
        )
    own = kinds[str(kind)]
    if own == "causal" and config.get("is_causal") is False:
        own = "bidirectional"
    found = TYPES[own][2]
    kept = _table(config, KEPT).get("family")
    if kept is not None:
        if kept not in family_names() or kind_of(get_family(kept)) != own:
            raise CheckpointError(
                f"config.json says that the model, of model_type {kind!r}, is of the family "
                f"{kept!r:.60}, which is none of that type here; get the file again, or add the "
                "family"
            )
        found = str(kept)
    if given is not None and given != found:
        raise CheckpointError(
            f"the family given is {given}, but by config.json the model is {found}"
        )
    return found


def _model_of(config: Mapping[str, Any], vocabulary: int) -> Model:
    """The recipe's [model] for config.json.

    Raises CheckpointError for the first key that makes another model than ours.
    """
    for key, allowed in _REQUIRED.items():
        if config.get(key) not in allowed:
            raise CheckpointError(
                f"config.json has {key} = {config[key]!r}, which this transformer does not have "
                f"(only {allowed[0]!r})"
            )
    numbers = {}
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            found = (
                f"has {key} = {config[key]!r}" if config.get(key) is not None else f"lacks {key}"
            )
            raise CheckpointError(f"config.json {found}")
        numbers[key] = int(config[key])
    heads, width = numbers["num_attention_heads"], numbers["hidden_size"]
    if config.get("num_key_value_heads") not in (heads, None):
        raise CheckpointError(
            f"config.json has num_key_value_heads = {config['num_key_value_heads']} for {heads} "
            "heads: grouped-query attention, which this transformer does not have"
        )
    rope = _table(config, "rope_parameters")
    if rope.get("rope_type", "default") != "default":
        raise CheckpointError(
            f"config.json has rope_type = {rope['rope_type']!r}: scaled rotary positions, which "
            "this transformer does not have"
        )
    rows = numbers["vocab_size"]
    return dataclasses.replace(
        Model(d_model=width, layers=numbers["num_hidden_layers"], heads=heads),
        head_dim=_whole(config, "head_dim", width // heads),
        d_ff=_whole(config, "intermediate_size", swiglu_width(width)),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        noise_conditioning=bool(config.get("noise_conditioning", False)),
        rope_theta=_positive(rope, "rope_theta", _positive(config, "rope_theta", 10000.0)),
        norm_eps=_positive(config, "rms_norm_eps", 1e-6),
        padded_vocab_size=None if rows == padded_vocabulary(vocabulary) else rows,
    )


def _table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The table under `key`, {} where there is none. Raises CheckpointError for another value."""
    found = config.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError(f"config.json has {key} = {found!r:.60}, which is not a table")
    return found


def _whole(config: Mapping[str, Any], key: str, default: int, least: int = 1) -> int:
    """The whole number under `key`, `default` where there is none, else CheckpointError."""
    found = config.get(key)
    if found is None:
        return default
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found < _TOO_LARGE:
        raise CheckpointError(
            f"config.json has {key} = {found!r:.60}, not a whole number from {least} on; get the "
            "file again"
        )
    return found


def _positive(config: Mapping[str, Any], key: str, default: float) -> float:
    found = config.get(key)
    if found is None:
        return default
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not 0 < found < math.inf:
        raise CheckpointError(
            f"config.json has {key} = {found!r:.60}, not a positive number; get the file again"
        )
    return float(found)


def portable(recipe: Recipe) -> Recipe:
    """The recipe without the places that files have on this machine."""
    names: dict[str, Any] = {
        key: Path(value).name
        for key in ("corpus", "train", "validation", "tokenizer")
        if (value := getattr(recipe.data, key)) is not None
    }
    data = dataclasses.replace(recipe.data, **names)
    return dataclasses.replace(recipe, run_dir=None, data=data)


def is_hf(path: Path) -> bool:
    """Whether `path` looks like a model in the Hugging Face format."""
    return (path / CONFIG).is_file()


def hf_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer in the folder without its mask token, or None if there is none."""
    path = Path(folder) / TOKENIZER
    if not path.is_file():
        return None
    config = _config(Path(folder)) if is_hf(Path(folder)) else {}
    mask = None
    if config.get("mask_token_id") is not None:
        mask = _whole(config, "mask_token_id", 0, least=0)
    return load_tokenizer(path, without=mask)


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
    kept = _table(config, KEPT)
    rows = _whole(config, "vocab_size", 0)
    trained = _whole(kept, "vocabulary", vocabulary or rows)
    for key in ("step", "unique_tokens"):
        _whole(kept, key, 0, least=0)
    given = _family_of(config, family)
    tokens = _fitting(config, trained, vocabulary, given)
    model = _model_of(config, tokens)
    theirs = _tensors(path)
    weights = _our_tensors(theirs, model)
    recipe = dataclasses.replace(_recipe(path, config, given), model=model)
    return ForeignModel(
        recipe=recipe,
        weights=weights,
        vocabulary=tokens,
        step=_whole(kept, "step", 0, least=0),
        facts={"format": "hf", "folder": path.resolve().name, **kept},
    )


def _fitting(config: dict[str, Any], trained: int, given: int | None, family: str) -> int:
    """The tokenizer's number of tokens, if it is the one that the model was trained with."""
    mask = _whole(config, "mask_token_id", trained, least=0)
    if get_family(family).mask_token and mask != trained:
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
    file = path / CONFIG
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
    index = path / INDEX
    names = [WEIGHTS]
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
    options: dict[str, Any] = {}
    if get_family(family).attention == "blocks":
        options = {"size": _whole(config, "block_size", 0)}
    elif config.get("noise_shift") is not None:
        options = {"shift": config["noise_shift"]}
    if (path / RECIPE).is_file():
        own = {f"{family}.{key}": value for key, value in options.items()}
        loaded = load_recipe(path / RECIPE, own, family_names())
        if loaded.family != family:
            raise CheckpointError(
                f"by config.json the model is {family}, by {RECIPE} {loaded.family}; get the files "
                "again"
            )
        return loaded
    length = _whole(config, "max_position_embeddings", 2048)
    return recipe_from_tree(
        {
            "family": family,
            "data": {"sequence_length": length},
            "model": {"size": "7M"},  # replaced by the caller
            "train": {"steps": 1},
            **({family: options} if options else {}),
        }
    )

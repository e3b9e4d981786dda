"""`epochal import megatron`: a checkpoint of the original → a model in our terms.

Facts of the formats: docs/interop.md. Layer files are read by torch's safe reader, pickled
arguments by `interop.pickles`, so that reading a stranger's checkpoint runs no code of theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from epochal.errors import CheckpointError, OptionError
from epochal.families import get_family
from epochal.interop.foreign import ForeignModel, Tensors
from epochal.interop.megatron_files import MegatronFiles, find_files
from epochal.interop.megatron_optimizer import MASTERS, read_moments
from epochal.interop.megatron_weights import (
    HEAD,
    arguments_from_weights,
    merge,
    our_names,
    read_weights,
)
from epochal.interop.options import MegatronOptions
from epochal.interop.pickles import Namespace, read_pickle
from epochal.progress import say
from epochal.recipe import Recipe
from epochal.recipe.load import recipe_from_tree
from epochal.sizes import padded_vocabulary

_REQUIRED: dict[str, Any] = {
    "swiglu": True,
    "normalization": "rmsnorm",
    "add_bias_linear": False,
    "use_rotary_position_embeddings": True,
    "rotary_percent": 1.0,
    "apply_layernorm_1p": False,
    "apply_residual_connection_post_layernorm": False,
    "add_position_embedding": False,
    "num_experts": [1],
    "use_target_position_embeddings": False,
}
"""Arguments without which the model is not the one transformer of both families."""
_TOO_LARGE = 2**24
_ARGUMENTS_FILE = "mp_rank_00_model_states.pt"
_LENGTH = 2048
"""Tokens per row of the original's runs."""
_KEPT = [
    "ar_ratio",
    "block_size",
    "randmask_ratio",
    "target_random_ratio",
    "use_order_list",
    "num_order_list",
    "use_predefined_order",
    "low_noise_start",
    "low_noise_iter",
    "low_noise_ratio",
    "bf16",
    "fp16",
    "init_method_std",
    "tokenizer_type",
    "padded_vocab_size",
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "micro_batch_size",
    "train_samples",
    "train_iters",
    "lr_decay_samples",
    "lr_warmup_samples",
    "consumed_train_samples",
    "consumed_train_tokens",
    "split",
    "train_data_path",
    "train_data_exact_num_epochs",
    "untie_with_additional_mask",
]
"""Arguments that are kept in run.json beside the recipe."""


def read_megatron(path: str | Path, options: MegatronOptions | None = None) -> ForeignModel:
    """The model in the checkpoint folder `path`, with Adam's moments if options.optimizer.

    Of the options, those about the model count: family, vocabulary, step, optimizer, heads and
    head_dim. Raises CheckpointError naming files that are missing or damaged, and settings that
    make another model than ours.
    """
    options = options or MegatronOptions()
    files = find_files(path, options.step)
    contents = [_content(file) for file in files.ranks.values()]
    if contents:
        args = _arguments(contents[0], next(iter(files.ranks.values())))
        _check_heads(args, options)
    else:
        args = _arguments_from_weights(files, options)
    _check_kind(args, files)
    hint = _family_hint(args)
    tokens = _vocabulary(contents, args, options.vocabulary, files)
    recipe = _recipe(args, _family(options.family, hint, files), tokens, files)
    shape = recipe.model.architecture()
    pieces = read_weights(files, shape.layers, not shape.tie_embeddings)
    if shape.tie_embeddings:  # a tied table is listed again where the pipeline's last stage uses it
        pieces = [{n: x for n, x in piece.items() if not n.endswith(HEAD)} for piece in pieces]
    merged = merge(pieces)
    moments = None
    if options.optimizer:
        stages = int(args.get("pipeline_model_parallel_size") or 1)
        kinds, done = read_moments(files, contents, shape, stages)
        merged |= kinds.pop(MASTERS, {})
        try:
            moments = {kind: our_names(whole, shape, tokens) for kind, whole in kinds.items()}
        except CheckpointError as error:
            raise CheckpointError(
                f"Adam's moments in {files.folder} are damaged: {error}; import the weights alone, "
                "without the optimizer"
            ) from None
        moments["step"] = dict.fromkeys(moments["exp_avg"], Tensor([done]).squeeze())
    weights: Tensors = our_names(merged, shape, tokens)
    stored_step = contents[0].get("iteration") if contents else None
    return ForeignModel(
        recipe=recipe,
        weights=weights,
        vocabulary=tokens,
        step=int(stored_step or files.step),
        moments=moments,
        facts={
            "format": "megatron",
            "folder": files.folder.name,
            "layout": files.layout,
            "family_by_stored_mask": hint,
            "arguments_stored": bool(contents),
            "arguments": {name: _plain(args[name]) for name in _KEPT if name in args},
        },
    )


def _arguments_from_weights(files: MegatronFiles, options: MegatronOptions) -> dict[str, Any]:
    """What the shapes of the layer files give, with the heads of the options.

    Raises CheckpointError if the file of arguments is needed after all.
    """
    path = files.folder / _ARGUMENTS_FILE
    if options.optimizer:
        raise CheckpointError(
            f"Adam's moments need {path}, which is missing; copy it from the original, or import "
            "the weights alone, without the optimizer"
        )
    if options.heads is None and options.head_dim is None:
        raise CheckpointError(
            f"the checkpoint {files.folder} is incomplete: this file is missing: {path.name}; copy "
            "it from the original, or give what the weights do not determine: heads or head_dim "
            "(--heads N --head-dim K)"
        )
    args = arguments_from_weights(files)
    attention = args.pop("attention_width")
    heads = options.heads or attention // (options.head_dim or 1)
    head_dim = options.head_dim or attention // heads if heads else 0
    if heads * head_dim != attention:
        name = "heads" if options.heads else "head_dim"
        raise OptionError(
            name,
            getattr(options, name),
            f"by the weights of {files.folder}, heads × head_dim is {attention}",
        )
    say(
        f"{path.name} is missing: the model's shape is read from its weights; its sequence length "
        f"and training settings are not known and become the original's defaults ({_LENGTH} tokens)"
    )
    return args | {"num_attention_heads": heads, "kv_channels": head_dim, "seq_length": _LENGTH}


def _check_heads(args: dict[str, Any], options: MegatronOptions) -> None:
    """Raise OptionError for heads that are not those of the stored arguments."""
    heads = int(args["num_attention_heads"])
    stored = {
        "heads": heads,
        "head_dim": int(args.get("kv_channels") or args["hidden_size"] // heads),
    }
    for name, value in stored.items():
        given = getattr(options, name)
        if given not in (None, value):
            raise OptionError(name, given, f"the checkpoint has {value}; leave it out")


def _content(path: Path) -> dict[str, Any]:
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint of the original: it holds no dictionary")
    return content


def _arguments(content: dict[str, Any], path: Path) -> dict[str, Any]:
    args = content.get("args")
    if not isinstance(args, Namespace):
        raise CheckpointError(
            f"{path} does not hold the arguments of the training run (`args`), without which the "
            "shape of the model is not known; copy the original file"
        )
    found = vars(args)
    needed = ("num_layers", "hidden_size", "num_attention_heads", "seq_length", "ffn_hidden_size")
    if missing := [name for name in needed if not isinstance(found.get(name), int)]:
        raise CheckpointError(f"the arguments in {path} lack {', '.join(missing)}")
    if odd := [name for name in needed if not 1 <= found[name] < _TOO_LARGE]:
        raise CheckpointError(f"the arguments in {path} have {odd[0]} = {found[odd[0]]}")
    return found


def _check_kind(args: dict[str, Any], files: MegatronFiles) -> None:
    """Raise CheckpointError for the first setting that our transformer does not have."""
    for name, wanted in _REQUIRED.items():
        if name in args and args[name] != wanted and args[name] is not None:
            raise CheckpointError(
                f"{files.folder} was trained with {name} = {args[name]!r}, but only models with "
                f"{name} = {wanted!r}, such as the original's scripts make, can be imported"
            )
    groups, heads = args.get("num_key_value_heads"), args["num_attention_heads"]
    if groups not in (None, heads):
        raise CheckpointError(
            f"{files.folder} has grouped-query attention ({groups} key-value heads for {heads} "
            "heads), which this transformer does not have"
        )


def _family_hint(args: dict[str, Any]) -> str | None:
    """What the stored attention mask says: a triangle of hidden places for AR, none for MDM."""
    mask = args.get("attn_mask")
    if not isinstance(mask, Tensor) or mask.dim() < 2 or mask.shape[-1] < 2:
        return None
    corner = mask.reshape(-1, *mask.shape[-2:])[0].bool()
    if not corner.any():
        return "mdm"
    after, before = bool(corner[0, -1]), bool(corner[-1, 0])
    return "ar" if after and not before else None


def _family(given: str | None, hint: str | None, files: MegatronFiles) -> str:
    names = ("ar", "mdm")  # those that the original trains
    if given is not None and given not in names:
        raise OptionError("family", given, f"give {' or '.join(names)}")
    if given is None and hint is None:
        raise CheckpointError(
            f"cannot infer the family of {files.folder} (no stored attention mask); pass "
            + " or ".join(f"family={name!r}" for name in names)
        )
    if given is None:
        say(f"family: {get_family(str(hint)).title}, by the stored attention mask")
        return str(hint)
    if hint is not None and hint != given:
        say(
            f"family: {get_family(given).title}, as given, though the stored attention mask is "
            f"that of {get_family(hint).title}"
        )
    return given


def _vocabulary(
    contents: list[dict[str, Any]], args: dict[str, Any], given: int | None, files: MegatronFiles
) -> int:
    """Number of tokens of the tokenizer; MDM's mask has the id after them."""
    info = contents[0].get("universal_checkpoint_info") if contents else None
    stored = info.get("original_vocab_size") if isinstance(info, dict) else None
    stored = stored or args.get("vocab_size")
    if given is not None:
        if given < 1:
            raise CheckpointError(f"vocabulary = {given}: give the tokenizer's number of tokens")
        if stored and int(stored) != given:
            say(
                f"the checkpoint was trained with {int(stored):,} tokens, but {given:,} are given, "
                f"so the mask has the id {given:,}"
            )
        return given
    if not stored:
        raise CheckpointError(
            f"{files.folder} does not store the number of tokens of its tokenizer (the table has "
            f"{args.get('padded_vocab_size')} rows with padding); give the tokenizer, or its size "
            "as vocabulary (--vocabulary), which is 50257 for GPT-2"
        )
    return int(stored)


def _recipe(args: dict[str, Any], family: str, vocabulary: int, files: MegatronFiles) -> Recipe:
    """The stored arguments, as far as a recipe has a place for them."""
    batch = int(args.get("global_batch_size") or 1)
    samples = args.get("train_samples") or (args.get("train_iters") or 0) * batch
    steps = max(int(samples) // batch, files.step, 1)
    heads = int(args["num_attention_heads"])
    rows = int(args.get("padded_vocab_size") or padded_vocabulary(vocabulary))
    warmup = (args.get("lr_warmup_samples") or 0) / (steps * batch)
    lr = float(args.get("lr") or 2e-4)
    style = args.get("lr_decay_style")
    model: dict[str, Any] = {
        "d_model": int(args["hidden_size"]),
        "layers": int(args["num_layers"]),
        "heads": heads,
        "head_dim": int(args.get("kv_channels") or args["hidden_size"] // heads),
        "d_ff": int(args["ffn_hidden_size"]),
        "tie_embeddings": not args.get("untie_embeddings_and_output_weights"),
        "rope_theta": float(args.get("rope_theta") or 10000.0),
        "norm_eps": float(args.get("layernorm_epsilon") or 1e-5),
    }
    if rows != padded_vocabulary(vocabulary):
        model["padded_vocab_size"] = rows
    train = {
        "steps": steps,
        "global_batch_size": batch,
        "lr": lr,
        "min_lr": min(float(args.get("min_lr") or 0.0), lr),
        "schedule": style if style in ("cosine", "linear", "constant") else "constant",
        "warmup": min(float(args.get("lr_warmup_fraction") or warmup), 0.99),
        "beta1": float(args.get("adam_beta1", 0.9)),
        "beta2": float(args.get("adam_beta2", 0.95)),
        "adam_eps": float(args.get("adam_eps", 1e-8)),
        "weight_decay": float(args.get("weight_decay", 0.1)),
        # Its engine clips the sum over micro-batches, ours their mean.
        "grad_clip": float(args.get("clip_grad", 1.0)) / _accumulation(args),
        "attention_dropout": float(args.get("attention_dropout", 0.1)),
        "hidden_dropout": float(args.get("hidden_dropout", 0.1)),
    }
    return recipe_from_tree(
        {
            "family": family,
            "seed": int(args.get("seed") or 0),
            "data": {
                "sequence_length": int(args["seq_length"]),
                "order": "megatron",
                "train_samples": int(samples) or steps * batch,
            },
            "model": model,
            "train": train,
            family: _ablations(args, family),
        }
    )


def _accumulation(args: dict[str, Any]) -> int:
    """Micro-batches per optimizer step."""
    rows = int(args.get("micro_batch_size") or 0) * int(args.get("data_parallel_size") or 1)
    return max(1, int(args.get("global_batch_size") or 1) // rows) if rows else 1


def _ablations(args: dict[str, Any], family: str) -> dict[str, Any]:
    """The objective's settings, which the original passes to both families."""
    if family == "ar":
        orders = max(1, int(args.get("num_order_list") or 1))
        local = orders == 1 or args.get("use_predefined_order")
        return {
            "orders": orders,
            "order_kind": "noise_sorted" if local else "random",
            "token_masking": float(args.get("randmask_ratio") or 0.0),
        }
    return {
        "ar_ratio": float(args.get("ar_ratio") or 0.0),
        "low_noise_start": bool(args.get("low_noise_start")),
        "low_noise_iters": int(args.get("low_noise_iter") or 1000),
        "low_noise_ratio": float(args.get("low_noise_ratio") or 0.5),
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)

"""Tensors of a Megatron-DeepSpeed checkpoint → one set of tensors under our names.

Their name here is "<module>.<key>", the module's number in the pipeline: 1 the embedding,
2 … L+1 the blocks, L+2 the final norm, L+3 an output table of its own. The same rules join the
pieces of weights and of Adam's moments. Shape letters: V table rows, E model width, T
tensor-parallel ranks, F inner width.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epochal.errors import CheckpointError
from epochal.interop.foreign import Tensors
from epochal.interop.megatron_files import MegatronFiles, refuse_missing
from epochal.interop.pickles import read_pickle
from epochal.sizes import Architecture

EMBEDDING, HEAD = "word_embeddings.weight", "lm_head.weight"
_BLOCK = {
    "input_layernorm.weight": ["attention_norm"],
    "self_attention.query_key_value.weight": [
        "attention.query",
        "attention.key",
        "attention.value",
    ],
    "self_attention.dense.weight": ["attention.output"],
    "post_attention_layernorm.weight": ["feed_forward_norm"],
    "mlp.dense_h_to_4h.weight": ["feed_forward.gate", "feed_forward.up"],
    "mlp.dense_4h_to_h.weight": ["feed_forward.down"],
}
"""Key of a block → our parts, in the order of its rows."""
_BY_COLUMNS = ("self_attention.dense.weight", "mlp.dense_4h_to_h.weight")


def read_weights(files: MegatronFiles, layers: int, untied: bool) -> list[Tensors]:
    """[T] tensors of each tensor-parallel rank, by their names.

    Raises CheckpointError that names missing and damaged files.
    """
    if files.layout == "layers":
        return _from_layer_files(files, layers, untied)
    found = []
    for path in files.ranks.values():
        content = read_pickle(path)
        model = content.get("module" if files.layout == "ranks" else "model")
        if not isinstance(model, Mapping):
            raise CheckpointError(
                f"{path} holds no weights, and there are no layer_<NN>-model_00-model_states.pt "
                "beside it; copy them from the original"
            )
        found.append(_from_nested(model, layers))
    return found


def _from_layer_files(files: MegatronFiles, layers: int, untied: bool) -> list[Tensors]:
    width = max(max(of_layer) for of_layer in files.layers.values()) + 1
    last = layers + (3 if untied else 2)
    refuse_missing(
        [
            files.folder / f"layer_{number:02d}-model_{rank:02d}-model_states.pt"
            for number in range(1, last + 1)
            for rank in range(width)
            if rank not in files.layers.get(number, {})
        ]
    )
    return [
        {
            f"{number}.{key}": tensor
            for number in range(1, last + 1)
            for key, tensor in _read_layer(files.layers[number][rank]).items()
        }
        for rank in range(width)
    ]


def arguments_from_weights(files: MegatronFiles) -> dict[str, Any]:
    """What the shapes of layer files give, under the names of the original's arguments.

    "attention_width" is heads × head_dim. Raises CheckpointError if the last files are missing.
    """
    last = max(files.layers)
    numbers = sorted({1, min(2, last), last})
    width = max(files.layers[last]) + 1
    merged = merge(
        [
            {
                f"{number}.{key}": tensor
                for number in numbers
                for key, tensor in _read_layer(files.layers[number][rank]).items()
            }
            for rank in range(width)
        ]
    )
    untied = f"{last}.{HEAD}" in merged
    if not untied and set(_read_layer(files.layers[last][0])) != {"weight"}:  # the final norm
        refuse_missing([files.folder / f"layer_{last + 1:02d}-model_00-model_states.pt"])
    try:
        rows, d_model = merged[f"1.{EMBEDDING}"].shape
        attention = merged["2.self_attention.dense.weight"].shape[1]
        inner = merged["2.mlp.dense_4h_to_h.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"the layer files in {files.folder} are not those of the original's model ({error})"
        ) from None
    return {
        "num_layers": last - (3 if untied else 2),
        "hidden_size": d_model,
        "ffn_hidden_size": inner,
        "padded_vocab_size": rows,
        "attention_width": attention,
        "untie_embeddings_and_output_weights": untied,
    }


def _read_layer(path: Path) -> Tensors:
    """One layer file; torch's own safe reader suffices for it."""
    try:
        content: Tensors = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not read ({str(error).splitlines()[0]})"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
        raise CheckpointError(
            f"{path} is truncated or damaged ({reason}); copy it from the original again"
        ) from None
    return content


def _from_nested(model: Mapping[str, Any], layers: int) -> Tensors:
    """Names of Megatron's nested dictionaries → "<module>.<key>"."""
    found: Tensors = {}
    for dotted, tensor in _flat(model).items():
        name = dotted.removeprefix("language_model.")
        if name == "embedding.word_embeddings.weight":
            found[f"1.{EMBEDDING}"] = tensor
        elif name in ("encoder.final_layernorm.weight", "transformer.final_layernorm.weight"):
            found[f"{layers + 2}.weight"] = tensor
        elif name in ("output_layer.weight", "lm_head.weight", "lm_head.lm_head.weight"):
            found[f"{layers + 3}.{HEAD}"] = tensor
        elif name.startswith(("encoder.layers.", "transformer.layers.")):
            _, _, number, key = name.split(".", 3)
            found[f"{int(number) + 2}.{key}"] = tensor
        else:
            found[name] = tensor
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Tensors:
    flat: Tensors = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            flat[f"{prefix}{name}"] = value
    return flat


def merge(pieces: Sequence[Tensors]) -> Tensors:
    """[T] dictionaries of one rank each → whole tensors, still under their names."""
    if len(pieces) == 1:
        return dict(pieces[0])
    names = set(pieces[0])
    for rank, piece in enumerate(pieces[1:], start=1):
        if differing := names ^ set(piece):
            raise CheckpointError(
                f"the tensor-parallel ranks 0 and {rank} do not hold the same tensors: "
                f"{', '.join(sorted(differing)[:4])}"
            )
    return {
        name: _joined(name.partition(".")[2], [piece[name] for piece in pieces]) for name in names
    }


def _joined(key: str, pieces: list[Tensor]) -> Tensor:
    if key in _BLOCK and len(_BLOCK[key]) > 1:
        # Each rank holds its share of every part: join the parts one by one.
        parts = [piece.chunk(len(_BLOCK[key])) for piece in pieces]
        return torch.cat([torch.cat(part) for part in zip(*parts, strict=True)])
    if pieces[0].dim() == 1:
        return pieces[0]
    return torch.cat(pieces, dim=1 if key in _BY_COLUMNS else 0)


def our_names(merged: Tensors, shape: Architecture, vocabulary: int) -> Tensors:
    """Whole tensors under their names → under ours, fused ones taken apart.

    With `untie_with_additional_mask` the input table has one row more than the output table:
    the mask's. It takes the place of the row of padding that is our mask id. Raises
    CheckpointError for tensors that are missing, unknown or of another shape.
    """
    rows = shape.rows(vocabulary)
    expected = _expected(shape, rows)
    where = "layer_{:02d} (module {}): {}".format
    missing = [name for name in expected if name not in merged]
    unknown = [name for name in merged if name not in expected]
    for names, what in ((missing, "lacks"), (unknown, "has the unknown")):
        if names:
            number, _, key = names[0].partition(".")
            text = where(int(number), number, key) if number.isdigit() else names[0]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"the checkpoint {what} tensor {text}{more}")
    found: Tensors = {}
    for name, (size, ours) in expected.items():
        tensor = merged[name]
        if name == f"1.{EMBEDDING}" and not shape.tie_embeddings and len(tensor) == rows + 1:
            tensor = _mask_moved(tensor, vocabulary)
        if tuple(tensor.shape) != size:
            number, _, key = name.partition(".")
            raise CheckpointError(
                f"{where(int(number), number, key)} has the shape {list(tensor.shape)}, but by "
                f"the stored arguments it should be {list(size)}"
            )
        found |= dict(zip(ours, tensor.chunk(len(ours)), strict=True))
    return found


def _mask_moved(table: Tensor, vocabulary: int) -> Tensor:
    """[V + 1, E] → [V, E]: the last row, the mask's, becomes row `vocabulary`."""
    if vocabulary >= len(table) - 1:
        raise CheckpointError(
            f"the tokenizer's {vocabulary} tokens fill the whole table, so that the additional "
            "mask row has no place among its rows; such a model cannot be imported"
        )
    table, mask = table[:-1].clone(), table[-1]
    table[vocabulary] = mask
    return table


def _expected(shape: Architecture, rows: int) -> dict[str, tuple[tuple[int, ...], list[str]]]:
    """Their name → (whole shape, our names) of every tensor there must be."""
    d, attention, inner = shape.d_model, shape.heads * shape.head_dim, shape.d_ff
    sizes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (d,),
        "self_attention.query_key_value.weight": (3 * attention, d),
        "self_attention.dense.weight": (d, attention),
        "post_attention_layernorm.weight": (d,),
        "mlp.dense_h_to_4h.weight": (2 * inner, d),
        "mlp.dense_4h_to_h.weight": (d, inner),
    }
    expected: dict[str, tuple[tuple[int, ...], list[str]]] = {
        f"1.{EMBEDDING}": ((rows, d), ["embedding.weight"])
    }
    for block in range(shape.layers):
        for key, size in sizes.items():
            ours = [f"blocks.{block}.{part}.weight" for part in _BLOCK[key]]
            expected[f"{block + 2}.{key}"] = (size, ours)
    expected[f"{shape.layers + 2}.weight"] = ((d,), ["final_norm.weight"])
    if not shape.tie_embeddings:
        expected[f"{shape.layers + 3}.{HEAD}"] = ((rows, d), ["head.weight"])
    return expected


def is_matrix(name: str) -> bool:
    """Whether a tensor, by its name, is two-dimensional; norms are not."""
    return not name.endswith("layernorm.weight") and name[name.index(".") :] != ".weight"


def module_order(shape: Architecture) -> list[str]:
    """Their names in the order of the pipeline's modules, as optimizers number them."""
    return list(_expected(shape, 1))

"""Weights and figures that the original implementation wrote (see ../shared/samples/README.md).

tests/data_files/original_{ar,mdm}.npz hold its two-layer sample models: the weights under the
original's names, every eighth row of its logits, and its loss on one batch of four.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from epochal.models import Transformer
from epochal.sizes import Architecture

FILES = Path(__file__).parent / "data_files"
FAMILIES = {"ar": "causal", "mdm": "bidirectional"}
LOGITS_EVERY = 8


def arrays(family):
    """All arrays of the kept file, by name."""
    with np.load(FILES / f"original_{family}.npz") as file:
        return {name: file[name] for name in file.files}


def pickled_weights(folder):
    """The weights in a checkpoint folder of the original, by "<layer>.<key>"."""
    weights = {}
    for path in sorted(folder.glob("layer_*-model_00-model_states.pt")):
        layer = int(path.name[6:8])
        for key, value in torch.load(path, weights_only=True).items():
            weights[f"{layer}.{key}"] = value.numpy()
    return weights


def our_model(weights):
    """Our model with the original's weights: layers 2 … are the blocks, the last is the norm."""
    shape = Architecture(d_model=48, layers=2, heads=3, head_dim=16, d_ff=128)
    model = Transformer(shape, 500)
    state = {
        "embedding.weight": weights["1.word_embeddings.weight"],
        "final_norm.weight": weights["4.weight"],
    }
    for block in (0, 1):
        theirs, ours = f"{block + 2}.", f"blocks.{block}."
        query, key, value = np.split(weights[theirs + "self_attention.query_key_value.weight"], 3)
        gate, up = np.split(weights[theirs + "mlp.dense_h_to_4h.weight"], 2)
        state |= {
            ours + "attention_norm.weight": weights[theirs + "input_layernorm.weight"],
            ours + "attention.query.weight": query,
            ours + "attention.key.weight": key,
            ours + "attention.value.weight": value,
            ours + "attention.output.weight": weights[theirs + "self_attention.dense.weight"],
            ours + "feed_forward_norm.weight": weights[theirs + "post_attention_layernorm.weight"],
            ours + "feed_forward.gate.weight": gate,
            ours + "feed_forward.up.weight": up,
            ours + "feed_forward.down.weight": weights[theirs + "mlp.dense_4h_to_h.weight"],
        }
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return model.eval()

"""What an exported model is to `transformers`, by its family's entry: type, classes, config.json.

A causal family is a stock Llama: `transformers`, vLLM and llama.cpp need no code of ours. One that
sees both sides, or blocks, has the same tensors, but another attention and another way to write,
so it is a model type of its own with its class beside the weights. A causal family that can be
read with masks, too, has a second class there. Noise that replaces tokens makes a third type: its
logits are no probabilities of the text as it is, so it has the auto class that scores nothing.
"""

from __future__ import annotations

from typing import Any

from epochal.families import Family, get_family
from epochal.recipe import Recipe

REMOTE_CODE = "modeling_epochal_mdm"
CAUSAL, MASKED, OTHER = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel"
_LLAMA = "LlamaForCausalLM"
TYPES = {
    "causal": ("llama", "EpochalDual", "ar"),
    "bidirectional": ("epochal_mdm", "EpochalMDM", "mdm"),
    "blocks": ("epochal_block", "EpochalBlock", "block"),
    "noise": ("epochal_noise", "EpochalNoise", "uniform"),
}
"""Kind of a family → model_type in config.json, the beginning of our class' name, and the family
of a model that does not say its own."""
KEPT = "epochal"
"""Key of config.json under which what only Epochal knows is kept."""


def kind_of(family: Family) -> str:
    """Its key in `TYPES`: its attention, or "noise" where its loss is no NLL of tokens."""
    return family.attention if family.cross_entropy else "noise"


def auto_classes(family: Family) -> tuple[str, ...]:
    """The auto classes of `transformers` that load an exported model and give its likelihoods;
    `AutoModel` for a model that has none of single tokens. None can load other families."""
    if kind_of(family) == "noise":
        return (OTHER,)
    causal = family.attention == "causal"
    masked = family.mask_token and (not causal or family.masked_reading is not None)
    return ((CAUSAL,) if causal else ()) + ((MASKED,) if masked else ())


def config_of(
    recipe: Recipe, vocabulary: int, rows: int, end: int, dtype: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """config.json. `end` ends documents and begins them; `dtype` is the weights'."""
    shape, settings, family = recipe.model.architecture(), recipe.model, get_family(recipe.family)
    kind, name, _ = TYPES[kind_of(family)]
    causal = family.attention == "causal"
    config: dict[str, Any] = {
        "architectures": [_LLAMA if causal else f"{name}ForMaskedLM"],
        "model_type": kind,
        "vocab_size": rows,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": settings.norm_eps,
        # Both forms: transformers 5 reads the second, most other programs the first.
        "rope_theta": settings.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "max_position_embeddings": recipe.data.sequence_length,
        "tie_word_embeddings": shape.tie_embeddings,
        "attention_dropout": 0.0,
        "initializer_range": settings.init_std,
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": dtype,
        "torch_dtype": dtype,
        KEPT: {"family": recipe.family, "vocabulary": vocabulary, **facts},
    }
    if auto_classes(family) != (CAUSAL,):
        ours = f"{REMOTE_CODE}.{name}"
        config |= {
            "auto_map": {auto_classes(family)[-1]: f"{ours}ForMaskedLM"},
            "mask_token_id": vocabulary,
            "text_vocabulary": vocabulary,
        }
        if not causal:
            config["auto_map"] |= {"AutoConfig": f"{ours}Config", "AutoModel": f"{ours}ForMaskedLM"}
            config["is_causal"] = False
    if family.attention == "blocks":
        config["block_size"] = recipe.options.size
    if kind == "epochal_noise":
        config["noise_shift"] = getattr(recipe.options, "shift", None)
        config["noise_conditioning"] = settings.noise_conditioning
    return config

"""Checkpoints in the original's layouts, written from a model of ours: the other way round.

The rules of splitting are written here a second time, plainly, so that the importer's rules of
joining are not tested against themselves.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import torch

from epochal.models import Transformer, initialise
from epochal.sizes import Architecture


def model(vocabulary=500, *, untied=False, heads=3, head_dim=16, rows=None, seed=3):
    """A small model with weights of its own in every tensor, norms included."""
    shape = Architecture(
        48, 2, heads, head_dim, 128, tie_embeddings=not untied, padded_vocab_size=rows
    )
    made = Transformer(shape, vocabulary)
    initialise(made, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return made.eval()


def arguments(made, **changes):
    """The stored arguments that an importer needs."""
    shape = made.shape
    values = {
        "num_layers": shape.layers,
        "hidden_size": shape.d_model,
        "ffn_hidden_size": shape.d_ff,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "kv_channels": shape.head_dim,
        "seq_length": 32,
        "padded_vocab_size": made.table.shape[0],
        "rope_theta": 10000,
        "layernorm_epsilon": 1e-5,
        "normalization": "rmsnorm",
        "swiglu": True,
        "add_bias_linear": False,
        "untie_embeddings_and_output_weights": not shape.tie_embeddings,
        "untie_with_additional_mask": False,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "global_batch_size": 4,
        "train_iters": 20,
        "train_samples": None,
        "lr": 1e-3,
        "min_lr": 1e-4,
        "lr_decay_style": "cosine",
        "seed": 5,
        "attn_mask": torch.ones(1, 1, 32, 32, dtype=torch.bool).triu(1),
    }
    return argparse.Namespace(**(values | changes))


def named(made, values=None):
    """Their name → whole tensor; `values` by our names instead of the weights (moments)."""
    ours = {name: w.detach() for name, w in made.named_parameters()} if values is None else values
    found = {"1.word_embeddings.weight": ours["embedding.weight"]}
    for block in range(made.shape.layers):
        of = {k.removeprefix(f"blocks.{block}."): v for k, v in ours.items()}
        parts = [of[f"attention.{name}.weight"] for name in ("query", "key", "value")]
        inner = [of[f"feed_forward.{name}.weight"] for name in ("gate", "up")]
        found |= {
            f"{block + 2}.input_layernorm.weight": of["attention_norm.weight"],
            f"{block + 2}.self_attention.query_key_value.weight": torch.cat(parts),
            f"{block + 2}.self_attention.dense.weight": of["attention.output.weight"],
            f"{block + 2}.post_attention_layernorm.weight": of["feed_forward_norm.weight"],
            f"{block + 2}.mlp.dense_h_to_4h.weight": torch.cat(inner),
            f"{block + 2}.mlp.dense_4h_to_h.weight": of["feed_forward.down.weight"],
        }
    last = made.shape.layers + 2
    found[f"{last}.weight"] = ours["final_norm.weight"]
    if not made.shape.tie_embeddings:
        found[f"{last + 1}.lm_head.weight"] = ours["head.weight"]
    return found


def shard(name, tensor, rank, width):
    """One tensor-parallel rank's share of a whole tensor."""
    if "norm" in name or tensor.dim() == 1:
        return tensor.clone()
    if "query_key_value" in name:
        return torch.cat([part.chunk(width)[rank] for part in tensor.chunk(3)])
    if "dense_h_to_4h" in name:
        return torch.cat([part.chunk(width)[rank] for part in tensor.chunk(2)])
    columns = name.endswith(("self_attention.dense.weight", "dense_4h_to_h.weight"))
    return tensor.chunk(width, dim=1 if columns else 0)[rank].clone()


def moments(made, seed=8):
    """exp_avg and exp_avg_sq by our names, unlike each other."""
    generator = torch.Generator().manual_seed(seed)
    return {
        kind: {n: torch.rand(w.shape, generator=generator) for n, w in made.named_parameters()}
        for kind in ("exp_avg", "exp_avg_sq")
    }


def numbered(names, kinds, step):
    """The float32 optimizer: matrices first, then norms, numbered through."""
    flat = {name: kinds["exp_avg"][name] for name in names}
    order = [n for n in names if flat[n].dim() > 1] + [n for n in names if flat[n].dim() == 1]
    matrices = sum(flat[n].dim() > 1 for n in names)
    state = {
        i: {"step": torch.tensor(float(step)), **{k: kinds[k][n].clone() for k in kinds}}
        for i, n in enumerate(order)
    }
    groups = [
        {"params": list(range(matrices))},
        {"params": list(range(matrices, len(order)))},
    ]
    return {"state": state, "param_groups": groups}


def write(
    folder, made, *, width=1, stages=1, step=12, with_moments=None, dtype=None, extra=None, **args
):
    """The pipeline layout at `folder`; returns the step's folder."""
    where = folder / f"global_step{step}"
    where.mkdir(parents=True)
    (folder / "latest").write_text(f"global_step{step}")
    whole = named(made)
    if extra is not None:
        whole["1.word_embeddings.weight"] = torch.cat([whole["1.word_embeddings.weight"], extra])
    for number in sorted({int(name.partition(".")[0]) for name in whole}):
        for rank in range(width):
            content = {
                name.partition(".")[2]: shard(name, tensor, rank, width).to(dtype or tensor.dtype)
                for name, tensor in whole.items()
                if int(name.partition(".")[0]) == number
            }
            torch.save(content, where / f"layer_{number:02d}-model_{rank:02d}-model_states.pt")
    given = {"tensor_model_parallel_size": width, "pipeline_model_parallel_size": stages, **args}
    for rank in range(width * stages):
        optimizer = None
        if with_moments is not None:
            stage = rank if stages > 1 else None
            optimizer = _optimizer(made, with_moments, rank % width, width, stage, stages, step)
        content = {
            "module": None,
            "optimizer": optimizer,
            "args": arguments(made, **given),
            "iteration": step,
            "universal_checkpoint_info": {"original_vocab_size": made.vocabulary},
        }
        torch.save(content, where / f"mp_rank_{rank:02d}_model_states.pt")
    return where


def _optimizer(made, kinds, rank, width, stage, stages, step):
    whole = {kind: named(made, values) for kind, values in kinds.items()}
    names = list(whole["exp_avg"])
    if stage is not None:  # one block per stage; a tied table is in the first and in the last
        assert (stages, made.shape.layers) == (2, 2)
        own = [n for n in names if n.startswith(f"{2 + stage}.")]
        table = names[:1] if stage == 0 or made.shape.tie_embeddings else []
        names = [*table, *own, *([n for n in names if int(n[0]) > 3] if stage else [])]
    share = {
        kind: {n: shard(n, tensors[n], rank, width) for n in names}
        for kind, tensors in whole.items()
    }
    return numbered(names, share, step)


def write_zero(where, made, kinds, *, ranks=1, step=12):
    """ZeRO files of a bfloat16 run beside the rest, and the list of shapes in mp_rank_00."""
    whole = {"weights": named(made)} | {kind: named(made, v) for kind, v in kinds.items()}
    names = list(whole["weights"])
    groups = [
        [n for n in names if whole["weights"][n].dim() > 1],
        [n for n in names if whole["weights"][n].dim() == 1],
    ]
    flats = []
    for group in groups:
        vectors = {k: torch.cat([t[n].flatten() for n in group]) for k, t in whole.items()}
        padding = -len(vectors["weights"]) % (4 * ranks)
        flats.append({k: torch.cat([v, torch.zeros(padding)]) for k, v in vectors.items()})
    for rank in range(ranks):
        state = {
            g: {k: flat[k].chunk(ranks)[rank].clone() for k in ("exp_avg", "exp_avg_sq")}
            | {"step": torch.tensor(float(step))}
            for g, flat in enumerate(flats)
        }
        content = {
            "optimizer_state_dict": {
                "single_partition_of_fp32_groups": [
                    flat["weights"].chunk(ranks)[rank].clone() for flat in flats
                ],
                "base_optimizer_state": {"state": state},
                "param_slice_mappings": SimpleNamespace(anything=1),
            }
        }
        torch.save(content, where / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    path = where / "mp_rank_00_model_states.pt"
    content = torch.load(path, weights_only=False)
    tied = {"1.word_embeddings.weight": "tied_modules.embed.word_embeddings.weight"}
    content |= {
        "optimizer": None,
        "dp_world_size": ranks,
        "param_shapes": [
            {tied.get(n, n): whole["weights"][n].shape for n in group} for group in groups
        ],
    }
    torch.save(content, path)

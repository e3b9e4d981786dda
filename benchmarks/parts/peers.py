"""Training steps of other projects' own models, from clones of their repositories.

The folder holds clones named as in `PEERS`. CUDA extensions that they import are replaced by
functions of the same meaning in plain torch; nothing else of theirs is changed. Each project's step
is forward, backward, clipping at 1.0 and AdamW as the project sets it, in bf16 autocast, compiled
where that project's model can be.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from epochal.data.rows import RowOrder
from epochal.errors import UserError
from epochal.sizes import padded_vocabulary, swiglu_width
from parts.options import Setting

LEAST_NOISE = 1e-3
Loss = Callable[[Tensor], Tensor]
"""Rows [B, L + 1] → training loss."""


def peers_in(folder: Path | None) -> list[str]:
    """Those of `PEERS` that the folder has. Raises UserError if it has none."""
    if folder is None:
        return []
    found = [name for name in PEERS if (folder / name).is_dir()]
    if not found:
        raise UserError(f"--peers {folder}: has none of the clones {', '.join(PEERS)}")
    return found


def peer_step(name: str, setting: Setting, folder: Path) -> Callable[[int], float]:
    """The step of the peer `name`: called with a step's number it trains and returns the loss."""
    torch.manual_seed(0)
    model, loss, optimizer = PEERS[name](setting, folder / name)
    order = RowOrder(setting.tokens(), setting.sequence_length, 0)

    def step(number: int) -> float:
        rows = torch.from_numpy(order.batch(number * setting.batch, setting.batch).tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
            value = loss(rows)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(value.detach())

    return step


Peer = tuple[nn.Module, Loss, torch.optim.Optimizer]


def _nanogpt(setting: Setting, folder: Path) -> Peer:
    module = _load("nanogpt_model", folder / "model.py")
    config = module.GPTConfig(
        block_size=setting.sequence_length,
        vocab_size=padded_vocabulary(setting.vocabulary),
        n_layer=setting.layers,
        n_head=setting.heads,
        n_embd=setting.d_model,
        dropout=0.0,
        bias=False,
    )
    model = module.GPT(config)
    run = _compiled(model, setting)

    def loss(rows: Tensor) -> Tensor:
        value: Tensor = run(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())[1]
        return value

    return model, loss, model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), "cpu")


def _smdm(setting: Setting, folder: Path) -> Peer:
    """Its `TransEncoder`: a head of its own, logits of all positions, then those of masked ones."""
    _stand_in("flash_attn", flash_attn_func=None)
    _stand_in("xformers")
    _stand_in("xformers.ops", SwiGLU=_SwiGLU)
    _stand_in("lightning")
    package = _stand_in("lit_gpt")
    package.__path__ = [str(folder / "lit_gpt")]
    _stand_in("lit_gpt.fused_rotary_embedding", apply_rotary_emb_func=_rotary)
    _stand_in("lit_gpt.rmsnorm", RMSNorm=nn.RMSNorm, FusedRMSNorm=nn.RMSNorm)
    utilities = _stand_in("lit_gpt.utils", find_multiple=lambda n, k: -(-n // k) * k)
    mlps = _stand_in("lit_gpt.model", GptNeoxMLP=None, LLaMAMLP=None)
    package.__dict__.update(model=mlps, utils=utilities)
    module: Any = importlib.import_module("lit_gpt.diffmodel")
    module.FlashAttention2Available = False  # a look-up of packages that cannot be compiled
    mlps.__dict__.update(GptNeoxMLP=module.GptNeoxMLP, LLaMAMLP=module.LLaMAMLP)
    vocabulary = padded_vocabulary(setting.vocabulary)
    config = importlib.import_module("lit_gpt.config").Config(
        block_size=setting.sequence_length,
        vocab_size=vocabulary,
        padded_vocab_size=vocabulary,
        n_layer=setting.layers,
        n_head=setting.heads,
        n_embd=setting.d_model,
        n_query_groups=setting.heads,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        _norm_class="FusedRMSNorm",
        norm_eps=1e-5,
        _mlp_class="LLaMAMLP",
        intermediate_size=swiglu_width(setting.d_model),
    )
    model = module.TransEncoder(config)
    width = setting.d_model // setting.heads
    tables = module.build_rope_cache(
        setting.sequence_length, width, torch.float32, torch.device("cpu")
    )
    model.build_rope_cache = lambda idx: tables
    model.rope_cache = tables
    run = _compiled(model, setting)
    generator = torch.Generator().manual_seed(0)

    def loss(rows: Tensor) -> Tensor:
        inputs, targets, masked, prob = noised(rows[:, :-1], vocabulary, generator)
        nll = F.cross_entropy(run(inputs)[masked], targets[masked], reduction="none")
        return (nll / prob[masked]).sum() / targets.numel()

    return model, loss, _adamw(model)


def _mdlm(setting: Setting, folder: Path) -> Peer:
    """Its `DIT` with the log-probabilities of all positions; it sets its own autocast, which
    the compiler does not take on a CPU."""
    rotary = SimpleNamespace(
        apply_rotary_emb_qkv_=lambda qkv, cos, sin: torch.stack(
            [*(_rotary(x, cos, sin) for x in qkv.unbind(2)[:2]), qkv[:, :, 2]], 2
        )
    )
    attention = SimpleNamespace(flash_attn_varlen_qkvpacked_func=_packed_attention)
    layers = _stand_in("flash_attn.layers", rotary=rotary)
    _stand_in("flash_attn", layers=layers, flash_attn_interface=attention)
    _stand_in("flash_attn.layers.rotary", **vars(rotary))
    _stand_in("omegaconf", OmegaConf=None)
    shape = _Config(
        hidden_size=setting.d_model,
        cond_dim=128,
        n_heads=setting.heads,
        n_blocks=setting.layers,
        dropout=0.0,
        scale_by_sigma=True,
    )
    vocabulary = padded_vocabulary(setting.vocabulary)
    mask = vocabulary - 1
    model = _load("mdlm_dit", folder / "models" / "dit.py").DIT(_Config(model=shape), vocabulary)
    generator = torch.Generator().manual_seed(0)

    def loss(rows: Tensor) -> Tensor:
        inputs, targets, masked, prob = noised(rows[:, :-1], mask, generator)
        logits = model(inputs, torch.zeros(len(inputs))).float()
        logits[..., mask] -= 1e6
        log_probs = logits - logits.logsumexp(-1, keepdim=True)
        nll = -log_probs.gather(-1, targets[..., None]).squeeze(-1)
        value: Tensor = (nll[masked] / prob[masked]).sum() / targets.numel()
        return value

    return model, loss, _adamw(model)


PEERS: dict[str, Callable[[Setting, Path], Peer]] = {
    "nanoGPT": _nanogpt,
    "SMDM": _smdm,
    "mdlm": _mdlm,
}
"""Name of the clone → its model, loss and optimizer."""


def noised(
    tokens: Tensor, mask: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(inputs, targets, masked, probability) with one noise level a row."""
    level = torch.rand(len(tokens), 1, generator=generator)
    prob = ((1 - LEAST_NOISE) * level + LEAST_NOISE).expand(tokens.shape)
    masked = torch.rand(tokens.shape, generator=generator) < prob
    return tokens.masked_fill(masked, mask), tokens, masked, prob


class _Config(dict[str, Any]):
    __getattr__ = dict.__getitem__


class _SwiGLU(nn.Module):
    """xformers' module of this name."""

    def __init__(
        self, width: int, hidden: int, bias: bool = False, _pack_weights: bool = False
    ) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, hidden, bias=bias), nn.Linear(width, hidden, bias=bias)
        self.w3 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w3(F.silu(self.w1(x)) * self.w2(x))
        return out


def _rotary(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, inplace: bool = False
) -> Tensor:
    """flash-attn's rotation of x [B, L, heads, width] by tables [L, width / 2], not interleaved."""
    half = cos.shape[-1]
    cos, sin = cos[None, :, None].to(x.dtype), sin[None, :, None].to(x.dtype)
    a, b = x[..., :half], x[..., half : 2 * half]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]), -1)


def _packed_attention(
    qkv: Tensor, _starts: Tensor, length: int, _dropout: float, causal: bool = False
) -> Tensor:
    """flash-attn's attention over qkv [B·L, 3, heads, width] of rows of the same length."""
    q, k, v = (x.view(-1, length, *x.shape[1:]).transpose(1, 2) for x in qkv.unbind(1))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return out.transpose(1, 2).flatten(0, 1)


def _compiled(model: nn.Module, setting: Setting) -> Callable[..., Any]:
    run: Callable[..., Any] = torch.compile(model) if setting.compiled else model
    return run


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    others = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95))


def _stand_in(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(contents)
    module.__spec__ = importlib.util.spec_from_loader(name, None)
    sys.modules[name] = module
    return module


def _load(name: str, path: Path) -> Any:
    """The module in a file. Raises UserError for what it needs and is not installed."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{path} is missing; give --peers clones of the projects")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

# mypy: disable-error-code="misc, no-any-return, no-untyped-call, call-arg"
"""Language models that fill in masked tokens, and how text is drawn from them: bidirectional
(masked diffusion), within blocks that follow each other (block diffusion), a Llama that also
learned with masks (dual objective); and one that predicts tokens behind noise.

Written by `epochal export hf` beside the weights; it needs torch and transformers only:

    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    ids = model.generate(tokenizer("The", return_tensors="pt").input_ids, max_new_tokens=32)

Shape letters: B rows, L positions, E model width, V rows of the table.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

NOISE_FEATURES = 32


class EpochalMDMConfig(PretrainedConfig):
    """Shape of the model, and which id is the mask."""

    model_type = "epochal_mdm"

    def __init__(
        self,
        vocab_size: int = 384,
        hidden_size: int = 128,
        intermediate_size: int = 320,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        head_dim: int = 64,
        rms_norm_eps: float = 1e-5,
        rope_theta: float = 10000.0,
        max_position_embeddings: int = 512,
        tie_word_embeddings: bool = True,
        mask_token_id: int = 300,
        text_vocabulary: int = 300,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.max_position_embeddings = max_position_embeddings
        self.text_vocabulary = text_vocabulary
        others.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": rope_theta})
        super().__init__(tie_word_embeddings=tie_word_embeddings, **others)
        self.mask_token_id = mask_token_id


class EpochalBlockConfig(EpochalMDMConfig):
    """The same, and the number of tokens in a block."""

    model_type = "epochal_block"

    def __init__(self, block_size: int = 16, **others: Any) -> None:
        self.block_size = block_size
        super().__init__(**others)


class EpochalNoiseConfig(EpochalMDMConfig):
    """The same, and how noise mixes random tokens and masks: the random share is
    sigmoid(log-SNR + `noise_shift`), or 1 without a shift; and whether the network is told the
    log-SNR."""

    model_type = "epochal_noise"

    def __init__(
        self, noise_shift: float | None = None, noise_conditioning: bool = False, **others: Any
    ) -> None:
        self.noise_shift = noise_shift
        self.noise_conditioning = noise_conditioning
        super().__init__(**others)


class _Attention(nn.Module):
    """Every position sees every other that is not hidden; rotary pairs are (i, i + K/2)."""

    def __init__(self, config: EpochalMDMConfig) -> None:
        super().__init__()
        inner = config.num_attention_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None) -> Tensor:
        """[B, L, E] → [B, L, E]; `seen` [B, 1, 1 or L, L] hides padding and later blocks."""
        heads = (*x.shape[:2], -1, self.head_dim)
        q = _rotate(self.q_proj(x).view(heads), cos, sin).transpose(1, 2)
        k = _rotate(self.k_proj(x).view(heads), cos, sin).transpose(1, 2)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: EpochalMDMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, E] → [B, L, E]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: EpochalMDMConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = _FeedForward(config)
        if getattr(config, "noise_conditioning", False):
            self.noise_level = nn.Linear(NOISE_FEATURES, 4 * config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None, noise: Tensor | None
    ) -> Tensor:
        """[B, L, E] → [B, L, E]; `noise` [B, 32] says the noise level to a network told it."""
        scales = (0, 0, 0, 0)
        if noise is not None:
            scales = self.noise_level(noise.to(x.dtype))[:, None].chunk(4, dim=-1)
        read = self.input_layernorm(x) * (1 + scales[0]) + scales[1]
        x = x + self.self_attn(read, cos, sin, seen)
        read = self.post_attention_layernorm(x) * (1 + scales[2]) + scales[3]
        return x + self.mlp(read)


def _noise_features(log_snr: Tensor) -> Tensor:
    """[B] → [B, 32]."""
    at = log_snr.float().clamp(-12, 12)[:, None] * (math.pi / 24)
    order = torch.arange(NOISE_FEATURES // 2, device=log_snr.device)
    return torch.cat(((at * order).cos(), (at * (order + 1)).sin()), dim=1)


class _Trunk(nn.Module):
    """Ids → hidden states after the last norm."""

    def __init__(self, config: EpochalMDMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, log_snr: Tensor | None
    ) -> Tensor:
        """[B, L] → [B, L, E]."""
        x = self.embed_tokens(input_ids)
        pair = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32, device=x.device)
        positions = torch.arange(input_ids.shape[1], dtype=torch.float32, device=x.device)
        theta = self.config.rope_parameters["rope_theta"]
        angles = positions[:, None] * theta ** (-pair / self.config.head_dim)
        cos, sin = (part[:, None, :].to(x.dtype) for part in (angles.cos(), angles.sin()))
        seen = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        if size := getattr(self.config, "block_size", 0):
            block = torch.arange(input_ids.shape[1], device=x.device) // size
            before = (block[None, :] <= block[:, None])[None, None]
            seen = before if seen is None else before & seen
        noise = None
        if getattr(self.config, "noise_conditioning", False):
            if log_snr is None:
                raise ValueError("this network is told the noise level: give log_snr, one per row")
            noise = _noise_features(log_snr)
        for layer in self.layers:
            x = layer(x, cos, sin, seen, noise)
        return self.norm(x)


class EpochalMDMForMaskedLM(PreTrainedModel):
    """Predicts the tokens that stand behind the mask id."""

    config_class: type[PretrainedConfig] = EpochalMDMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    shift = 0
    """How far before a token stands the state that predicts it."""

    def __init__(self, config: EpochalMDMConfig) -> None:
        super().__init__(config)
        self.model = _Trunk(config)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.model.embed_tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        log_snr: Tensor | None = None,
        **_: Any,
    ) -> MaskedLMOutput:
        """[B, L] ids → logits [B, L, V] of the token at each position (not the next one).

        `attention_mask` is 0 at padding; `log_snr` [B] is for a network that is told noise levels.
        With `labels` also the mean cross-entropy of all positions that are not −100, without the
        diffusion weights.
        """
        hidden = self.model(input_ids, attention_mask, log_snr)
        hidden = F.pad(hidden, (0, 0, self.shift, -self.shift))
        table = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        logits = F.linear(hidden, table)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100
            )
        return MaskedLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int = 64,
        steps: int | None = None,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[B, P] ids → the same with every mask filled in.

        Where the prompt holds masks these are filled in, else `max_new_tokens` are added after
        it. Each of the `steps` passes (one per masked token if not given) keeps the proposals
        of highest probability (LLaDA, arXiv 2502.09992 §2.4). Temperature 0 takes the
        likeliest token. Blocks are filled one after another.
        """
        mask = int(self.config.mask_token_id)
        ids = input_ids.clone()
        if not (ids == mask).any():
            ids = F.pad(ids, (0, max_new_tokens), value=mask)
        steps = steps or int((ids == mask).sum(dim=1).max())
        block = torch.arange(ids.shape[1], device=ids.device)
        block = block // getattr(self.config, "block_size", ids.shape[1])
        left = steps
        while (masked := ids == mask).any():
            quota = -(-masked.sum(dim=1) // left)
            left = max(1, left - 1)
            first = block.expand_as(ids).masked_fill(~masked, len(block)).amin(dim=1)
            masked &= block == first[:, None]
            logits = self(ids).logits[..., : self.config.text_vocabulary].float()
            probs = torch.softmax(logits, dim=-1)
            if temperature > 0:
                warm = torch.softmax(logits / temperature, dim=-1).flatten(0, 1)
                tokens = torch.multinomial(warm, 1, generator=generator).view_as(ids)
            else:
                tokens = logits.argmax(dim=-1)
            sure = probs.gather(-1, tokens[..., None]).squeeze(-1).masked_fill(~masked, -1.0)
            rank = sure.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            ids = torch.where(masked & (rank < quota[:, None]), tokens, ids)
        return ids


class EpochalBlockForMaskedLM(EpochalMDMForMaskedLM):
    """Predicts masked tokens from their block and the blocks before it.

    Exact while the masks stand in one block; tokens of later blocks are not seen.
    """

    config_class = EpochalBlockConfig


class EpochalDualForMaskedLM(EpochalMDMForMaskedLM):
    """A Llama read with masks: the state before a masked token predicts it.

    The logits here are of the token at each position, as in the other classes; those of the first
    position, which nothing stands before, are zeros. Give texts their first token.
    """

    config_class = LlamaConfig
    shift = 1


class EpochalNoiseForMaskedLM(EpochalMDMForMaskedLM):
    """Predicts the clean tokens of a row in which some are random or masked (uniform and hybrid
    noise). The logits at a position are no probability of the token in a text as it is."""

    config_class = EpochalNoiseConfig

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int = 64,
        steps: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[B, P] ids → the same with every mask written, or with `max_new_tokens` after them.

        From pure noise back through `steps` levels, 1 − α falling evenly to 0: from α to α' a
        token z stays with probability (α/α')·p'(z)/p(z), and is else drawn from p', with
        p = α·x̂ + (1 − α)·noise. Temperature 0 takes the likeliest of x̂.
        """
        mask, words = int(self.config.mask_token_id), int(self.config.text_vocabulary)
        ids = input_ids.clone()
        if not (ids == mask).any():
            ids = F.pad(ids, (0, max_new_tokens), value=mask)
        gaps = ids == mask
        steps = steps or int(gaps.sum(dim=1).max())

        def chance() -> Tensor:
            return torch.rand(ids.shape, device=ids.device, generator=generator)

        def noise(keep: float) -> Tensor:
            token = (chance() * words).long().clamp(max=words - 1)
            return torch.where(chance() < self._uniform_share(keep), token, mask)

        def expected(own: Tensor, keep: float) -> Tensor:
            share = self._uniform_share(keep)
            of_noise = torch.where(ids == mask, 1 - share, share / words)
            return keep * own.masked_fill(ids == mask, 0.0) + (1 - keep) * of_noise

        ids = torch.where(gaps, noise(0.0), ids)
        for step in range(steps):
            keep, later = step / steps, (step + 1) / steps
            level = torch.full((len(ids),), keep, dtype=torch.float64, device=ids.device).logit()
            logits = self(ids, log_snr=level).logits[..., :words].double()
            if temperature > 0:
                x_hat = torch.softmax(logits / temperature, dim=-1)
            else:
                x_hat = F.one_hot(logits.argmax(dim=-1), words).double()
            drawn = torch.multinomial(x_hat.flatten(0, 1), 1, generator=generator).view_as(ids)
            own = x_hat.gather(-1, ids.clamp(max=words - 1)[..., None]).squeeze(-1)
            stays = keep / later * expected(own, later) / expected(own, keep)
            fresh = torch.where(chance() < later, drawn, noise(later))
            ids = torch.where(gaps & (chance() >= stays), fresh, ids)
        return ids

    def _uniform_share(self, keep: float) -> float:
        """s, the share of the noise that is random tokens; the rest is masks."""
        shift = self.config.noise_shift
        if shift is None or keep == 1:
            return 1.0
        return 1 / (1 + (1 - keep) / keep * math.exp(-shift)) if keep else 0.0

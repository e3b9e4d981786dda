"""The transformer's settings in a recipe, and the shape that they give."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.families.family import OPTIONS_CONFIG, Fraction, Positive
from epochal.sizes import LADDER, Architecture, architecture, swiglu_width

_BASE = LADDER["7M"]
"""The base model of CompleteP where the recipe names none."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Model:
    """The transformer, the same for all families. Numbers given here override those of `size`."""

    size: str | None = None
    """A row of the paper's ladder, 7M to 16183M (listed by `epochal sizes`)."""
    d_model: Positive | None = None
    """Width."""
    layers: Positive | None = None
    """Depth."""
    heads: Positive | None = None
    """Attention heads."""
    head_dim: Positive | None = None
    """Width of a head; d_model / heads if not given."""
    d_ff: Positive | None = None
    """Inner width of SwiGLU; 64·⌊(8·d_model/3)/64⌋, the paper's rule, if not given."""
    tie_embeddings: bool = True
    """Use the embedding's table as the output table; false: a separate output table."""
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary position angles."""
    stochastic_depth: Fraction = 0.0
    """Probability with which a row skips, in training, what a branch of the last block adds; it
    rises linearly with depth (Huang et al., arXiv 1603.09382)."""
    noise_conditioning: bool = False
    """Tell the network the noise level of each row, by a scale and a shift behind each norm that
    begin as none; for the families uniform and hybrid (adaptive norms, as in Peebles & Xie, arXiv
    2212.09748)."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Epsilon of RMSNorm."""
    init_std: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights (Megatron's --init-method-std); divided by
    √(2·layers) for the projections back into the residual stream. With completep, both are the
    base model's."""
    padded_vocab_size: Positive | None = None
    """Rows of the embedding; if not given, vocabulary and mask id, rounded up to a multiple of
    128. Imported models may differ."""
    parametrisation: Literal["standard", "completep"] = "standard"
    """completep: initial weights, rates and the forward pass scale with width and depth so that
    the best learning rate and weight decay of a small base model are also those of larger ones
    (Dey et al., arXiv 2505.01618, with α = 1). At the base model's shape it is the standard."""
    base_width: Positive | None = None
    """d_model of completep's base model. Give it with base_depth; without both, the base is the
    ladder's 7M: width 128, 3 layers, heads of 32."""
    base_depth: Positive | None = None
    """Layers of the base model."""
    base_head_dim: Positive | None = None
    """head_dim of the base model; if not given beside base_width, this model's own."""

    def __post_init__(self) -> None:
        names = ("base_width", "base_depth", "base_head_dim")
        given = [name for name in names if getattr(self, name) is not None]
        if given and self.parametrisation == "standard":
            raise RecipeError(
                f"`model.{given[0]}` = {getattr(self, given[0])} only counts with "
                '`model.parametrisation` = "completep"'
            )
        missing = [name for name in names[:2] if name not in given]
        if given and missing:
            raise RecipeError(
                f"`model.{given[0]}` = {getattr(self, given[0])} needs `model.{missing[0]}`: a "
                "base model has both a width and a depth"
            )

    def architecture(self) -> Architecture:
        """The shape that these settings give. Raises RecipeError if they are incomplete."""
        shape = replace(self._shape(), noise_conditioning=self.noise_conditioning)
        if self.parametrisation == "standard":
            return shape
        if self.base_width is None or self.base_depth is None:
            return shape.relative_to(_BASE.d_model, _BASE.layers, _BASE.head_dim)
        head_dim = self.base_head_dim or shape.head_dim
        return shape.relative_to(self.base_width, self.base_depth, head_dim)

    def _shape(self) -> Architecture:
        given = {
            name: value
            for name in ("d_model", "layers", "heads", "head_dim", "d_ff")
            if (value := getattr(self, name)) is not None
        }
        if self.size is not None:
            return replace(
                architecture(self.size),
                tie_embeddings=self.tie_embeddings,
                padded_vocab_size=self.padded_vocab_size,
                **given,
            )
        if missing := [name for name in ("d_model", "layers", "heads") if name not in given]:
            raise RecipeError(
                f"`model.{missing[0]}` is missing: give `model.size`, for example "
                'model.size="7M", or `model.d_model`, `model.layers` and `model.heads`'
            )
        width, heads = given["d_model"], given["heads"]
        if "head_dim" not in given and width % heads:
            raise RecipeError(
                f"`model.d_model` = {width} is not a multiple of `model.heads` = {heads}; choose a "
                "multiple, or give `model.head_dim`"
            )
        shape = {"head_dim": width // heads, "d_ff": swiglu_width(width), **given}
        if shape["d_ff"] < 1:
            step = 1 if "head_dim" in given else 2 * heads  # rotation takes pairs
            least = next(d for d in count(step, step) if swiglu_width(d))
            raise RecipeError(
                f"`model.d_model` = {width} is too narrow for the rule of the inner width; "
                f"give `model.d_ff`, or a width of at least {least}"
            )
        return Architecture(
            **shape, tie_embeddings=self.tie_embeddings, padded_vocab_size=self.padded_vocab_size
        )

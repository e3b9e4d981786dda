"""The family `mdm`: masked diffusion models, the masked tokens from the visible ones."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.families.family import OPTIONS_CONFIG, Family, Positive, Share

_Above0 = Annotated[float, Field(gt=0)]
_Least0 = Annotated[float, Field(ge=0)]
_LEAST_MASS = 1e-6
"""Of a Gaussian inside the window: with less its quantiles are no longer numbers to trust."""


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class MaskedDiffusionOptions:
    """Settings of the masked diffusion objective (family = "mdm")."""

    noise: Literal["iid", "stratified"] = "iid"
    """iid: t ~ U(0,1) per row, tokens masked independently (the paper). stratified: numbers of
    masked tokens spread evenly over the global batch."""
    eps: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """Smallest masking probability, p = (1−eps)·t + eps. Only used by iid noise."""
    loss_weight: Literal["inverse_prob", "mask_fraction", "mask_count", "unweighted"] = (
        "inverse_prob"
    )
    """Weight of a masked token. inverse_prob: 1/p (the paper). mask_fraction: L/m for the m
    tokens that were masked, at least one (MegaDLMs). mask_count: exactly K = 1 + ⌊t·L⌋ masked,
    weight L/K (LLaDA's likelihood). unweighted: 1, mean over masked tokens (MaskGIT)."""
    ar_ratio: Share = 0.0
    """Share of rows whose n masked tokens are the last n of the row."""
    low_noise_start: bool = False
    """Start with less noise: t is multiplied by low_noise_ratio in the first steps."""
    low_noise_iters: Positive = 1000
    """Number of these steps."""
    low_noise_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor of t in these steps."""
    random_length: Share = 0.0
    """Share of steps whose rows are cut to a random length, 1 … L (0.01 in SMDM and LLaDA)."""
    schedule: Literal["linear", "cosine", "polynomial", "gaussian"] = "linear"
    """Mask rate t of a uniform u. linear: u (the paper). cosine: 1 − cos(πu/2), mean 0.36.
    polynomial: u^polynomial_power. gaussian: quantiles of one Gaussian or two. Weights keep the
    mean loss at the linear one's."""
    polynomial_power: _Above0 = 2.0
    """Of schedule = "polynomial", mean rate 1 / (power + 1)."""
    gaussian_mean: Share = 0.2
    """Mean of schedule = "gaussian", before the Gaussian is cut to the window."""
    gaussian_std: _Above0 = 0.12
    """Its standard deviation."""
    second_share: Share = 0.0
    """Share of the rows that have a second Gaussian (schedule = "gaussian"); 0: one Gaussian."""
    second_mean: Share = 0.85
    """Mean of the second Gaussian."""
    second_std: _Above0 = 0.08
    """Its standard deviation."""
    second_start: Share = 0.4
    """Its mean at the start, if it moves."""
    second_epochs: _Least0 = 0.0
    """Epochs after which 1 − 1/e of the way to second_mean is done; 0: it does not move."""
    softening: Share = 1.0
    """Power of the weight dt/du by which schedules have one loss. Below 1 (0.1 in arXiv 2509.05056)
    the loss is no bound; Gaussians, whose tails weigh too much, need it."""
    window: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest mask rate in training, for example [0.4, 0.6] (arXiv 2601.22450)."""
    frequency_power: _Least0 = 0.0
    """Mask rare tokens more, by their rank among the training tokens to this power; 0: all alike
    (0.02 in arXiv 2509.05056). The mean mask rate of a row stays."""
    frequency_epochs: _Least0 = 0.0
    """Epochs over which frequency_power rises from 0; 0: it holds from the start."""
    mask_unit: Literal["token", "word", "span"] = "token"
    """What is masked or not as a whole: tokens, words, or spans of random length."""
    span_length: Annotated[float, Field(ge=1)] = 3.0
    """Mean tokens of a span."""

    def __post_init__(self) -> None:
        low, high = self.window
        if not 0 <= low < high <= 1:
            raise RecipeError(
                f"`mdm.window` = [{low:g}, {high:g}]: give the lowest and the highest mask rate, "
                "0 ≤ low < high ≤ 1, for example [0.4, 0.6]"
            )
        gaussian, second = self.schedule == "gaussian", self.second_share > 0
        self._only('schedule = "polynomial"', self.schedule == "polynomial", "polynomial_power")
        self._only('schedule = "gaussian"', gaussian, "gaussian_mean", "gaussian_std")
        self._only('schedule = "gaussian"', gaussian, "second_share")
        self._only("second_share above 0", second, "second_mean", "second_std", "second_epochs")
        self._only("second_epochs above 0", self.second_epochs > 0, "second_start")
        self._only("another schedule than linear", self.schedule != "linear", "softening")
        self._only("another loss_weight", self.loss_weight != "unweighted", "softening")
        self._only("frequency_power above 0", self.frequency_power > 0, "frequency_epochs")
        self._only('mask_unit = "span"', self.mask_unit == "span", "span_length")
        alone = self.ar_ratio > 0 or self.loss_weight == "mask_fraction"
        if self.mask_unit != "token" and alone:
            other = "ar_ratio" if self.ar_ratio else "loss_weight"
            raise RecipeError(
                f'`mdm.mask_unit` = "{self.mask_unit}" masks whole units, `mdm.{other}` = '
                f"{getattr(self, other)} masks some tokens alone; leave one of them out"
            )
        if self.low_noise_start and (self.schedule, self.window) != ("linear", (0.0, 1.0)):
            raise RecipeError(
                "`mdm.low_noise_start` = true is less noise of the linear schedule from 0 to 1; "
                "leave it out, or `mdm.schedule` and `mdm.window`"
            )
        if gaussian:
            self._check_mass()

    def _only(self, where: str, holds: bool, *names: str) -> None:
        """Raise RecipeError for an option that would be ignored."""
        defaults = {each.name: each.default for each in fields(self)}
        for name in names:
            if not holds and getattr(self, name) != defaults[name]:
                raise RecipeError(
                    f"`mdm.{name}` = {getattr(self, name):g} only counts with {where}; set that "
                    f"or leave `mdm.{name}` out"
                )

    def _check_mass(self) -> None:
        """Raise RecipeError for a Gaussian that lies outside of the window."""
        modes = [("gaussian_mean", self.gaussian_mean, self.gaussian_std)]
        if self.second_share:
            modes.append(("second_mean", self.second_mean, self.second_std))
        if self.second_epochs:
            modes.append(("second_start", self.second_start, self.second_std))
        for name, mean, std in modes:
            low, high = (math.erf((edge - mean) / (std * math.sqrt(2))) for edge in self.window)
            if (high - low) / 2 < _LEAST_MASS:
                raise RecipeError(
                    f"`mdm.{name}` = {mean:g} with a standard deviation of {std:g} leaves nothing "
                    f"of the Gaussian in `mdm.window` = [{self.window[0]:g}, {self.window[1]:g}]; "
                    "move one of them, or widen the Gaussian"
                )


FAMILY = Family(
    name="mdm",
    title="masked diffusion",
    short="MDM",
    color="#c14f00",
    dark_color="#ff9d57",
    marker="D",
    exact=False,
    objective="epochal.objectives.masked_diffusion:MaskedDiffusion",
    attention="bidirectional",
    writer="epochal.generation.unmasking",
    aliases=("diffusion", "masked_diffusion", "masked diffusion"),
    options=MaskedDiffusionOptions,
    mask_token=True,
    small_model_options={"noise": "stratified"},
    scored_share=0.5,
    added_options=frozenset(
        each.name for each in fields(MaskedDiffusionOptions) if each.name not in ("noise", "eps")
    ),
    loss_is_nll=lambda options: (
        options.loss_weight == "inverse_prob"
        and (options.window, options.softening) == ((0.0, 1.0), 1.0)
        and (options.frequency_power, options.mask_unit) == (0.0, "token")
        and not (options.ar_ratio or options.low_noise_start)
    ),
    reads_short_rows=lambda options: options.random_length > 0,
)

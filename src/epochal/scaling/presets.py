"""Laws from the literature, with where each number is from and what is not published.

`muennighoff`: constants printed in huggingface/datablations (README); no intervals were
published. On their 182 runs R_D from about 12 to 500 fits nearly as well (our measurement), and
that range, the others held, is what the interval here shows.

`paper`: arXiv 2507.15857 prints R_D and R_N (Table 1; its prose has other values of R_D) but
neither A, B, E, α nor β. Those were read by us off the markers of its Fig. 5 (residual 0.0005
nats AR, 0.0008 diffusion; the figure itself can be read to about 0.01). A second reading also
uses two predictions drawn outside of the trained sizes. The interval is the range over both
readings and both values of R_D, ± 0.01; it is not a confidence interval.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from epochal.scaling.law import ScalingLaw, law_from_constants
from epochal.sizes import GPT2_VOCABULARY

READING_ERROR = 0.01
"""Nats by which a loss read off the paper's figures may be wrong."""

_MUENNIGHOFF = {
    "A": float(np.exp(6.255414)),
    "B": float(np.exp(7.3049974)),
    "E": float(np.exp(0.6254804)),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D": 15.387756,
    "R_N": 5.309743,
}
_MUENNIGHOFF_R_D = (12.0, 15.387756, 50.0, 500.0)

_NAMES = ("A", "B", "E", "alpha", "beta")
_PAPER = {
    "ar": {
        "figure": (471.0, 783.0, 1.888, 0.339, 0.309),
        "anchored": (336.0, 771.0, 1.850, 0.319, 0.309),
        "R_D": (31.19, 31.93),
        "R_N": 55.16,
    },
    "mdm": {
        "figure": (310.0, 1074.0, 2.006, 0.315, 0.300),
        "anchored": (266.0, 1071.0, 1.983, 0.306, 0.300),
        "R_D": (493.89, 512.85),
        "R_N": 1265.65,
    },
}
_LENGTH = 2048
"""Tokens per row of the runs of both (arXiv 2507.15857, section 9; Muennighoff et al. 2023). The
tokenizer of both is GPT-2's."""
_PAPER_RANGE = {
    "params": (7.0e6, 2.2e9),
    "tokens": (2.5e7, 8.0e10),
    "unique_tokens": (2.5e7, 1.0e8),
    "flops": (4e15, 3e20),
    "epochs": (1.0, 800.0),
}
NOTES = {
    "muennighoff": [
        "constants of Muennighoff et al. 2023 (AR, C4); their R_D and R_N are a local minimum of "
        "their own objective, and R_D from 12 to 500 fits nearly as well: that is the interval",
    ],
    "paper": [
        "the paper (arXiv 2507.15857) prints R_D and R_N only; A, B, E, alpha and beta were read "
        "off its Fig. 5. Intervals are the range of two readings and both printed R_D, ± 0.01 nats",
        "its AR law was fitted badly (R² 0.76) and its data end at 100M unique tokens (single "
        "runs, 500M aside)",
        "its best runs on 100M tokens were AR 3.71 and diffusion 3.55 nats; its AR law puts the "
        "floor there at about 3.4, since it cannot express overfitting",
    ],
}
PRESETS = tuple(NOTES)


def preset(name: str) -> dict[str, ScalingLaw]:
    """The laws of a preset by family: "muennighoff" (AR) or "paper" (both)."""
    return {"ar": _muennighoff()} if name == "muennighoff" else _paper()


def _muennighoff() -> ScalingLaw:
    law = law_from_constants("data-constrained", _MUENNIGHOFF, "ar", "muennighoff")
    samples = np.repeat(law.theta[None], len(_MUENNIGHOFF_R_D), axis=0)
    samples[:, law.form.index("R_D")] = np.log(_MUENNIGHOFF_R_D)
    fitted = {
        "params": (7e6, 9e9),
        "unique_tokens": (1e8, 1.8e11),
        "tokens": (1e8, 9e11),
        "epochs": (1.0, 1500.0),
    }
    law = replace(law, samples=[samples], whole_range=True, fitted_range=fitted)
    return replace(law, sequence_length=_LENGTH, vocabulary=GPT2_VOCABULARY)


def _paper() -> dict[str, ScalingLaw]:
    laws = {}
    for family, known in _PAPER.items():
        readings = []
        for reading in ("figure", "anchored"):
            for star in known["R_D"]:  # type: ignore[attr-defined]
                five = dict(zip(_NAMES, known[reading], strict=True))  # type: ignore[call-overload]
                constants = five | {"R_D": star, "R_N": known["R_N"]}
                readings.append(law_from_constants("data-constrained", constants, family, "paper"))
        samples = np.stack([law.theta for law in readings])
        laws[family] = replace(
            readings[0],
            samples=[samples],
            whole_range=True,
            fitted_range=dict(_PAPER_RANGE),
            sequence_length=_LENGTH,
            vocabulary=GPT2_VOCABULARY,
            reading_error=READING_ERROR,
        )
    return laws

"""A law with its constants, from any source: predictions, effective tokens, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from epochal.errors import UserError
from epochal.estimates import Floats
from epochal.scaling.forms import (
    FORMS,
    Form,
    Inputs,
    constrain,
    effective,
    log_optimal_params,
    not_identified,
    predict,
    unconstrain,
)

LEVEL = 0.95
"""Level of all intervals."""
TAIL = 0.025
"""(1 − LEVEL) / 2."""
SINGLE_EPOCH = 1.1
"""Rows with at most this many epochs count as one epoch."""


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A quantity of a plan that lies outside of the fitted rows by more than a tenth."""

    quantity: str
    """params, tokens, unique_tokens, flops or epochs."""
    value: float
    fitted: float
    """The nearer end of the fitted range."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScalingLaw:
    """One family's law."""

    family: str
    form: Form = field(metadata={"json": False})
    theta: Floats = field(metadata={"json": False})
    """Unconstrained constants, [k]; see forms.py."""
    samples: list[Floats] = field(default_factory=list, metadata={"json": False})
    """Sets of resampled unconstrained constants, each [S, k]; intervals take the widest set."""
    whole_range: bool = False
    """Whether intervals are the range of the samples, not quantiles (readings, not resamples)."""
    unknown: frozenset[str] = frozenset()
    """Constants that are not identified: R_D (no run repeats), R_N (no run is large enough).
    `theta` and `samples` have `not_identified` for them."""
    fitted_range: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest params, tokens, unique_tokens, flops and epochs of the rows."""
    sequence_length: int | None = None
    """Context of the runs, tokens per row. None: not known."""
    vocabulary: int | None = None
    """Size of the runs' vocabulary: losses are per token of it. None: not known."""
    recipe: Mapping[str, Any] | None = None
    """Recipe of the run with the lowest loss, as plain tables; None for points without runs."""
    source: str = ""
    """File or preset that the law comes from; "fit"."""
    reading_error: float = 0.0
    """Nats by which any loss may be wrong, besides the spread of the samples."""
    extrapolation_error: float = 0.0
    """Share by which a fall predicted beyond the fitted runs may be wrong (extrapolation.py)."""
    law: str = field(init=False)
    """Name of the form."""
    constants: dict[str, float | None] = field(init=False)
    """The constants by name; None: not identified."""
    half_life: float | None = field(init=False)
    """Repetitions after which a token is worth half a fresh one, ln 2 · R_D; None: not
    identified."""

    def __post_init__(self) -> None:
        values = constrain(self.form, self.theta).tolist()
        constants = {
            name: None if name in self.unknown else float(value)
            for name, value in zip(self.form.constants, values, strict=True)
        }
        star = constants.get("R_D")
        object.__setattr__(self, "law", self.form.name)
        object.__setattr__(self, "constants", constants)
        object.__setattr__(self, "half_life", None if star is None else float(np.log(2) * star))

    @property
    def repeats(self) -> bool:
        """Whether the law covers repeated tokens: not without R_D, and Chinchilla's not if all
        its runs were of one epoch (constants without runs are taken as written)."""
        if "R_D" in self.form.constants or not self.form.monotone:
            return "R_D" not in self.unknown
        return self.fitted_range.get("epochs", (1.0, np.inf))[1] > SINGLE_EPOCH

    def predict(self, params: Any, tokens: Any, unique_tokens: Any = None) -> Floats:
        """Loss in nats per token; arguments broadcast. Without `unique_tokens`: one epoch.

        Where the law does not cover repetition (`repeats`), repeated tokens count for nothing.
        """
        losses: Floats = self._losses(self.theta[None], params, tokens, unique_tokens)[0]
        return losses

    def predict_interval(
        self, params: Any, tokens: Any, unique_tokens: Any = None
    ) -> tuple[Floats, Floats]:
        """95 % interval of each prediction (of the law, without a run's own scatter)."""
        if not self.samples:
            raise UserError(f"the law {self.source or self.form.name} has no resamples")
        return self.interval([self._losses(s, params, tokens, unique_tokens) for s in self.samples])

    def interval(self, draws: list[Floats]) -> tuple[Floats, Floats]:
        """Interval over the first axis of each set of draws; the widest over the sets."""
        edge = 0.0 if self.whole_range else (1 - LEVEL) / 2
        pairs = [np.nanquantile(draw, (edge, 1 - edge), axis=0) for draw in draws]
        return np.min([low for low, _ in pairs], axis=0), np.max(
            [high for _, high in pairs], axis=0
        )

    def _losses(self, constants: Floats, params: Any, tokens: Any, unique_tokens: Any) -> Floats:
        unique = tokens if unique_tokens is None else unique_tokens
        n, d, u = np.broadcast_arrays(
            *(np.asarray(v, dtype=float) for v in (params, tokens, unique))
        )
        if not self.repeats:
            d = np.minimum(d, u)
        flat = Inputs.at(n.ravel(), d.ravel(), u.ravel())
        losses = np.exp(predict(self.form, constants, flat))
        shaped: Floats = losses.reshape(len(constants), *n.shape)
        return shaped

    def extrapolation_margin(self, params: Any, tokens: Any, unique_tokens: Any) -> Floats:
        """Nats by which predictions beyond the fitted runs may be wrong: extrapolation_error times
        the change from the nearest point of fitted size, length and compute.
        """
        n, d = (np.asarray(v, dtype=float) for v in (params, tokens))
        if not self.extrapolation_error or not {"params", "tokens", "flops"} <= set(
            self.fitted_range
        ):
            return np.zeros_like(n * d)
        near = np.clip(n, *self.fitted_range["params"])
        longest = np.minimum(
            self.fitted_range["tokens"][1], self.fitted_range["flops"][1] / (6 * near)
        )
        there = self.predict(n, d, unique_tokens)
        change = self.predict(near, np.minimum(d, longest), unique_tokens) - there
        return self.extrapolation_error * np.abs(change)

    def extrapolations(self, **values: float) -> list[Extrapolation]:
        """Those of `values` (params, tokens, unique_tokens, flops, epochs) that lie outside of the
        fitted range by more than a tenth."""
        outside = []
        for name, value in values.items():
            low, high = self.fitted_range.get(name, (0.0, np.inf))
            if not low / 1.1 <= value <= high * 1.1:
                outside.append(Extrapolation(name, value, high if value > high else low))
        return outside

    def unique_equivalent(self, tokens: Any, unique_tokens: Any) -> Floats:
        """D': how many fresh tokens `tokens` seen of `unique_tokens` are worth.

        Raises UserError for a law without a half-life of data, or one that is not known.
        """
        if "R_D" not in self.form.constants or "R_D" in self.unknown:
            raise UserError(f"the law {self.form.name} of {self.family} does not know R_D")
        d, u = (np.asarray(v, dtype=float) for v in (tokens, unique_tokens))
        where = Inputs.at(np.ones_like(d + u), d + 0 * u, u + 0 * d)
        star = np.asarray(self.theta[self.form.index("R_D")])
        return np.exp(effective(where.log_u, where.repetitions, star)[0])

    def optimal_params(self, tokens: Any) -> Floats:
        """N_opt(u): the compute-optimal model for `tokens` fresh tokens (additive laws)."""
        a, b, _, alpha, beta = self.theta[:5]
        log_u = np.log(np.asarray(tokens, dtype=float))
        return np.exp(log_optimal_params(a, b, alpha, beta, log_u)[0])


def law_from_constants(
    law: str, constants: Mapping[str, float | None], family: str = "", source: str = ""
) -> ScalingLaw:
    """A law from its constants. R_D and R_N may be left out or None: not identified.

    Raises UserError for an unknown law and for constants that are missing or not positive.
    """
    form = find_form(law)
    given = dict(constants)
    unknown = {n for n in ("R_D", "R_N") if n in form.constants and given.get(n) is None}
    missing = [n for n in form.constants if given.get(n) is None and n not in unknown]
    extra = [n for n in given if n not in form.constants and given[n] is not None]
    if missing or extra:
        what = f"lacks {', '.join(missing)}" if missing else f"does not know {', '.join(extra)}"
        raise UserError(f"the law {law} {what}; its constants are {', '.join(form.constants)}")
    instead = {name: np.exp(value) for name, value in not_identified(unknown).items()}
    values = np.array([instead.get(n, given.get(n)) for n in form.constants], dtype=float)
    bad = [n for n, v in zip(form.constants, values, strict=True) if not np.isfinite(v) or v < 0]
    bad += [n for n, v in zip(form.constants, values, strict=True) if v == 0 and n != "kappa"]
    if bad:
        raise UserError(f"{bad[0]} = {given.get(bad[0])!r} is not a positive number")
    return ScalingLaw(
        family=family,
        form=form,
        theta=unconstrain(form, values.astype(float)),
        unknown=frozenset(unknown),
        source=source,
    )


def find_form(law: str) -> Form:
    """The form of that name. Raises UserError that lists them."""
    if law not in FORMS:
        raise UserError(f"unknown law {law!r}; choose one of {', '.join(FORMS)}")
    return FORMS[law]

"""The formulas of scaling laws, with derivatives, for many sets of constants at once.

Every law here is a sum of positive terms. A form gives the logarithm of each term and its
derivatives by the form's *unconstrained* constants θ: logarithms of the positive ones (A, B, E,
R_D, R_N, K) and exponents as they are. Sets of constants are rows [S, k]; points are [n] or [S, n].

N parameters, D tokens trained on, U unique tokens, u = min(U, D), R = D/u − 1 repetitions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from epochal.estimates import Floats

LOG_INFINITE = float(np.log(1e12))
"""Unconstrained value of an unlimited half-life: nothing decays in a real run."""
LOG_NOTHING = float(np.log(1e-9))
"""Unconstrained value of a half-life of 0: tokens beyond the first epoch, or parameters beyond
N_opt(u), count for nothing."""
_LOG_ZERO = -1e4  # log of a number of repetitions that is 0: any power of it vanishes
_LARGEST = 300.0  # exp of it is still a float


@dataclass(frozen=True, slots=True)
class Inputs:
    """Points at which a law is taken; arrays that broadcast to [S, n]."""

    log_n: Floats
    log_d: Floats
    log_u: Floats
    """log min(U, D)."""
    log_unique: Floats
    """log U."""
    repetitions: Floats
    """D / min(U, D) − 1, at least 0."""

    @classmethod
    def at(cls, params: Floats, tokens: Floats, unique_tokens: Floats) -> Inputs:
        """From N, D and U themselves."""
        return cls.at_logs(np.log(params), np.log(tokens), np.log(unique_tokens))

    @classmethod
    def at_logs(cls, log_n: Floats, log_d: Floats, log_unique: Floats) -> Inputs:
        """From the logarithms of N, D and U."""
        log_u = np.minimum(log_unique, log_d)
        return cls(log_n, log_d, log_u, log_unique, np.expm1(log_d - log_u))


Term = tuple[Floats, dict[int, Floats | float]]
"""log of a term [S, n], and its derivatives by unconstrained constants where they are not 0."""


@dataclass(frozen=True, slots=True)
class Form:
    """One law's formula."""

    name: str
    constants: tuple[str, ...]
    """Names of its constants, in order."""
    formula: str
    source: str
    terms: Callable[[Floats, Inputs], list[Term]]
    monotone: bool = True
    """Whether more epochs never raise the loss; False if it can describe overfitting."""

    @property
    def logarithmic(self) -> tuple[bool, ...]:
        """Which unconstrained constants are logarithms."""
        return tuple(name in _POSITIVE for name in self.constants)

    def index(self, name: str) -> int:
        """Place of a constant."""
        return self.constants.index(name)


_POSITIVE = ("A", "B", "E", "R_D", "R_N", "K")
BOUNDS: dict[str, tuple[float, float]] = {
    "A": (-60.0, 400.0),
    "B": (-60.0, 400.0),
    "E": (np.log(1e-4), np.log(100.0)),
    "alpha": (0.01, 3.0),
    "beta": (0.01, 3.0),
    "R_D": (np.log(1e-2), np.log(1e6)),
    "R_N": (np.log(1e-2), np.log(1e6)),
    "K": (-60.0, 60.0),
    "gamma": (0.3, 4.0),
    "kappa": (0.0, 4.0),
}
"""Where unconstrained constants are searched."""


def not_identified(unknown: Collection[str]) -> dict[str, float]:
    """Unconstrained values that stand for half-lives that are not identified: fixed at no effect.

    Without R_N, parameters above N_opt(u) count for nothing. Without R_D, repeated tokens do;
    the law is then Chinchilla's in u, whose runs have models on both sides of N_opt(u), so
    without R_N, too, parameters count in full.
    """
    values = {}
    if "R_D" in unknown:
        values["R_D"] = LOG_NOTHING
    if "R_N" in unknown:
        values["R_N"] = LOG_INFINITE if "R_D" in unknown else LOG_NOTHING
    return values


def constrain(form: Form, theta: Floats) -> Floats:
    """Unconstrained constants [..., k] → the constants themselves."""
    return np.where(np.array(form.logarithmic), np.exp(np.minimum(theta, 700.0)), theta)


def unconstrain(form: Form, values: Floats) -> Floats:
    """The constants [..., k] → unconstrained ones."""
    logs = np.array(form.logarithmic)
    return np.where(logs, np.log(np.where(logs, values, 1.0)), values)


def predict(form: Form, constants: Floats, where: Inputs) -> Floats:
    """log of the loss, [S, n], for unconstrained constants [S, k]."""
    logs = [log for log, _ in form.terms(_columns(constants), where)]
    top = np.maximum.reduce([np.broadcast_to(log, np.broadcast(*logs).shape) for log in logs])
    result: Floats = top + np.log(sum(np.exp(log - top) for log in logs))
    return result


def predict_with_gradient(form: Form, constants: Floats, where: Inputs) -> tuple[Floats, Floats]:
    """log of the loss [S, n] and its derivatives by unconstrained constants [S, k, n]."""
    terms = form.terms(_columns(constants), where)
    shape = np.broadcast(*(log for log, _ in terms)).shape
    top = np.maximum.reduce([np.broadcast_to(log, shape) for log, _ in terms])
    shares = [np.exp(log - top) for log, _ in terms]
    total = sum(shares)
    gradient = np.zeros((shape[0], len(form.constants), shape[1]))
    for (_, derivatives), share in zip(terms, shares, strict=True):
        weight = share / total
        for index, derivative in derivatives.items():
            gradient[:, index] += weight * derivative
    return top + np.log(total), gradient


def _columns(constants: Floats) -> Floats:
    """[S, k] → [k, S, 1], to unpack."""
    return np.moveaxis(np.atleast_2d(constants), -1, 0)[:, :, None]


def effective(log_base: Floats, repetitions: Floats, log_star: Floats) -> tuple[Floats, ...]:
    """log(base · (1 + R*·(1 − e^(−R/R*)))), its derivatives by log R* and by R.

    expm1 and log1p keep all digits where R/R* is tiny.
    """
    star = np.exp(log_star)
    share = repetitions / star
    decay = np.exp(-share)
    gain = -star * np.expm1(-share)
    return (
        log_base + np.log1p(gain),
        (gain - repetitions * decay) / (1 + gain),
        decay / (1 + gain),
    )


def log_optimal_params(
    a: Floats, b: Floats, alpha: Floats, beta: Floats, log_u: Floats
) -> tuple[Floats, dict[int, Floats]]:
    """log N_opt(u), the model that is compute-optimal for u fresh tokens, and derivatives.

    N_opt(u) = G·(G·u)^(β/α) with G = (αA/(βB))^(1/(α+β)) (Muennighoff et al. 2023). The
    derivatives are by unconstrained constants 0 (log A), 1 (log B), 3 (α) and 4 (β).
    """
    ratio, total = beta / alpha, alpha + beta
    g = (np.log(alpha) + a - np.log(beta) - b) / total
    slope = 1 + ratio
    d_alpha = (1 / alpha - g) / total * slope - ratio / alpha * (g + log_u)
    d_beta = (-1 / beta - g) / total * slope + (g + log_u) / alpha
    derivatives: dict[int, Floats] = {0: slope / total, 1: -slope / total, 3: d_alpha, 4: d_beta}
    return g + ratio * (g + log_u), derivatives


def _effective_params(columns: Floats, where: Inputs) -> tuple[Floats, dict[int, Floats | float]]:
    """log N' and its derivatives: parameters above N_opt(u) count less and less."""
    a, b, _, alpha, beta, _, star = columns[:7]
    log_best, by_constant = log_optimal_params(a, b, alpha, beta, where.log_u)
    over = np.clip(where.log_n - log_best, 0.0, _LARGEST)
    excess = np.expm1(over)
    value, by_star, by_excess = effective(np.minimum(where.log_n, log_best), excess, star)
    # d log N'/d log N_opt: the base grows, the excess shrinks by (excess + 1).
    by_best = np.where(over > 0, 1 - (excess + 1) * by_excess, 0.0)
    derivatives: dict[int, Floats | float] = {i: by_best * d for i, d in by_constant.items()}
    return value, derivatives | {6: by_star}


def _power(
    log_value: Floats,
    inner_by: dict[int, Floats | float],
    log_scale: Floats,
    exponent: Floats,
    scale_at: int,
    exponent_at: int,
) -> Term:
    """log(scale · value^−exponent) with the derivatives of log value passed on."""
    derivatives: dict[int, Floats | float] = {i: -exponent * d for i, d in inner_by.items()}
    derivatives[scale_at] = derivatives.get(scale_at, 0.0) + 1.0
    derivatives[exponent_at] = derivatives.get(exponent_at, 0.0) - log_value
    return log_scale - exponent * log_value, derivatives


def _chinchilla(columns: Floats, where: Inputs) -> list[Term]:
    a, b, e, alpha, beta = columns[:5]
    return [
        _power(where.log_n, {}, a, alpha, 0, 3),
        _power(where.log_d, {}, b, beta, 1, 4),
        (e, {2: 1.0}),
    ]


def _data_constrained(columns: Floats, where: Inputs) -> list[Term]:
    a, b, e, alpha, beta, star_d, _ = columns[:7]
    log_n, by_n = _effective_params(columns, where)
    log_d, by_star, _ = effective(where.log_u, where.repetitions, star_d)
    return [
        _power(log_n, by_n, a, alpha, 0, 3),
        _power(log_d, {5: by_star}, b, beta, 1, 4),
        (e, {2: 1.0}),
    ]


def _penalty(columns: Floats, where: Inputs, first: int) -> Term:
    """K·R^gamma·(N/U)^kappa; constants `first`, `first` + 1 and `first` + 2."""
    k, gamma, kappa = columns[first : first + 3]
    with np.errstate(divide="ignore"):
        log_r = np.maximum(np.log(where.repetitions), _LOG_ZERO)
    crowding = where.log_n - where.log_unique
    derivatives: dict[int, Floats | float] = {first: 1.0, first + 1: log_r, first + 2: crowding}
    return k + gamma * log_r + kappa * crowding, derivatives


def _chinchilla_penalty(columns: Floats, where: Inputs) -> list[Term]:
    return [*_chinchilla(columns, where), _penalty(columns, where, 5)]


def _overfitting(columns: Floats, where: Inputs) -> list[Term]:
    return [*_data_constrained(columns, where), _penalty(columns, where, 7)]


def _coupled(columns: Floats, where: Inputs) -> list[Term]:
    """β·log(A^(1/β)·N'^(−α/β) + B^(1/β)/D') and E."""
    a, b, e, alpha, beta, star_d, _ = columns[:7]
    log_n, by_n = _effective_params(columns, where)
    log_d, by_star, _ = effective(where.log_u, where.repetitions, star_d)
    first, by_first = _power(log_n, by_n, a, alpha, 0, 3)
    second, by_second = _power(log_d, {5: by_star}, b, beta, 1, 4)
    x, y = first / beta, second / beta
    both = np.logaddexp(x, y)
    share = np.exp(x - both)
    derivatives: dict[int, Floats | float] = {}
    for weight, parts in ((share, by_first), (1 - share, by_second)):
        for index, derivative in parts.items():
            derivatives[index] = derivatives.get(index, 0.0) + weight * derivative
    # β stands outside too: d(β·log Σ)/dβ = log Σ − Σ shares · (inner logarithms).
    derivatives[4] = derivatives.get(4, 0.0) + both - share * x - (1 - share) * y
    return [(beta * both, derivatives), (e, {2: 1.0})]


_FIVE = ("A", "B", "E", "alpha", "beta")
_SEVEN = (*_FIVE, "R_D", "R_N")
FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form(
            "chinchilla",
            _FIVE,
            "L = E + A/N^alpha + B/D^beta",
            "Hoffmann et al. 2022 (arXiv 2203.15556), approach 3",
            _chinchilla,
        ),
        Form(
            "data-constrained",
            _SEVEN,
            "L = E + A/N'^alpha + B/D'^beta, D' = u·(1 + R_D·(1 − exp(−(D/u − 1)/R_D))), N' alike "
            "with R_N above N_opt(u)",
            "Muennighoff et al. 2023 (arXiv 2305.16264); arXiv 2507.15857 §2.3",
            _data_constrained,
        ),
        Form(
            "overfitting",
            (*_SEVEN, "K", "gamma", "kappa"),
            "the data-constrained law + K·(D/u − 1)^gamma·(N/U)^kappa",
            "ours; an additive penalty on repetition is the idea of Lovelace et al. 2026 (arXiv "
            "2605.01640), whose formula we have not read",
            _overfitting,
            monotone=False,
        ),
        Form(
            "penalty",
            (*_FIVE, "K", "gamma", "kappa"),
            "L = E + A/N^alpha + B/D^beta + K·(D/u − 1)^gamma·(N/U)^kappa",
            "ours; as above, on the Chinchilla law without decaying values",
            _chinchilla_penalty,
            monotone=False,
        ),
        Form(
            "coupled",
            _SEVEN,
            "L = E + ((A/N'^alpha)^(1/beta) + (B/D'^beta)^(1/beta))^beta",
            "the coupling of Kaplan et al. 2020 (arXiv 2001.08361, equation 1.5) with a floor E "
            "and effective N' and D'; the combination is ours",
            _coupled,
        ),
    )
}

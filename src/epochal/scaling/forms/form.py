"""What a law's formula is made of, how it is taken at many points at once, and its misfit to runs.

Every law is a sum of positive terms. A form gives the logarithm of each term and its derivatives by
the form's *unconstrained* constants θ: logarithms of the positive ones (A, B, E, R_D, R_N, P) and
exponents as they are. Sets of constants are rows [S, k]; points are [n] or [S, n].

N parameters, D tokens trained on, U unique tokens, u = min(U, D), R = D/u − 1 repetitions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.options import HUBER_DELTA, Residual

_LOG_INFINITE = float(np.log(1e12))
"""Unconstrained value of an unlimited half-life: nothing decays in a real run."""
_LOG_NOTHING = float(np.log(1e-9))
"""Unconstrained value of a half-life of 0: tokens beyond the first epoch, or parameters beyond
N_opt(u), count for nothing."""
NOTHING = 1e-6
"""Residuals below it are of rounding; differences between them say nothing."""
LOG_ZERO = -1e4
"""Log of a number of repetitions that is 0: any power of it vanishes."""
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
class Constant:
    """A constant of a law, and where it is searched."""

    name: str
    bounds: tuple[float, float]
    """Of its unconstrained value."""
    positive: bool = True
    """Whether the unconstrained value is its logarithm."""
    centre: tuple[str, Callable[[Inputs], Floats]] | None = None
    """For the scale of a term: the term's exponent, and the values x for which the search has the
    term's size at mean x instead, scale·exp(−exponent·mean x), so that the two hardly depend on
    each other. It is not bounded then."""


A = Constant("A", (-60.0, 400.0), centre=("alpha", lambda at: at.log_n))
B = Constant("B", (-60.0, 400.0), centre=("beta", lambda at: at.log_d))
E = Constant("E", (np.log(1e-4), np.log(100.0)))
ALPHA = Constant("alpha", (0.01, 3.0), positive=False)
BETA = Constant("beta", (0.01, 3.0), positive=False)
R_D = Constant("R_D", (np.log(1e-2), np.log(1e6)))
R_N = Constant("R_N", (np.log(1e-2), np.log(1e6)))
P = Constant("P", (-60.0, 60.0), centre=("kappa", lambda at: at.log_unique - at.log_n))
DELTA = Constant("delta", (0.3, 4.0), positive=False)
UNINFORMED = Constant("L0", (np.log(0.1), np.log(100.0)))
"""Loss of a model that knows nothing; given, not fitted: ln V, or the unigram entropy."""
KAPPA = Constant("kappa", (0.0, 4.0), positive=False)
FIVE = (A, B, E, ALPHA, BETA)
"""Those of the Chinchilla law, with which most others begin."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Values that a search tries for some constants."""

    values: Floats
    """Unconstrained, [M, constants]."""
    keep_all: bool = False
    """Whether each start goes on with each row; else each row goes on with the start that fits best
    with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """One law's formula."""

    name: str
    searched: tuple[Constant, ...]
    """Its constants in order: A, B, E, alpha, beta first."""
    formula: str
    source: str
    terms: Callable[[Floats, Inputs], list[Term]]
    """Of the constants, [k, S, 1], at some points."""
    monotone: bool = True
    """Whether more epochs never raise the loss; False if it can describe overfitting."""
    repetition: bool = True
    """Whether it says what a repeated token is worth; else runs of several epochs are left out."""
    candidate: bool = False
    """Whether the law "auto" may choose it."""
    grids: tuple[Grid, ...] = ()
    """Where the search begins for the constants after the first five, in order."""
    core: Form | None = None
    """The form without its last grid's constants, which judges starts; None: the form itself."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Names of constants in files of earlier versions → their names today."""

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of its constants, in order."""
        return tuple(constant.name for constant in self.searched)

    def index(self, name: str) -> int:
        """Place of a constant."""
        return self.constants.index(name)

    def constrain(self, theta: Floats) -> Floats:
        """Unconstrained constants [..., k] → the constants themselves."""
        return np.where(self._positive, np.exp(np.minimum(theta, 700.0)), theta)

    def unconstrain(self, values: Floats) -> Floats:
        """The constants [..., k] → unconstrained ones."""
        return np.where(self._positive, np.log(np.where(self._positive, values, 1.0)), values)

    @property
    def _positive(self) -> list[bool]:
        return [constant.positive for constant in self.searched]

    def predict(self, theta: Floats, where: Inputs) -> Floats:
        """log of the loss, [S, n], for unconstrained constants [S, k]."""
        logs = [log for log, _ in self.terms(_columns(theta), where)]
        top = np.maximum.reduce([np.broadcast_to(log, np.broadcast(*logs).shape) for log in logs])
        result: Floats = top + np.log(sum(np.exp(log - top) for log in logs))
        return result

    def predict_with_gradient(self, theta: Floats, where: Inputs) -> tuple[Floats, Floats]:
        """log of the loss [S, n] and its derivatives by unconstrained constants [S, k, n]."""
        terms = self.terms(_columns(theta), where)
        shape = np.broadcast(*(log for log, _ in terms)).shape
        top = np.maximum.reduce([np.broadcast_to(log, shape) for log, _ in terms])
        shares = [np.exp(log - top) for log, _ in terms]
        total = sum(shares)
        gradient = np.zeros((shape[0], len(self.searched), shape[1]))
        for (_, derivatives), share in zip(terms, shares, strict=True):
            weight = share / total
            for index, derivative in derivatives.items():
                gradient[:, index] += weight * derivative
        return top + np.log(total), gradient


def not_identified(unknown: Collection[str]) -> dict[str, float]:
    """Unconstrained values that stand for half-lives that are not identified: fixed at no effect.

    Without R_N, parameters above N_opt(u) count for nothing. Without R_D, repeated tokens do;
    the law is then Chinchilla's in u, whose runs have models on both sides of N_opt(u), so
    without R_N, too, parameters count in full.
    """
    values = {}
    if "R_D" in unknown:
        values["R_D"] = _LOG_NOTHING
    if "R_N" in unknown:
        values["R_N"] = _LOG_INFINITE if "R_D" in unknown else _LOG_NOTHING
    return values


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


def effective_params(columns: Floats, where: Inputs) -> tuple[Floats, dict[int, Floats | float]]:
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


def chinchilla_terms(columns: Floats, where: Inputs) -> list[Term]:
    """A/N^alpha, B/D^beta and E, the first five constants."""
    a, b, e, alpha, beta = columns[:5]
    return [
        power(where.log_n, {}, a, alpha, 0, 3),
        power(where.log_d, {}, b, beta, 1, 4),
        (e, {2: 1.0}),
    ]


def power(
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


def log_repetitions(where: Inputs) -> Floats:
    """log R; where nothing repeats, so low that any power of R vanishes."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(where.repetitions), LOG_ZERO)


def penalty(columns: Floats, where: Inputs, first: int) -> Term:
    """P·R^delta·(N/U)^kappa; constants `first`, `first` + 1 and `first` + 2."""
    p, delta, kappa = columns[first : first + 3]
    log_r, crowding = log_repetitions(where), where.log_n - where.log_unique
    derivatives: dict[int, Floats | float] = {first: 1.0, first + 1: log_r, first + 2: crowding}
    return p + delta * log_r + kappa * crowding, derivatives


OLD_PENALTY = {"K": "P", "gamma": "delta"}
"""Names of the penalty's constants in files of version 0.1.0 → their names today."""
PENALTIES = Grid(
    np.array([[np.log(0.3) - g * np.log(30.0), g, k] for g in (0.5, 1.2) for k in (0.3, 1.0)]),
    keep_all=True,
)
"""Penalties of about 0.3 nats at R = 30 and N = U, of several shapes."""


@dataclass(frozen=True, slots=True)
class FitProblem:
    """What is minimised."""

    form: Form
    where: Inputs
    log_loss: Floats
    delta: float = HUBER_DELTA
    """Huber's δ; infinite gives least squares."""
    residual: Residual = "log"
    tie: bool = False
    """β = α."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Unconstrained values of constants that are not fitted."""

    @property
    def rows(self) -> int:
        """Number of points."""
        return len(self.log_loss)

    @property
    def free(self) -> list[str]:
        """Names of the constants that are searched; with `tie`, β follows α."""
        return [
            name
            for name in self.form.constants
            if name not in self.fixed and not (self.tie and name == "beta")
        ]

    def map(self) -> tuple[Floats, Floats]:
        """(p0 [k], M [k, m]): unconstrained constants p = p0 + M·q of the free ones q.

        Besides fixing and tying, q is centred: its A and B are the terms' sizes at the middle
        of log N and log D, so that they hardly depend on the exponents (the raw problem is
        very badly conditioned).
        """
        names, free = self.form.constants, self.free
        base, matrix = np.zeros(len(names)), np.zeros((len(names), len(free)))
        for name, value in self.fixed.items():
            base[names.index(name)] = value
        for column, name in enumerate(free):
            matrix[names.index(name), column] = 1.0
        if self.tie:
            matrix[names.index("beta"), free.index("alpha")] = 1.0
        for row, constant in enumerate(self.form.searched):
            if constant.centre is not None and constant.name in free:
                exponent, values = constant.centre
                middle, source = float(np.mean(values(self.where))), names.index(exponent)
                matrix[row] += middle * matrix[source]
                base[row] += middle * base[source]
        return base, matrix

    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest q; scales, which are centred, are not bounded."""
        pairs = [
            (-np.inf, np.inf) if constant.centre is not None else constant.bounds
            for constant in self.form.searched
            if constant.name in self.free
        ]
        return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])

    def to_free(self, constants: Floats) -> Floats:
        """Unconstrained constants [..., k] → q [..., m]."""
        base, matrix = self.map()
        result: Floats = (constants - base) @ np.linalg.pinv(matrix).T
        return result

    def residuals(self, constants: Floats) -> Floats:
        """[S, k] → [S, n]."""
        log_prediction = self.form.predict(constants, self.where)
        if self.residual == "log":
            return log_prediction - self.log_loss
        return np.exp(log_prediction) - np.exp(self.log_loss)

    def residuals_with_gradient(self, constants: Floats) -> tuple[Floats, Floats]:
        """[S, k] → [S, n] and [S, k, n]."""
        log_prediction, gradient = self.form.predict_with_gradient(constants, self.where)
        if self.residual == "log":
            return log_prediction - self.log_loss, gradient
        prediction = np.exp(log_prediction)
        return prediction - np.exp(self.log_loss), gradient * prediction[:, None, :]

    def huber(self, residuals: Floats) -> Floats:
        """Huber's term of each residual."""
        size = np.abs(residuals)
        if not np.isfinite(self.delta):
            return 0.5 * residuals**2
        inside = np.minimum(size, self.delta)
        result: Floats = inside * (size - 0.5 * inside)
        return result

    def objective(self, constants: Floats, weights: Floats | float = 1.0) -> Floats:
        """Σ weights · Huber terms, [S]; NaN counts as infinite."""
        total = (weights * self.huber(self.residuals(constants))).sum(axis=-1)
        return np.where(np.isfinite(total), total, np.inf)

    def share_within(self, constants: Floats) -> float:
        """Share of rows whose residual is within δ, by the constants [k]."""
        return float((np.abs(self.residuals(constants[None])) <= self.delta).mean())

    def misfit(self, objectives: Floats, within: float) -> Floats:
        """−2·log of Huber's terms as a likelihood at its best scale, [S], but for a constant.

        2n/(1 + within)·log(objective/n): Laplace's likelihood if no row is within δ, the normal
        one if all are (our rule in between). Residuals below NOTHING count as that.
        """
        least = float(self.huber(np.array(NOTHING)))
        misfit: Floats = (
            2 * self.rows / (1 + within) * np.log(np.maximum(objectives / self.rows, least))
        )
        return misfit

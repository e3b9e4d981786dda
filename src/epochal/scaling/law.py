"""A law with its constants: predictions, effective tokens, intervals; and laws in files.

Files are written by `epochal fit --out` and read by `epochal plan --laws`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from epochal import files
from epochal.errors import UserError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.progress import say_renamed
from epochal.results import to_json
from epochal.scaling.forms import FORMS
from epochal.scaling.forms.form import Form, Inputs, effective, log_optimal_params, not_identified
from epochal.scaling.options import FitOptions

LEVEL = 0.95
"""Level of all intervals."""
TAIL = 0.025
"""(1 − LEVEL) / 2 where two laws are compared; as a float another number, by 2e-17."""
SINGLE_EPOCH = 1.1
"""Rows with at most this many epochs count as one epoch."""
_FORMAT = 1
_DIGITS = 10
_WHOLE = {
    "sequence_length": "the tokens per row of its runs",
    "vocabulary": "the size of its runs' vocabulary",
}
NO_CONSTANTS = ("law", *_WHOLE, "recipe", "extrapolation_error", "doubt")
"""Keys of a section that holds its constants directly."""
_RENAMED = {"doubt": "extrapolation_error", "fitted": "fitted_range"}
"""Keys of a family's section in files of version 0.1.0 → their names today."""


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
        values = self.form.constrain(self.theta).tolist()
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
        if self.form.repetition:
            return "R_D" not in self.unknown
        return self.fitted_range.get("epochs", (1.0, np.inf))[1] > SINGLE_EPOCH

    def predict(self, params: Any, tokens: Any, unique_tokens: Any = None) -> Floats:
        """Loss in nats per token; arguments broadcast. Without `unique_tokens`: one epoch.

        Where the law does not cover repetition (`repeats`), repeated tokens count for nothing.
        """
        losses: Floats = self.predict_with(self.theta[None], params, tokens, unique_tokens)[0]
        return losses

    def predict_interval(
        self, params: Any, tokens: Any, unique_tokens: Any = None
    ) -> tuple[Floats, Floats]:
        """95 % interval of each prediction (of the law, without a run's own scatter)."""
        if not self.samples:
            raise UserError(f"the law {self.source or self.form.name} has no resamples")
        draws = [self.predict_with(s, params, tokens, unique_tokens) for s in self.samples]
        return interval_of(draws, self.whole_range)

    def predict_with(
        self, constants: Floats, params: Any, tokens: Any, unique_tokens: Any
    ) -> Floats:
        """The loss by each of several sets of constants [S, k], such as resamples: [S, ...]."""
        unique = tokens if unique_tokens is None else unique_tokens
        n, d, u = np.broadcast_arrays(
            *(np.asarray(v, dtype=float) for v in (params, tokens, unique))
        )
        if not self.repeats:
            d = np.minimum(d, u)
        flat = Inputs.at(n.ravel(), d.ravel(), u.ravel())
        losses = np.exp(self.form.predict(constants, flat))
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
        # With exponents near 0, as of runs that hardly differ, it may be beyond all numbers.
        return np.exp(np.minimum(log_optimal_params(a, b, alpha, beta, log_u)[0], 700.0))


def interval_of(
    draws: Sequence[Floats], whole_range: bool, tail: float = (1 - LEVEL) / 2
) -> tuple[Floats, Floats]:
    """95 % interval, or the `whole_range`, over the first axis of draws; the widest of the sets."""
    edge = 0.0 if whole_range else tail
    pairs = [np.nanquantile(draw, (edge, 1 - edge), axis=0) for draw in draws]
    return np.min([low for low, _ in pairs], axis=0), np.max([high for _, high in pairs], axis=0)


def law_from_constants(
    law: str, constants: Mapping[str, float | None], family: str = "", source: str = ""
) -> ScalingLaw:
    """A law from its constants. R_D and R_N may be left out or None: not identified.

    Raises UserError for an unknown law and for constants that are missing or not positive.
    """
    if law not in FORMS:
        raise UserError(f"unknown law {law!r}; choose one of {', '.join(FORMS)}")
    form = FORMS[law]
    given = {form.renamed.get(name, name): value for name, value in constants.items()}
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
        theta=form.unconstrain(values),
        unknown=frozenset(unknown),
        source=source,
    )


def write_laws(
    path: str | Path, laws: Sequence[ScalingLaw], options: FitOptions | None = None
) -> None:
    """Write laws with their resamples. Raises UserError unless the name ends in .toml or .json."""
    path = Path(path)
    content = {
        "format": _FORMAT,
        "options": {k: v for k, v in (to_json(options) or {}).items() if v not in (None, {})},
        "families": {law.family: _content(law) for law in laws},
    }
    if path.suffix == ".json":
        files.write_json(path, content)
    elif path.suffix == ".toml":
        files.write_text(path, _toml(content))
    else:
        raise UserError(f"laws are written to a .toml or .json file, not to {path.name!r}")


def _content(law: ScalingLaw) -> dict[str, Any]:
    """A family's section; what is not known is left out, since TOML has no None."""
    runs = {name: getattr(law, name) for name in (*_WHOLE, "recipe")}
    choice = to_json(getattr(law, "choice", None))
    if choice is not None:
        scores = choice["candidates"]
        choice["candidates"] = {
            one["law"]: {k: v for k, v in one.items() if k != "law" and v is not None}
            for one in scores
        }
    return {
        "law": law.form.name,
        **{name: value for name, value in runs.items() if value is not None},
        **({"extrapolation_error": error} if (error := law.extrapolation_error) else {}),
        **({"whole_range": True, "reading_error": law.reading_error} if law.whole_range else {}),
        **({} if choice is None else {"choice": choice}),
        "constants": {k: v for k, v in law.constants.items() if v is not None},
        "unknown": sorted(law.unknown),
        "fitted_range": {name: list(ends) for name, ends in law.fitted_range.items()},
        "samples": [
            [[float(f"{value:.{_DIGITS}g}") for value in row] for row in samples.tolist()]
            for samples in law.samples
        ],
    }


def _toml(content: Mapping[str, Any], prefix: str = "") -> str:
    """Plain TOML of nested tables, numbers, texts and lists."""
    plain = [f"{k} = {json.dumps(v)}" for k, v in content.items() if not isinstance(v, dict)]
    parts = ["\n".join(plain)] if plain else []
    for key, value in content.items():
        if isinstance(value, dict):
            inside = _toml(value, f"{prefix}{key}.")
            head = (
                f"[{prefix}{key}]\n" if any(not isinstance(v, dict) for v in value.values()) else ""
            )
            parts.append(f"{head}{inside.rstrip()}")
    return "\n\n".join(parts) + "\n"


def read_table(path: str | Path) -> dict[str, Any]:
    """A .toml or .json file as plain values. Raises UserError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content: dict[str, Any] = (
            json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        )
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no table of constants")
    return content


def read_laws(path: str | Path) -> dict[str, ScalingLaw]:
    """The laws of a file, by family: one written here, or constants alone.

    A family's section has `constants` (and, if it is not "data-constrained", `law`), or the
    constants directly: [ar] A = 521 B = 1488 … Raises UserError for what is missing.
    """
    content = read_table(path)
    families = content.get("families", content)
    laws: dict[str, ScalingLaw] = {}
    for family in family_names():
        section = families.get(family) if isinstance(families, dict) else None
        if not isinstance(section, dict):
            continue
        old = {k: _RENAMED[k] for k in _RENAMED.keys() & section.keys()}
        say_renamed("keys of the law file", old)  # one notice per key of an earlier version
        section = {_RENAMED.get(key, key): value for key, value in section.items()}
        constants = section.get(
            "constants", {k: v for k, v in section.items() if k not in NO_CONSTANTS}
        )
        if not isinstance(constants, dict):
            raise UserError(f"{path}: the constants of {family} are not a table; write A = 521 …")
        strange = [k for k, v in constants.items() if not (v is None or is_number(v))]
        if strange:
            raise UserError(
                f"{path}: {strange[0]} of {family} is {constants[strange[0]]!r}, not a number"
            )
        default = "data-constrained" if {"R_D", "R_N"} & set(constants) else "chinchilla"
        try:
            law = law_from_constants(str(section.get("law", default)), constants, family, str(path))
        except UserError as error:
            raise UserError(f"{path}, {family}: {error}") from None
        laws[family] = _with_runs(law, section, path)
    if not laws:
        raise UserError(
            f"{path} holds no law: it has no section for a family ({' or '.join(family_names())}); "
            "write one with `epochal fit RUNS --out law.toml`"
        )
    return laws


def _with_runs(law: ScalingLaw, section: Mapping[str, Any], path: str | Path) -> ScalingLaw:
    """The law with what the file has about its runs, and with its resamples."""
    whole = {name: section.get(name) for name in _WHOLE}
    for name, value in whole.items():
        if value is not None and not (type(value) is int and value > 0):
            raise UserError(
                f"{path}: {name} of {law.family} is {value!r}; give {_WHOLE[name]}, a whole "
                "number, or leave it out"
            )
    recipe, error = section.get("recipe"), section.get("extrapolation_error", 0.0)
    if not (recipe is None or isinstance(recipe, dict)):
        raise UserError(f"{path}: the recipe of {law.family} is {recipe!r}, not a table of keys")
    if not (is_number(error) and error >= 0):
        raise UserError(
            f"{path}: extrapolation_error of {law.family} is {error!r}, not a number of 0 or more"
        )
    try:
        samples = [np.asarray(s, dtype=float) for s in section.get("samples", [])]
        fitted = {k: (float(v[0]), float(v[1])) for k, v in section.get("fitted_range", {}).items()}
    except (TypeError, ValueError, LookupError, AttributeError) as damage:
        raise UserError(
            f"{path}: the samples or the fitted range of {law.family} are damaged ({damage}); "
            "write the law again with `epochal fit RUNS --out`"
        ) from None
    for values in samples:
        if values.ndim != 2 or values.shape[1] != len(law.form.constants):
            raise UserError(
                f"{path}: the samples of {law.family} do not fit the law {law.form.name}"
            )
        for name, value in not_identified(law.unknown).items():
            values[:, law.form.index(name)] = value  # files of older versions have others
    return replace(
        law,
        sequence_length=whole["sequence_length"],
        vocabulary=whole["vocabulary"],
        recipe=recipe,
        extrapolation_error=float(error),
        samples=samples,
        fitted_range=fitted,
        whole_range=section.get("whole_range") is True,
        reading_error=float(section.get("reading_error", 0.0)),
    )


def is_number(value: object) -> bool:
    """Whether a value of a file is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)

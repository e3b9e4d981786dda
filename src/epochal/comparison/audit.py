"""Whether a claimed number of bits per byte follows from what else is known about it, and if not,
which of the usual mistakes gives it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked
from scipy.optimize import brentq

from epochal.data.corpus import open_corpus
from epochal.errors import UserError
from epochal.families.family import OPTIONS_CONFIG
from epochal.recipe.schema import Data
from epochal.results import Note, NoteCode, note

_ROUND = 0.05
"""A constant that someone wrote down is taken to be a multiple of this."""


class AuditCode(NoteCode):
    """Why a claim is what it is."""

    AGREES = "agrees"
    CONSTANT_BYTES = "constant_bytes_per_token"
    NATS_FOR_BITS = "nats_taken_for_bits"
    PER_TOKEN = "per_token_taken_for_per_byte"
    MASKED_MEAN = "mean_over_masked"
    CLIPPED = "clipped_weights"
    MISSING_TERMS = "missing_terms"
    UNEXPLAINED = "unexplained"
    ROOM_FOR_CLIPPING = "no_levels_given"


@checked(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Claim:
    """What is claimed, and what is known about it: the content of the file."""

    bits_per_byte: float
    """Claimed."""
    nats_per_token: float | None = None
    """The NLL, or the bound, that the claim goes back to. Not needed with `by_noise`."""
    corpus: str | None = None
    """Folder of a corpus made by `epochal data prepare`, with the claim's tokenizer."""
    bytes_per_token: float | None = None
    """UTF-8 bytes per token of the validation text, in place of a corpus; or give `bytes` and
    `tokens`."""
    bytes: float | None = None
    tokens: float | None = None
    by_noise: tuple[tuple[float, float], ...] = ()
    """Of masked diffusion: [masked share, mean NLL of the masked tokens in nats], at several shares
    from 0 to 1; the bound is the mean over all shares."""
    missing_nats: float = 0.0
    """Known prior and reconstruction terms that `nats_per_token` lacks, nats per token."""
    rounding: float = 1e-3
    """Relative difference that counts as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What follows from a claim's own figures."""

    claimed: float
    """Bits per byte."""
    bits_per_byte: float
    """Recomputed."""
    nats_per_token: float
    """That it was recomputed from, terms that were left out included."""
    bytes_per_token: float
    implied_bytes_per_token: float
    """With which the claim would follow from its nats per token."""
    explanations: list[Note]
    """What gives the claimed number; the first is the likeliest."""

    @property
    def agrees(self) -> bool:
        """Whether the claim holds."""
        return self.explanations[0].code is AuditCode.AGREES


def audit(claim: str | Path | Claim) -> Audit:
    """Recompute a claim's bits per byte, or say what explains it.

    `claim` is a JSON file with the fields of `Claim`, or such a claim. Raises UserError for a
    file that is none or that lacks a figure, DataError for what is not a corpus.
    """
    given = claim if isinstance(claim, Claim) else _read(Path(claim))
    per_byte = _bytes_per_token(given)
    levels = np.array(sorted(given.by_noise)).reshape(-1, 2).T
    known = given.nats_per_token
    if levels.size:
        nats = _mean_over_levels(levels, lambda t: np.ones_like(t))
    elif known is not None:
        nats = known
    else:
        raise UserError("the claim has neither `nats_per_token` nor `by_noise`; give one of them")
    full = nats + given.missing_nats
    stated = full if known is None else known
    return Audit(
        claimed=given.bits_per_byte,
        bits_per_byte=full / math.log(2) / per_byte,
        nats_per_token=full,
        bytes_per_token=per_byte,
        implied_bytes_per_token=stated / math.log(2) / given.bits_per_byte,
        explanations=_explain(given, levels, full, stated, per_byte),
    )


def _read(path: Path) -> Claim:
    try:
        found: Claim = TypeAdapter(Claim).validate_python(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: `{place}`: {first['msg']}; {_FIELDS}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return found


_FIELDS = "a claim has " + ", ".join(f"`{name}`" for name in Claim.__dataclass_fields__)


def _bytes_per_token(claim: Claim) -> float:
    counts = claim.bytes, claim.tokens
    ways = [claim.corpus is not None, claim.bytes_per_token is not None, any(counts)]
    if sum(ways) != 1 or (any(counts) and not all(counts)):
        raise UserError(
            "give the text's bytes per token in one way: `corpus`, `bytes_per_token`, or `bytes` "
            "and `tokens`"
        )
    found: Any = claim.bytes_per_token
    if claim.corpus is not None:
        found = open_corpus(Data(corpus=claim.corpus)).bytes_per_token
        if found is None:
            raise UserError(f"the corpus {claim.corpus} does not know the bytes of its text")
    elif claim.bytes and claim.tokens:
        found = claim.bytes / claim.tokens
    for name, value in (("bits_per_byte", claim.bits_per_byte), ("bytes_per_token", found)):
        if not value > 0:
            raise UserError(f"`{name}` = {value}: give a positive number")
    return float(found)


def _explain(
    claim: Claim, levels: np.ndarray, full: float, stated: float, per_byte: float
) -> list[Note]:
    """All that gives the claimed number, up to rounding."""

    def gives(nats: float, bits: float = math.log(2), size: float = per_byte) -> bool:
        return math.isclose(nats / bits / size, claim.bits_per_byte, rel_tol=claim.rounding)

    if gives(full):
        return [note(AuditCode.AGREES)]
    found = []
    if claim.missing_nats and gives(full - claim.missing_nats):
        found.append(note(AuditCode.MISSING_TERMS, nats=claim.missing_nats))
    if levels.size:
        found += _of_weights(claim, levels, per_byte)
    if gives(stated, bits=1.0):
        found.append(note(AuditCode.NATS_FOR_BITS))
    if gives(stated, size=1.0):
        found.append(note(AuditCode.PER_TOKEN))
    constant = _ROUND * round(stated / math.log(2) / claim.bits_per_byte / _ROUND)
    if not found and constant and gives(stated, size=constant):
        found.append(note(AuditCode.CONSTANT_BYTES, constant=constant, measured=per_byte))
    if not found:
        found.append(note(AuditCode.UNEXPLAINED))
        if not levels.size:
            found.append(note(AuditCode.ROOM_FOR_CLIPPING))
    return found


def _of_weights(claim: Claim, levels: np.ndarray, per_byte: float) -> list[Note]:
    """Means over masked tokens with other weights than one over the masked share."""
    wanted = claim.bits_per_byte * math.log(2) * per_byte

    def clipped(limit: float) -> float:
        return _mean_over_levels(levels, lambda t: np.minimum(1.0, limit * t))

    pooled = _mean_over_levels(levels, lambda t: 2 * t)
    if math.isclose(pooled, wanted, rel_tol=claim.rounding):
        return [note(AuditCode.MASKED_MEAN, nats=pooled)]
    if not clipped(1.0) <= wanted < clipped(1e6):
        return []
    limit = brentq(lambda x: clipped(x) - wanted, 1.0, 1e6)
    whole = float(round(limit))
    if math.isclose(clipped(whole), wanted, rel_tol=claim.rounding):
        return [note(AuditCode.CLIPPED, limit=whole)]
    return []


def _mean_over_levels(levels: np.ndarray, weight: Any) -> float:
    """∫ weight(t) · NLL(t) dt over masked shares 0 … 1, from NLLs on a grid, linear between."""
    t = np.linspace(0, 1, 2001)
    return float(np.trapezoid(weight(t) * np.interp(t, *levels), t))

"""Canaries: made-up secrets put into training text, to measure what a model remembers of it.

A canary is a sentence with a secret of random digits. The canaries that are put in and those
that are not come from one space of equally likely secrets, so a model that has not seen a
canary has no reason to prefer it. How far it does is the canary's exposure (Carlini et al.,
"The secret sharer", arXiv 1802.08232).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epochal import files, rng
from epochal.errors import DataError, UserError

DIGITS = 9
"""Digits of a secret: 10⁹ secrets, some 30 bits."""
_MOST = 100_000
TEXT_FILE, KEY_FILE = "canaries.jsonl", "canaries.json"
_NAMES = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jade",
    "kite", "lotus", "maple", "north", "ocean", "pearl", "quartz", "river", "sable", "tulip",
    "umber", "violet", "willow", "xenon", "yarrow", "zephyr",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Canary:
    """One secret and how often it was put in."""

    prefix: str
    secret: str
    copies: int

    def document(self, number: int) -> str:
        """Copy `number`. No two are the same text: `prepare` would leave equal ones out of the
        training set if one of them is in the validation set."""
        return f"{self.prefix}{self.secret}.\nEntry {number + 1}.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFiles:
    """What `epochal data canaries` wrote."""

    text: Path
    """Documents to be prepared with the training text."""
    key: Path
    """The secrets, for `epochal memorise`."""
    count: int
    """Number of secrets."""
    documents: int
    """Documents in the text, one per copy."""


def write_canaries(
    folder: str | Path, count: int = 16, copies: tuple[int, ...] = (1,), seed: int = 0
) -> list[Canary]:
    """Canaries in `folder`: canaries.jsonl, to be prepared with the text, and canaries.json,
    the key that `epochal memorise` needs.

    The numbers of `copies` take turns among the `count` canaries. The same seed gives the same
    secrets. Raises UserError for a count below 1, copies below 0, and a folder that has canaries.
    """
    if count < 1 or not copies or min(copies) < 0:
        raise UserError(
            f"count = {count} and copies = {','.join(map(str, copies))}: give at least one canary "
            "and numbers of copies of 0 or more"
        )
    if count > _MOST:
        raise UserError(f"count = {count:,} is too many; give at most {_MOST:,}")
    folder = Path(folder)
    if (folder / KEY_FILE).exists():
        raise UserError(f"{folder} already has canaries; give another folder")
    secrets = references(count, seed, "canaries")
    canaries = [
        Canary(_prefix(number), secret, copies[number % len(copies)])
        for number, secret in enumerate(secrets)
    ]
    lines = [
        json.dumps({"text": canary.document(number)})
        for canary in canaries
        for number in range(canary.copies)
    ]
    files.write_text(folder / TEXT_FILE, "".join(line + "\n" for line in lines))
    content = {"seed": seed, "canaries": [asdict(canary) for canary in canaries]}
    files.write_json(folder / KEY_FILE, content)
    return canaries


def read_canaries(path: str | Path) -> list[Canary]:
    """The canaries of a canaries.json or its folder. Raises DataError for any other file."""
    path = Path(path)
    path = path / KEY_FILE if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Canary(**each) for each in content["canaries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a key of canaries ({error}); make one with `epochal data canaries`"
        ) from None


def references(count: int, seed: int, purpose: str = "references") -> list[str]:
    """Secrets of the same space: digits with a space before each, all equally likely."""
    digits: NDArray[np.float64] = rng.uniforms(
        rng.row_keys(rng.stream_key(seed, f"canary:{purpose}"), np.arange(count)), DIGITS
    )
    return ["".join(f" {digit}" for digit in row) for row in (digits * 10).astype(int).tolist()]


def _prefix(number: int) -> str:
    first, second = _NAMES[number % len(_NAMES)], _NAMES[(number // len(_NAMES)) % len(_NAMES)]
    name = first if number < len(_NAMES) else f"{first} {second}"
    return f"The access code of the {name} account is"

"""`to_json`: every result as plain JSON values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from epochal.results import NoteCode, note, to_json


class Reason(NoteCode):
    FEW = "few"


@dataclass(frozen=True)
class Inner:
    path: Path
    values: np.ndarray


@dataclass(frozen=True)
class Outer:
    inner: Inner
    share: float
    notes: list
    secret: object = field(default=None, metadata={"json": False})
    where: Path = field(default=Path("x"), metadata={"json": "folder"})


def test_a_result_with_everything_in_it():
    made = Outer(
        Inner(Path("a/b"), np.array([1.5, np.nan])), np.float32(0.5), [note(Reason.FEW, n=2)]
    )
    found = to_json({"one": made, 3: (np.int64(4), float("inf"), True, None)})
    assert found == {
        "one": {
            "inner": {"path": "a/b", "values": [1.5, None]},
            "share": 0.5,
            "notes": [{"code": "few", "values": {"n": 2}}],
            "folder": "x",
        },
        "3": [4, None, True, None],
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_has_no_form_is_refused():
    with pytest.raises(TypeError):
        to_json(object())

"""`to_json`: every result as plain JSON values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from epochal.report.text import describe, texts
from epochal.results import NoteCode, note, to_json
from epochal.sweeps.listing import ListingNote
from epochal.sweeps.record import RunReason


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


def test_codes_of_two_rooms_with_the_same_word_have_their_own_texts():
    assert RunReason.SAME_RUN != ListingNote.SAME_RUN
    assert "runs/x" in describe(note(RunReason.SAME_RUN, run_dir="runs/x"))
    assert "b" in describe(note(ListingNote.SAME_RUN, run="a", other="b"))
    assert RunReason.SAME_RUN == "same_run"


def test_each_code_has_a_text():
    known = texts()
    kinds = [kind for kind in NoteCode.__subclasses__() if kind.__module__.startswith("epochal.")]
    assert kinds
    assert not [code for kind in kinds for code in kind if code not in known]

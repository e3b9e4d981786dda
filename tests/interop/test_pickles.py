"""A stranger's pickle is read without running anything of theirs."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from epochal.errors import CheckpointError
from epochal.interop.pickles import StandIn, read_pickle


class Enemy:
    """Unpickling it calls `function` with `given`."""

    def __init__(self, function, *given):
        self.function, self.given = function, given

    def __reduce__(self):
        return self.function, self.given


class Honest:
    """A class that the reader does not know."""

    def __init__(self):
        self.value = 7


def test_what_torch_saves_comes_back(tmp_path):
    base = torch.arange(24.0)
    content = {
        "args": argparse.Namespace(a=1, b="two", dtype=torch.bfloat16),
        "ordered": collections.OrderedDict(x=torch.ones(2, 3, dtype=torch.bfloat16)),
        "view": base.view(4, 6)[1:, ::2],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "set": {1, 2},
        "size": torch.Size([2, 3]),
        "numpy": np.arange(3),
        "own": Honest(),
        "empty": torch.zeros(0),
    }
    torch.save(content, tmp_path / "x.pt")
    found = read_pickle(tmp_path / "x.pt")
    assert (found["args"].a, found["args"].b, found["args"].dtype) == (1, "two", torch.bfloat16)
    assert torch.equal(found["ordered"]["x"], content["ordered"]["x"])
    assert torch.equal(found["view"], content["view"])
    assert torch.equal(found["parameter"], torch.ones(2))
    assert (found["set"], found["size"]) == ({1, 2}, (2, 3))
    assert isinstance(found["numpy"], StandIn)
    assert isinstance(found["own"], StandIn)
    assert found["own"].name.endswith("Honest")
    assert found["own"].state == {"value": 7}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda mark: Enemy(os.system, f"touch {mark}"),
        lambda mark: Enemy(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Enemy(exec, f"open({str(mark)!r}, 'w')"),
        lambda mark: Enemy(open, str(mark), "w"),
        lambda mark: Enemy(getattr, Enemy(__import__, "os"), "system"),
        lambda mark: Enemy(torch.load, str(mark)),
        lambda mark: Enemy(torch.save, 1, str(mark)),
        lambda mark: [Enemy(os.mkdir, str(mark))],
        lambda mark: {"args": Enemy(os.mkdir, str(mark)), Enemy(os.mkdir, str(mark)): 1},
    ],
)
def test_a_malicious_file_does_nothing(tmp_path, make, protocol):
    mark = tmp_path / "mark"
    pickled(tmp_path / "x.pt", pickle.dumps(make(mark), protocol))
    found = read_pickle(tmp_path / "x.pt")
    assert not mark.exists()
    assert "StandIn" in repr(found)


def test_the_old_opcodes_do_nothing_either(tmp_path):
    """INST and OBJ call without a REDUCE."""
    mark = tmp_path / "mark"
    for code in (
        f"(S'touch {mark}'\nios\nsystem\n.".encode(),
        f"(cos\nsystem\nS'touch {mark}'\no.".encode(),
        f"cos\nsystem\n(S'touch {mark}'\ntR.".encode(),
    ):
        pickled(tmp_path / "x.pt", code)
        read_pickle(tmp_path / "x.pt")
        assert not mark.exists()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    """as_strided with wrong sizes would read memory that is not the file's."""

    torch.save({"x": torch.arange(4.0)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        code = archive.read("good/data.pkl")
        storage = archive.read("good/data/0")
    changed = code.replace(b"K\x04\x85", b"K\x63\x85")
    assert changed != code
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", changed)
        archive.writestr("x/data/0", storage)
    with pytest.raises(CheckpointError, match="damaged"):
        read_pickle(tmp_path / "x.pt")


def test_files_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match=r"no\.pt is missing"):
        read_pickle(tmp_path / "no.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt is truncated or was not written by"):
        read_pickle(tmp_path / "text.pt")
    torch.save({"x": torch.ones(1000)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:900])
    with pytest.raises(CheckpointError, match="truncated"):
        read_pickle(tmp_path / "cut.pt")


def pickled(path, code):
    """A file of torch.save's form with the pickle `code`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", code)

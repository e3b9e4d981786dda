"""One safetensors file of any checkpoint, on request."""

from __future__ import annotations

import itertools
import json
import tomllib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from epochal.cli.main import main
from epochal.errors import CheckpointError, RunError, StorageError, UserError
from epochal.interop.exports import export_safetensors
from epochal.interop.load import load
from epochal.training.train import train
from tiny_runs import overrides


@pytest.fixture(scope="module")
def run(tiny_corpus, tmp_path_factory):
    """A run with all kinds of checkpoints: best, last, an average, and one kept for good."""
    folder = tmp_path_factory.mktemp("run") / "mdm"
    changes = {"train__ema": 0.9, "checkpoint__keep_every": "16 steps", "train__lr": 2e-3}
    train(None, overrides(tiny_corpus, folder, family="mdm", **changes))
    return folder


@pytest.mark.parametrize("which", [None, "best", "last", "ema", "kept-16", "permanent-16", "16"])
def test_it_holds_the_weights_of_that_checkpoint(run, tmp_path, which):
    made = export_safetensors(run, tmp_path / "x.safetensors", checkpoint=which)
    expected = load(run, which)
    found = load_file(made.path)
    own = expected.model.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], weight) for name, weight in own.items())
    assert made.step == expected.step
    assert made.step == 16 or which not in ("kept-16", "permanent-16", "16")
    assert made.params == sum(weight.numel() for weight in own.values())


def test_the_checkpoints_differ(run, tmp_path):
    files = {
        which: load_file(export_safetensors(run, tmp_path / which, checkpoint=which).path)
        for which in ("last", "ema", "kept-16")
    }
    weights = [tensors["final_norm.weight"] for tensors in files.values()]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(weights))


def test_half_the_size_on_request_and_a_header_that_explains(run, tmp_path):
    whole = export_safetensors(run, tmp_path / "a.safetensors")
    half = export_safetensors(run, tmp_path / "folder", dtype="bfloat16")
    assert half.path == tmp_path / "folder" / "model.safetensors"
    assert half.bytes < 0.6 * whole.bytes
    for name, tensor in load_file(half.path).items():
        assert torch.equal(tensor, load_file(whole.path)[name].bfloat16())
    with safe_open(half.path, "pt") as file:
        header = file.metadata()
    assert (header["family"], header["step"], header["vocabulary"]) == (
        "mdm",
        str(half.step),
        "300",
    )
    assert tomllib.loads(header["recipe"])["model"]["d_model"] == 32
    assert str(run.parent) not in json.dumps(header)


def test_bad_wishes(run, tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    with pytest.raises(RunError, match=r"there\.safetensors already exists"):
        export_safetensors(run, there)
    assert there.read_text() == "mine"
    with pytest.raises(CheckpointError, match="no checkpoint 'kept-13'; there are: best, last"):
        export_safetensors(run, tmp_path / "x.safetensors", checkpoint="kept-13")
    with pytest.raises(CheckpointError, match="no checkpoint 'kept-24'"):
        export_safetensors(run, tmp_path / "x.safetensors", checkpoint="kept-24")
    with pytest.raises(RunError, match="nothing"):
        export_safetensors(tmp_path / "nothing", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="give one of float32, bfloat16"):
        export_safetensors(run, tmp_path / "x.safetensors", dtype="int8")
    with pytest.raises(StorageError, match="a part of that path is a file"):
        export_safetensors(run, there / "deeper" / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["there.safetensors"]


def test_the_command(run, tmp_path, capsys):
    def type_in(*words):
        with pytest.raises(SystemExit) as ended:
            main(["export", "safetensors", *map(str, words)])
        return ended.value.code, capsys.readouterr()

    file = tmp_path / "x.safetensors"
    code, told = type_in(run, "--out", file, "--checkpoint", "kept-16", "--json")
    assert code == 0
    content = json.loads(told.out)
    assert (content["path"], content["step"], content["bytes"]) == (
        str(file),
        16,
        file.stat().st_size,
    )
    code, told = type_in(run, "--out", file)
    assert code == 2
    assert "already exists" in told.err
    code, told = type_in(run, "--out", tmp_path / "y.safetensors")
    assert code == 0
    assert "float32" in told.out

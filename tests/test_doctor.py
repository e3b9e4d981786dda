"""What the machine has."""

from __future__ import annotations

import importlib.metadata
import json
import os

import pytest
import torch

from epochal import doctor
from epochal.cli.main import main
from epochal.data.parallel import cores
from epochal.errors import OptionError


def test_what_is_found(tmp_path):
    before = torch.get_num_threads()
    found = doctor(tmp_path)
    assert torch.get_num_threads() == before
    assert found.torch == torch.__version__
    assert found.cores == cores()
    assert set(found.flops) == {"1 thread", f"{cores()} threads", "bf16"}
    assert all(1e6 < value < 1e16 for value in found.flops.values())
    assert found.written > 0
    assert found.disk > 0
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_by_extra(monkeypatch, tmp_path):
    def version(name):
        if name in ("tensorboard", "transformers"):
            raise importlib.metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    missing = doctor(tmp_path).missing
    assert missing["tensorboard"] == ["tensorboard"]
    assert missing["hf"] == ["transformers"]
    assert "slurm" not in missing


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor(tmp_path).written is None


def test_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["cores"] == cores()
    with pytest.raises(OptionError, match="no such folder"):
        doctor(tmp_path / "none")

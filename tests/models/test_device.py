"""The machine of a run, and what finding it changes in the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os
before = dict(os.environ)
from epochal import device
assert dict(os.environ) == before
from epochal.recipe.schema import Train
device.find_machine(Train(device="cpu"))
print({key: value for key, value in os.environ.items() if before.get(key) != value})
"""


@pytest.mark.parametrize(("own", "changed"), [(None, {"THP_MEM_ALLOC_ENABLE": "1"}), ("0", {})])
def test_the_environment_changes_when_a_machine_is_chosen_not_at_import(monkeypatch, own, changed):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if own is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", own)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(changed)


HUGE = """
from epochal.evaluation import evaluate
from epochal.training import train
from epochal import device
from epochal.recipe.schema import Train
device.find_machine(Train(device="cpu"))
import torch
big = torch.ones(20_000_000)
smaps = open("/proc/self/smaps").read().splitlines()
print(sum(int(line.split()[1]) for line in smaps if line.startswith("AnonHugePages")))
"""


def test_no_import_makes_a_tensor_before_the_machine_is_chosen(monkeypatch):
    """Torch reads the variable at its first tensor, so an import that makes one undoes it."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("huge pages are not given on request here")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20_000

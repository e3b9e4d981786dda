"""What a machine lacks is said before the first step: memory, disk, compiler, bf16."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
import torch

from epochal import device
from epochal.device import find_machine, free_memory, has_compiler
from epochal.errors import RecipeError, StorageError
from epochal.recipe import load_recipe, run_numbers
from epochal.training import precision, room
from epochal.training.parallel.mesh import MeshPlan
from epochal.training.train import train
from tiny_runs import overrides

GB = 10**9


def check(monkeypatch, tmp_path, memory, disk=100 * GB, **changes):
    """Of the ladder's 140M row on a CPU with so many bytes free."""
    values = {"model.size": "140M", "train.steps": 10, "train.device": "cpu"} | changes
    recipe = load_recipe(None, values)
    monkeypatch.setattr(room, "free_memory", lambda device: memory)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(disk, 0, disk))
    numbers = run_numbers(recipe, 10**6, 50257)
    machine = find_machine(recipe.train)
    room.check_room(recipe, numbers, machine, MeshPlan(), tmp_path / "runs" / "x")
    return numbers


def test_too_little_memory_is_said_before_anything_is_made(monkeypatch, tmp_path, capsys):
    numbers = check(monkeypatch, tmp_path, 10**12)
    assert not capsys.readouterr().err
    state = 16 * numbers.params_exact
    check(monkeypatch, tmp_path, state + GB // 10)
    assert "lower train.micro_batch_size" in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"take 2\.\d GB of memory, and 1\.0 GB are free"):
        check(monkeypatch, tmp_path, GB)
    check(monkeypatch, tmp_path, None)  # a system that does not say


def test_too_little_disk_for_a_checkpoint(monkeypatch, tmp_path):
    with pytest.raises(StorageError, match="a checkpoint of this run takes"):
        check(monkeypatch, tmp_path, 10**12, disk=GB)
    with pytest.raises(StorageError, match=r"and 1\.0 MB are free"):
        check(monkeypatch, tmp_path, 10**12, disk=10**6)
    assert not list(tmp_path.iterdir())


def test_a_run_is_refused_before_its_first_step(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda device: 1000)
    with pytest.raises(RecipeError, match="of memory"):
        train(None, overrides(tiny_corpus, tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(device, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(device, "_CONTAINER", tmp_path)
    cpu = torch.device("cpu")
    assert free_memory(cpu) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_memory(cpu) == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert free_memory(cpu) == 1000
    monkeypatch.setattr(device, "_MEMORY", tmp_path / "missing")
    assert free_memory(cpu) is None


def test_without_a_compiler_a_gpu_run_is_told_and_a_request_refused(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    gpu = torch.device("cuda")
    monkeypatch.setattr(device, "find_device", lambda name: gpu)
    monkeypatch.setattr(device, "_has_bf16", lambda device: False)
    settings = load_recipe(None, {"train.steps": 1}).train
    assert not find_machine(settings).compiled
    assert "C compiler" in capsys.readouterr().err
    monkeypatch.setenv("CC", "cc")
    assert has_compiler("cuda")
    assert find_machine(settings).compiled
    assert not capsys.readouterr().err
    monkeypatch.delenv("CC")
    with pytest.raises(RecipeError, match="needs a C compiler"):
        find_machine(load_recipe(None, {"train.steps": 1, "train.compile": "on"}).train)


@pytest.mark.parametrize(("speed", "told"), [(1e9, True), (1e12, False)])
def test_asking_for_bf16_where_there_is_none_is_told(monkeypatch, capsys, speed, told):
    values = {"model.size": "7M", "train.steps": 10**5, "train.precision": "bf16"}
    recipe = load_recipe(None, values)
    monkeypatch.setattr(
        device.Machine, "product_flops", lambda self, size: speed if self.bf16 else 1e11
    )
    machine = device.Machine(torch.device("cpu"), bf16=True, compiled=False)
    assert precision.runs_in_bf16(recipe, run_numbers(recipe, 10**7, 512), machine, None)
    assert ("this CPU has no bf16" in capsys.readouterr().err) is told

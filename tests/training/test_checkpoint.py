"""Checkpoints are whole or not there, and what is damaged is named."""

from __future__ import annotations

import errno
import json
import resource
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import nn

from epochal.errors import CheckpointError, StorageError
from epochal.runs import checkpoints
from epochal.training import checkpoint, sharded
from epochal.training.checkpoint import TrainState


def trained(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.RMSNorm(4))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder, step, seed=0):
    model, optimizer = trained(seed)
    return checkpoint.save(folder, "last", TrainState(step=step), model, optimizer)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    model, optimizer = trained()
    state = TrainState(step=7, seconds=1.5, best_step=6, best_nll=3.25, loss_sum=0.1, loss_steps=1)
    path = checkpoint.save(tmp_path, "last", state, model, optimizer)
    assert checkpoints.find(tmp_path, "last") == path
    assert checkpoint.load_state(path) == state
    again, moments = trained(seed=9)
    checkpoint.load_training(path, again, moments, None)
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, moments.state[b][key]), (name, key)


def test_the_new_one_replaces_the_old_one_of_its_kind(tmp_path):
    checkpoint.save(tmp_path, "best", TrainState(step=3), trained()[0])
    save(tmp_path, 5)
    save(tmp_path, 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-00000003", "last-00000010"]


def damage_cut(file):
    file.write_bytes(file.read_bytes()[:-5])


def damage_flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def damage_remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_remove])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_damage_is_found_and_named(tmp_path, name, damage):
    path = save(tmp_path, 5)
    if name == "manifest.json" and damage is damage_flip:
        pytest.skip("a changed space at the end of the manifest is no damage")
    damage(path / name)
    with pytest.raises(CheckpointError, match=name):
        checkpoints.find(tmp_path, "last")


def test_an_older_whole_one_is_used_instead(tmp_path):
    old = save(tmp_path / "a", 5)
    new = save(tmp_path / "b", 9)
    both = tmp_path / "both"
    both.mkdir()
    old = old.rename(both / old.name)
    new = new.rename(both / new.name)
    damage_cut(new / "model.safetensors")
    assert checkpoints.find(both, "last") == old


@pytest.mark.parametrize("name", ["interrupt", "stop"])  # the second is that of version 0.1
def test_where_all_of_one_kind_are_damaged_another_kind_is_used(tmp_path, name):
    stop = save(tmp_path / "a", 9).rename(tmp_path / f"{name}-00000009")
    last = save(tmp_path / "b", 12).rename(tmp_path / "last-00000012")
    damage_cut(last / "model.safetensors")
    assert checkpoints.find(tmp_path, "last", "interrupt") == stop
    damage_cut(stop / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"last-00000012 .*{name}-00000009 "):
        checkpoints.find(tmp_path, "last", "interrupt")


@pytest.mark.parametrize("name", ["permanent", "kept"])  # the second is that of version 0.1
def test_a_damaged_one_does_not_hide_a_whole_one_of_the_same_step(tmp_path, name):
    kept = save(tmp_path / "a", 9).rename(tmp_path / f"{name}-00000009")
    last = save(tmp_path / "b", 9).rename(tmp_path / "last-00000009")
    for damaged, whole in ((last, kept), (kept, last)):
        model = damaged / "model.safetensors"
        content = model.read_bytes()
        damage_cut(model)
        assert checkpoints.find_resumable(tmp_path, 9, exactly=True) == whole
        assert checkpoints.find_resumable(tmp_path, 20) == whole
        model.write_bytes(content)


@pytest.mark.parametrize("end", ["os error 28", "os error code: 28"])
def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, end):
    path = save(tmp_path, 5)

    def full(tensors, file, metadata=None):
        file.write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: No space left on device ({end})")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError) as failed:
        save(tmp_path, 10)
    assert failed.value.exit_code == 2
    assert "last-00000010" in str(failed.value)
    assert "space" in str(failed.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert checkpoints.find(tmp_path, "last") == path


@pytest.fixture
def small_files():
    """No file may grow beyond 4 kB: a limit that the operating system itself enforces."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_system_really_refuses_is_told_in_words(tmp_path, small_files):
    tensors = {"weight": torch.zeros(4096)}
    with pytest.raises(OSError, match="os error") as refused:
        checkpoint.save_tensors(tmp_path / "x.safetensors", tensors)
    assert refused.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="File too large") as refused:
        _write_parts(tmp_path, tensors)
    assert refused.value.errno == errno.EFBIG, "not that an archive cannot be closed then"


def _write_parts(folder, tensors):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dcp.save(tensors, storage_writer=sharded._Writer(folder, sync_files=True))
        except dcp.CheckpointException as error:
            raise error.failures[0][0] from None


def test_a_failing_sync_is_told_too(tmp_path, monkeypatch):
    def failing(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint.os, "fsync", failing)
    with pytest.raises(StorageError):
        save(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_save_are_removed_and_never_used(tmp_path):
    leftover = tmp_path / ".last-00000009.123.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoints.find(tmp_path, "last") is None
    checkpoint.clean(tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model_are_refused(tmp_path):
    path = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="weights of another model"):
        checkpoint.load_model(path, nn.Linear(2, 2))


def test_the_manifest_lists_every_file(tmp_path):
    path = save(tmp_path, 1)
    listed = set(json.loads((path / "manifest.json").read_text())["sha256"])
    assert listed == {p.name for p in path.iterdir()} - {"manifest.json"}


def test_a_read_only_place_is_named_with_what_to_do(tmp_path, monkeypatch):
    from pathlib import Path

    def refuse(self, *arguments, **more):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    save(tmp_path, 5)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="last-00000010: the file system is read-only; choose"):
        save(tmp_path, 10)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000005"]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, 7])
def test_exactly_the_newest_few_stay(tmp_path, keep):
    model, _ = trained()
    for step in range(1, 9):
        checkpoint.save(tmp_path, "last", TrainState(step=step), model, keep=keep)
        there = [number for number, _ in checkpoints.list_checkpoints(tmp_path)]
        assert there == list(range(max(1, step - keep + 1), step + 1))


def test_a_kill_while_a_step_is_saved_again_loses_nothing(tmp_path, monkeypatch):
    from pathlib import Path

    before = {path.name: path.read_bytes() for path in save(tmp_path, 5).iterdir()}
    plain = Path.rename

    def killed(self, target):
        if Path(target).name == "last-00000005":
            raise KeyboardInterrupt
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 5)
    monkeypatch.undo()
    checkpoint.clean(tmp_path)
    found = checkpoints.find(tmp_path, "last")
    assert {path.name: path.read_bytes() for path in found.iterdir()} == before
    save(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000005"]


def test_as_many_as_are_wanted_stay(tmp_path):
    model, optimizer = trained()
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, "last", TrainState(step=step), model, optimizer, keep=2)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, "permanent", TrainState(step=step), model, optimizer, keep=None)
    names = sorted(path.name for path in tmp_path.iterdir())
    permanent = [f"permanent-0000000{step}" for step in (1, 2, 3)]
    assert names == ["last-00000003", "last-00000004", *permanent]
    (tmp_path / "last-00000004" / "manifest.json").unlink()
    assert checkpoints.find(tmp_path, "last").name == "last-00000003"


def test_names_of_version_0_1_are_found_and_replaced(tmp_path):
    model, optimizer = trained()
    kept = save(tmp_path / "a", 2).rename(tmp_path / "kept-00000002")
    stop = save(tmp_path / "b", 3).rename(tmp_path / "stop-00000003")
    assert checkpoints.find(tmp_path, "last") == kept
    assert checkpoints.find(tmp_path, "last", "interrupt") == stop
    for name in ("2", "kept-2", "permanent-2"):
        assert checkpoints.checkpoint_at(tmp_path, name) == kept
    for name in ("last-2", "interrupt-2", "4", "two", "-", "permanent"):
        assert checkpoints.checkpoint_at(tmp_path, name) is None
    checkpoint.save(tmp_path, "permanent", TrainState(step=2), model, optimizer, keep=None)
    checkpoint.save(tmp_path, "last", TrainState(step=4), model, optimizer)
    names = sorted(path.name for path in tmp_path.iterdir() if path.name not in "ab")
    assert names == ["last-00000004", "permanent-00000002"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"step": 5, "momentum_of_fun": 1}', "momentum_of_fun"),
        ('{"seconds": 5}', "step"),
        ("[5]", "step"),
        ("{", "cannot read"),
    ],
)
def test_progress_that_another_version_wrote_is_refused_in_a_sentence(tmp_path, content, word):
    path = save(tmp_path, 5)
    (path / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=word):
        checkpoint.load_state(path)

"""An interrupted `prepare` goes on from its finished shards, and the corpus is the same."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import numpy as np
import pytest
from data_helpers import TEXTS, contents, lines

from epochal.data import prepare as module
from epochal.data import shards
from epochal.data.fidelity import Fidelity
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.shards import Shard
from epochal.errors import DataError, StorageError

ORIGINAL = Fidelity.shard
OPTIONS = PrepareOptions(tokenizer="bpe:300", workers=1)
PATCHES = ((shards, "_CHARACTERS", 300), (shards, "_KEPT_FROM", 0), (module, "_FOR_ONE_PROCESS", 0))


@pytest.fixture
def small(monkeypatch, tmp_path):
    for owner, name, value in PATCHES:
        monkeypatch.setattr(owner, name, value)
    return lines(tmp_path, TEXTS)


def failing(monkeypatch, after, error):
    """The encoder of a shard, which raises `error` after some; and the list of shards encoded."""
    done = []

    def shard(self, texts):
        if len(done) == after:
            raise error
        done.append(texts)
        return ORIGINAL(self, texts)

    monkeypatch.setattr(Fidelity, "shard", shard)
    return done


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("wrong")])
def test_it_goes_on_from_what_was_finished(small, tmp_path, monkeypatch, capsys, error):
    whole = failing(monkeypatch, None, None)
    prepare(small, tmp_path / "whole", OPTIONS)
    failing(monkeypatch, 4, error)
    with pytest.raises(type(error)):
        prepare(small, tmp_path / "c", OPTIONS)
    assert "4 encoded parts are kept in" in capsys.readouterr().err
    assert not list((tmp_path / "c").glob("train*"))
    again = failing(monkeypatch, None, None)
    monkeypatch.setattr(module, "train_bpe", None)  # the tokenizer is kept, too
    del whole[:]
    prepare(small, tmp_path / "c", OPTIONS)
    assert "going on: 4 parts were encoded before" in capsys.readouterr().err
    total = sum(map(len, TEXTS))
    assert sum(len(text) for texts in again for text in texts) < total - 3 * 300
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"seed": 5}, {"tokenizer": "bpe:310"}])
def test_another_command_starts_anew(small, tmp_path, monkeypatch, capsys, change):
    failing(monkeypatch, 4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare(small, tmp_path / "c", OPTIONS)
    monkeypatch.undo()
    other = PrepareOptions(**{"tokenizer": "bpe:300", **change})
    prepare(small, tmp_path / "c", other)
    assert "is of another text or other settings" in capsys.readouterr().err
    prepare(small, tmp_path / "d", other)
    assert contents(tmp_path / "c") == contents(tmp_path / "d")


def test_a_damaged_or_vanished_part_is_encoded_again(small, tmp_path, monkeypatch):
    failing(monkeypatch, 5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare(small, tmp_path / "c", OPTIONS)
    first, second, third, *_ = sorted((tmp_path / "c" / ".parts").glob("*.npz"))
    content = first.read_bytes()
    first.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    second.write_bytes(b"")
    third.unlink()
    monkeypatch.undo()
    prepare(small, tmp_path / "c", OPTIONS)
    prepare(small, tmp_path / "d", OPTIONS)
    assert contents(tmp_path / "c") == contents(tmp_path / "d")


def test_a_full_disk_keeps_what_was_finished(small, tmp_path, monkeypatch, capsys):
    original, done = np.savez, []

    def full(*arguments, **arrays):
        done.append(arrays)
        if len(done) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        prepare(small, tmp_path / "c", OPTIONS)
    assert "3 encoded parts are kept in" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from pathlib import Path
from epochal.data import prepare as module, shards
from epochal.data.fidelity import Fidelity
shards._CHARACTERS, shards._KEPT_FROM, module._FOR_ONE_PROCESS = 300, 0, 0
parent, original = os.getpid(), Fidelity.shard
def shard(self, texts):
    assert os.getpid() != parent
    if len(list(Path(sys.argv[2], ".parts").glob("*.npz"))) >= 4:
        os.kill(parent, signal.SIGKILL)
    return original(self, texts)
Fidelity.shard = shard
module.prepare(sys.argv[1], sys.argv[2], module.PrepareOptions(tokenizer="bpe:300", workers=2))
"""


def test_after_a_kill_nine_with_workers(small, tmp_path):
    command = [sys.executable, "-c", KILLED, str(small), str(tmp_path / "c")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "c" / ".parts").glob("*.npz"))) >= 4
    prepare(small, tmp_path / "c", OPTIONS)  # at once: no worker holds the folder's lock
    prepare(small, tmp_path / "d", OPTIONS)
    assert contents(tmp_path / "c") == contents(tmp_path / "d")


def test_a_shard_is_what_was_saved(tmp_path):
    shard = Shard(
        np.array([1, 2, 3], "<u2"),
        np.array([2, 1]),
        np.array([-1, 4]),
        7,
        ((0, "\0"),),
        (("a", "b"),),
    )
    shard.save(tmp_path / "x.npz")
    loaded = Shard.load(tmp_path / "x.npz")
    assert (loaded.ids.tolist(), loaded.sizes.tolist()) == ([1, 2, 3], [2, 1])
    assert (loaded.ids.dtype, loaded.kept.tolist(), loaded.going_on) == ("<u2", [-1, 4], 7)
    assert (loaded.lost, loaded.changed) == (shard.lost, shard.changed)
    assert Shard.load(tmp_path / "y.npz") is None

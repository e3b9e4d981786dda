"""Writing a store: nothing half-written is ever seen, whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from epochal.data.corpus import refuse_foreign_store
from epochal.data.metadata import StoreMetadata
from epochal.data.store import TokenStore
from epochal.data.store_writer import StoreWriter, remove_store, store_dtype
from epochal.errors import DataError, StorageError


def write(prefix, *documents, error=None, metadata=None):
    with StoreWriter(prefix, "<u2") as writer:
        for ids in documents:
            writer.add(ids)
        if error is not None:
            raise error
        if metadata is not None:
            writer.commit(metadata)


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(257, "uint16"), (65499, "uint16"), (65500, "int32"), (128000, "int32")],
)
def test_the_type_is_the_originals_choice(vocabulary, dtype):
    assert store_dtype(vocabulary).name == dtype


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", [1, 2], error=KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_an_older_store_as_it_was(tmp_path):
    write(tmp_path / "x", [1, 2])
    with pytest.raises(RuntimeError):
        write(tmp_path / "x", [3], error=RuntimeError())
    assert TokenStore.open(tmp_path / "x").tokens.tolist() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.idx"]


def test_a_new_store_replaces_an_older_one_and_its_metadata(tmp_path):
    write(tmp_path / "x", [1, 2], metadata=StoreMetadata(unique_tokens=2, documents=1))
    with StoreWriter(tmp_path / "x", "<i4") as writer:
        writer.add([70000])
    store = TokenStore.open(tmp_path / "x")
    assert store.tokens.tolist() == [70000]
    assert store.metadata is None


def test_facts_of_what_was_written(tmp_path):
    with StoreWriter(tmp_path / "deep" / "x", "<u2") as writer:
        writer.add(np.array([1, 2, 3]))
        writer.add([])
        assert (writer.documents, writer.unique_tokens) == (2, 3)
        written = writer.finish()
        assert writer.finish() is written
        assert (written.documents, written.unique_tokens) == (2, 3)
        assert not (tmp_path / "deep" / "x.idx").exists()
    assert TokenStore.open(tmp_path / "deep" / "x").content_sha256 == written.content_sha256


def test_after_abort_nothing_is_committed(tmp_path):
    with StoreWriter(tmp_path / "x", "<u2") as writer:
        writer.add([1])
        writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ids", [[1, 65536], [-1, 1]])
def test_an_id_that_the_type_cannot_hold(tmp_path, ids):
    with pytest.raises(DataError, match=r"ids of document 1 run from .* holds 0 to 65535"):
        write(tmp_path / "x", [1], ids)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path, monkeypatch):
    def refuse(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="disk is full"):
        write(tmp_path / "x", [1])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        StoreWriter(tmp_path / "file" / "x", "<u2")


def test_a_killed_process_leaves_no_store(tmp_path):
    script = (
        "import sys, time\n"
        "from epochal.data.store_writer import StoreWriter\n"
        "with StoreWriter(sys.argv[1] + '/x', '<u2') as writer:\n"
        "    writer.add(range(60000))\n"
        "    writer.finish()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(0.05)
    assert all(path.name.endswith(".tmp") for path in tmp_path.iterdir())
    with pytest.raises(DataError, match="no token store"):
        TokenStore.open(tmp_path / "x")


@pytest.mark.parametrize("survived", range(5))
def test_a_kill_between_the_renames_leaves_a_whole_store_or_none(tmp_path, monkeypatch, survived):
    class Killed(BaseException):
        pass

    metadata = StoreMetadata(unique_tokens=2, documents=1)
    write(tmp_path / "x", [1, 2], metadata=metadata)
    replace, done = Path.replace, []

    def kill(path, target):
        if len(done) == survived:
            raise Killed
        done.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", kill)
    if survived == 4:  # metadata's temporary, metadata, ids, index
        write(tmp_path / "x", [7, 8], metadata=metadata)
        assert TokenStore.open(tmp_path / "x").tokens.tolist() == [7, 8]
        return
    with pytest.raises(Killed):
        write(tmp_path / "x", [7, 8], metadata=metadata)
    if survived == 0:  # nothing was touched yet
        assert TokenStore.open(tmp_path / "x").tokens.tolist() == [1, 2]
        return
    with pytest.raises(DataError, match=r"incomplete: x.idx is missing"):
        TokenStore.open(tmp_path / "x")
    # What is left is known for ours by its metadata, so making it again is no loss.
    refuse_foreign_store(tmp_path / "x")


def test_a_full_disk_at_the_metadata_keeps_an_older_store(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "x", [1, 2], metadata=StoreMetadata(unique_tokens=2, documents=1))
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StorageError, match="disk is full"):
        write(tmp_path / "x", [7], metadata=StoreMetadata(unique_tokens=1, documents=1))
    assert TokenStore.open(tmp_path / "x").tokens.tolist() == [1, 2]


def test_a_limit_of_file_sizes(tmp_path):
    """A real refusal of the system, half-way through a write."""
    script = (
        "import resource, sys\n"
        "from epochal.data.store_writer import StoreWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "with StoreWriter(sys.argv[1] + '/x', '<u2') as writer:\n"
        "    for _ in range(100):\n"
        "        writer.add(range(60000))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "StorageError: cannot write" in result.stderr
    assert "would grow beyond a size limit there" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(StorageError, match="a folder of that name is in the way"):
        write(tmp_path / "x", [1])


def test_a_document_longer_than_the_index_can_say(tmp_path):
    long = np.broadcast_to(np.uint16(7), (2**31,))  # takes no memory
    with pytest.raises(DataError, match=r"document 0 has 2,147,483,648 tokens, .* at most 2,147"):
        write(tmp_path / "x", long)


def test_removing_a_store(tmp_path):
    write(tmp_path / "x", [1])
    remove_store(tmp_path / "x")
    remove_store(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []

"""Files that are whole or not there, and refusals of the system in one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from epochal import files
from epochal.errors import StorageError


def test_content_arrives_whole_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    files.write_text(path, "grüße\n")
    assert path.read_bytes() == "grüße\n".encode()
    files.write_json(path, {"π": 3.0, "list": [1, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"π": 3.0, "list": [1, None]}
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_interruption_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    path.write_text("old")

    def write_half():
        with files.atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    program = (
        "import os, signal, sys; from pathlib import Path; from epochal import files\n"
        "with files.atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('ne'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_failure_at_the_very_end_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("old")

    def refuse(self, target):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_without_numbers_for_nan(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert path.read_text() == "1\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only; choose another place"),
        (errno.EACCES, "no permission to write there"),
    ],
)
def test_a_refusal_is_one_sentence_that_names_the_file(tmp_path, code, words):
    path = tmp_path / "x"
    path.write_text("old")

    def write():
        with files.atomic_path(path):
            raise OSError(code, os.strerror(code))

    with pytest.raises(StorageError) as caught:
        write()
    message = str(caught.value)
    assert message.startswith(f"cannot write {path}: {words}")
    assert message.endswith("and run the command again")
    assert "\n" not in message
    assert path.read_text() == "old"


def test_a_full_disk(tmp_path):
    """/dev/full refuses every byte, as a full disk does."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")

    def write():
        with files.storage_errors(tmp_path / "x"), full.open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(StorageError, match="the disk is full"):
        write()


def test_other_system_errors_pass_through(tmp_path):
    def read():
        with files.storage_errors(tmp_path):
            raise OSError(errno.ENODEV, "broken")

    with pytest.raises(OSError, match="broken"):
        read()


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(StorageError, match="file"):
        files.write_text(tmp_path / "a" / "x", "y")


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(StorageError, match="a folder of that name is in the way"):
        files.write_text(tmp_path / "x", "y")
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_sums(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 10**6)
    assert files.sha256(path) == hashlib.sha256(b"abc" * 10**6).hexdigest()
    assert files.sha256_json({"b": 1, "a": [1, 2]}) == files.sha256_json({"a": [1, 2], "b": 1})
    assert files.sha256_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": "1"})

"""Preparing again: found, refused, after a kill, on a full disk; and nothing of others is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from data_helpers import TEXTS, contents, lines

from epochal.data import prepare as module
from epochal.data.corpus import Corpus
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.errors import DataError, StorageError


def test_again_does_nothing(tmp_path, capsys):
    source = lines(tmp_path, TEXTS)
    prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bpe:300"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.*")}
    again = prepare(str(source), tmp_path / "c", PrepareOptions(tokenizer="bpe:300", workers=2))
    assert again.already_existed
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*.*")}
    assert "is already prepared from these inputs with these settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("with `validation` = 0.05, not 0.2", {"validation": 0.2}),
        ("with other `tokenizer`", {"tokenizer": "bpe:300"}),
        ("with `seed` = 1234, not 2", {"seed": 2}),
        ("with `drop_duplicates` = False, not True", {"drop_duplicates": True}),
        ("with `documents` = file, not line", {"documents": "line"}),
        ("with `invalid_utf8` = error, not replace", {"invalid_utf8": "replace"}),
        ("with other `inputs`", {}),
    ],
)
def test_other_settings_on_the_same_folder(tmp_path, what, change):
    source = lines(tmp_path, TEXTS)
    base = {"tokenizer": "bytes"}
    prepare(source, tmp_path / "c", PrepareOptions(**base))
    before = contents(tmp_path / "c")
    if not change:
        lines(tmp_path, [*TEXTS, "one more"])
    with pytest.raises(
        DataError, match=rf"already holds another corpus \(made {what}\); .*`overwrite`"
    ):
        prepare(source, tmp_path / "c", PrepareOptions(**base | change))
    assert contents(tmp_path / "c") == before
    made = prepare(source, tmp_path / "c", PrepareOptions(**base | change, overwrite=True))
    assert not made.already_existed
    assert prepare(source, tmp_path / "c", PrepareOptions(**base | change)).already_existed


def test_without_validation_an_older_validation_store_goes(tmp_path):
    source = lines(tmp_path, TEXTS)
    prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    made = prepare(
        source, tmp_path / "c", PrepareOptions(tokenizer="bytes", validation=0, overwrite=True)
    )
    assert made.validation_store is None
    assert not list((tmp_path / "c").glob("validation*"))


KILLED = """
import os, signal, sys
from epochal.data import store_writer
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
owner, name = {"finish": (store_writer.StoreWriter, "finish"),
               "validation": (store_writer.StoreWriter, "commit"),
               "tokenizer": (store_writer.StoreWriter, "abort")}[sys.argv[3]]
setattr(owner, name, die)
options = PrepareOptions(tokenizer="bytes", overwrite=len(sys.argv) > 4)
prepare(sys.argv[1], sys.argv[2], options)
"""


@pytest.mark.parametrize("moment", ["finish", "validation", "tokenizer"])
def test_killed_half_way_and_again(tmp_path, moment):
    source = lines(tmp_path, TEXTS)
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "c"), moment]
    killed = subprocess.run(command, check=False)
    assert killed.returncode == -signal.SIGKILL
    if moment != "tokenizer":
        with pytest.raises(DataError, match="not a prepared corpus"):
            Corpus.open(tmp_path / "c")
    made = prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    expected = prepare(source, tmp_path / "d", PrepareOptions(tokenizer="bytes"))
    assert contents(tmp_path / "c") == contents(tmp_path / "d")
    assert made.train.content_sha256 == expected.train.content_sha256


def test_killed_while_replacing_before_anything_was_touched(tmp_path):
    source = lines(tmp_path, TEXTS)
    made = prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    lines(tmp_path, TEXTS[:40])
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "c"), "finish", "replace"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert Corpus.open(tmp_path / "c").train.tokens.tolist() == made.train.tokens.tolist()


def test_two_at_once(tmp_path):
    source = lines(tmp_path, TEXTS)
    (tmp_path / "c").mkdir()
    with (
        filelock.FileLock(tmp_path / "c" / ".lock"),
        pytest.raises(DataError, match=r"another process is preparing .*c; wait for it"),
    ):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))


# Nothing of others is lost


@pytest.mark.parametrize("name", ["train.bin", "validation.idx", "tokenizer.json", "run.json"])
def test_files_of_something_else_stay(tmp_path, name):
    source = lines(tmp_path, TEXTS)
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / name).write_text("precious")
    with pytest.raises(DataError, match=r"was not made by Epochal; choose|the folder of a run"):
        prepare(source, folder, PrepareOptions(tokenizer="bytes"))
    assert (folder / name).read_text() == "precious"
    assert not (folder / "train.idx").exists()
    if name != "run.json":
        assert prepare(
            source, folder, PrepareOptions(tokenizer="bytes", overwrite=True)
        ).train.documents


def test_bad_input_leaves_no_folder(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(DataError, match=r"bad.jsonl, line 2 has no field 'text'"):
        prepare(tmp_path / "bad.jsonl", tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl"]


def test_bad_input_keeps_an_older_corpus(tmp_path):
    source = lines(tmp_path, TEXTS)
    made = prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    before = contents(tmp_path / "c")
    source.write_text("no JSON")
    with pytest.raises(DataError, match="not valid JSON"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", overwrite=True))
    assert contents(tmp_path / "c") == before
    assert made.train.documents


def test_an_input_that_changes_meanwhile(tmp_path, monkeypatch):
    source = lines(tmp_path, TEXTS)
    original = module._write
    for texts in (TEXTS[:-1], [*TEXTS, "more"], ["other", *TEXTS[1:]]):

        def change(*arguments, texts=texts):
            lines(tmp_path, texts)
            original(*arguments)

        monkeypatch.setattr(module, "_write", change)
        with pytest.raises(DataError, match="changed while it was being prepared; run the comm"):
            prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", validation=0))
        assert not (tmp_path / "c").exists()
        lines(tmp_path, TEXTS)


# Full disks and places that cannot be written


@pytest.mark.parametrize("calls", range(6))
def test_a_full_disk_at_any_moment_keeps_the_older_corpus(tmp_path, monkeypatch, calls):
    source = lines(tmp_path, TEXTS)
    prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    before = contents(tmp_path / "c")
    lines(tmp_path, TEXTS[:40])
    real, done = os.fsync, []

    def full(descriptor):
        done.append(descriptor)
        if len(done) > calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*: the disk is full; free some space"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", overwrite=True))
    monkeypatch.undo()
    if calls < 5:  # two of each store, the tokenizer, then the first rename
        assert contents(tmp_path / "c") == before
    assert not list((tmp_path / "c").glob(".*tmp"))
    prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", overwrite=True))


def test_a_real_limit_of_file_sizes(tmp_path):
    source = lines(tmp_path, ["word " * 4000] * 50)
    script = (
        "import resource, sys\n"
        "from epochal.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "main(['data', 'prepare', *sys.argv[1:], '--tokenizer', 'bytes', '--validation', '0'])\n"
    )
    command = [sys.executable, "-c", script, str(source), "--out", str(tmp_path / "c")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    [sentence] = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "train.bin: the file would grow beyond a size limit there" in sentence
    assert not (tmp_path / "c").exists()


def test_places_that_are_no_folder(tmp_path):
    source = lines(tmp_path, TEXTS)
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "c"):
        with pytest.raises(StorageError, match=r"cannot write .*file.*choose another place"):
            prepare(source, out, PrepareOptions(tokenizer="bytes"))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_read_only_place(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    source = lines(tmp_path, TEXTS)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="the file system is read-only; choose another place"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))


def test_a_killed_process_does_not_hold_the_folder(tmp_path):
    source = lines(tmp_path, TEXTS)
    script = (
        "import sys, time\n"
        "from epochal.data import prepare as module\n"
        "from epochal.data.options import PrepareOptions\n"
        "def wait(*_):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "module._write = wait\n"
        "module.prepare(sys.argv[1], sys.argv[2], PrepareOptions(tokenizer='bytes'))\n"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "c")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(DataError, match="another process is preparing"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    process.kill()
    process.wait()
    process.stdout.close()
    time.sleep(0.05)
    assert prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes")).train.documents
    assert not list((tmp_path / "c").glob(".*tmp"))
    assert TokenStore.open(tmp_path / "c" / "train").metadata.preparation["seed"] == 1234

"""The shells' scripts, and what they are answered."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from epochal.cli.main import main


def answer(monkeypatch, capsys, asked, **env):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("_EPOCHAL_COMPLETE", asked)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(monkeypatch, capsys, tmp_path, shell):
    script = answer(monkeypatch, capsys, f"{shell}_source")
    assert f"_EPOCHAL_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        subprocess.run([shell, "-n", path], check=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("epochal tr", ["plain,train"]),
        ("epochal data pre", ["plain,prepare"]),
        ("epochal train --res", ["plain,--restart"]),
        ("epochal data prepare my_te", ["file,my_te"]),
        ("epochal train mine.to", ["file,mine.to"]),
        ("epochal eval runs/m", ["file,runs/m"]),
    ],
)
def test_what_bash_is_answered(monkeypatch, capsys, line, expected):
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert answer(monkeypatch, capsys, "bash_complete", **asked).split() == expected

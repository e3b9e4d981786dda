"""The script for a GPU's first minutes, at tiny sizes on the CPU. No figure of speed is judged."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

import gpu
from epochal import diagnosis

PARTS = [part for part in gpu.PARTS if part not in ("compiled", "step-425M-ar", "step-425M-mdm")]
"""Compiling takes a minute; at tiny sizes both sizes are one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("gpu")
    gpu.make_corpus(made, small=True)
    return made


@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_through_and_every_check_holds(part, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "WARM", 1)
    monkeypatch.setattr(gpu, "TIMED", 1)
    monkeypatch.setattr(gpu, "STEPS", 4)
    monkeypatch.setattr(diagnosis, "_PRODUCT", 32)
    out = tmp_path / "out.jsonl"
    words = ["--small", f"--part={part}", f"--within={folder}", f"--out={out}"]
    assert CliRunner().invoke(gpu.main, words, catch_exceptions=False).exit_code == 0
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert results
    for result in results:
        assert result.get("ok", True), result
        numbers = [value for value in result.values() if isinstance(value, float)]
        assert all(number >= 0 for number in numbers), result


def test_a_part_is_killed_at_its_limit_and_what_it_had_stays(tmp_path):
    out = tmp_path / "out.jsonl"
    code = f"import time; open({str(out)!r}, 'w').write('{{\"early\": 1}}\\n'); time.sleep(60)"
    gpu.run_part("slow", [sys.executable, "-S", "-c", code], 1, out)
    gpu.run_part("wrong", [sys.executable, "-S", "-c", "raise SystemExit(3)"], 30, out)
    early, killed, failed = map(json.loads, out.read_text().splitlines())
    assert early == {"early": 1}
    assert (killed["part"], killed["ended"]) == ("slow", "killed at its limit of 1 s")
    assert failed["ended"] == "failed with 3"


def test_all_parts_fit_into_eight_minutes():
    assert sum(limit for limit, _ in gpu.PARTS.values()) <= 480

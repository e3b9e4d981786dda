"""docs/json.md against what the commands print."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import click
import pytest

from epochal.bench.parts import as_json
from epochal.bench.timing import Row
from epochal.cli.main import cli, main
from epochal.data.download import Downloaded
from epochal.downstream_tasks.downstream import TaskResult
from epochal.evaluation.quality import Quality, QualityRow
from epochal.results import to_json
from epochal.studies.quickstart import Quickstart
from epochal.studies.study import StudyResult
from epochal.sweeps.submit import Submission
from epochal.sweeps.sweep import SweepResult
from tiny_runs import as_words, overrides

PAGE = Path(__file__).parents[2] / "docs" / "json.md"


def documented():
    """Command → the keys of its table."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        name, _, text = section.partition("\n")
        rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        found[name] = {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
    return found


KEYS = documented()


@pytest.fixture
def printed(capsys):
    """Run a command with --json → the value printed; of a list, its first."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        found = json.loads(out)
        return found[0] if isinstance(found, list) else found

    return run


def leaves(command, prefix=""):
    """(name, command) of everything that can be called."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            yield from leaves(child, f"{prefix} {name}".strip())
    else:
        yield prefix, command


def test_every_command_with_json_has_a_place_on_the_page():
    with_json = {
        name for name, command in leaves(cli) if "as_json" in {p.name for p in command.params}
    }
    text = PAGE.read_text()
    elsewhere = {"quickstart", "recipe"}  # in a sentence
    for name in with_json - set(KEYS):
        assert name in elsewhere or name.startswith("import "), name
        assert f"`{name}" in text or "## import" in text
    for name in KEYS:
        known = with_json | {"import"}
        assert re.sub(r" --.*", "", name) in known, name


def test_what_is_read_of_runs(printed, tiny_pair, tmp_path):
    pair = tmp_path / "pair"
    shutil.copytree(tiny_pair, pair)
    ar, mdm = pair / "ar", pair / "mdm"
    assert set(printed("eval", mdm, "--draws", 2)) == KEYS["eval"]
    assert set(printed("eval", ar, "--breakdown")) == KEYS["eval"] | {"breakdown"}
    against = printed("eval", ar, "--against", mdm, "--draws", 2)
    assert set(against) == KEYS["eval --against"]
    assert set(against["results"][0]) == KEYS["eval"]
    ensemble = printed("eval", ar, ar, "--ensemble")
    assert set(ensemble) == KEYS["eval --ensemble"]
    assert set(ensemble["ensemble"]) == set(ensemble["members"][0]) == KEYS["eval"]
    compared = printed("compare", ar, mdm)
    assert set(compared) | set(compared["runs"][0]) == KEYS["compare"] | named("compare")
    assert set(printed("runs", pair)) == KEYS["runs"]
    assert set(printed("report", ar, "--out", tmp_path / "r.html")) == KEYS["report"]
    memorised = printed("memorise", ar, "--out", tmp_path, "--prefixes", 8, "--length", 8,
                        "--places", 5, "--max-tokens", "0.2k")  # fmt: skip
    assert set(memorised) == KEYS["memorise"]
    assert named("memorise") <= set(memorised["checkpoints"][0])
    assert isinstance(printed("generate", ar, "--prompt", "The", "--tokens", 4), str)
    assert set(printed("average", ar, "--out", tmp_path / "mean")) == KEYS["average"]
    exported = tmp_path / "hf"
    assert set(printed("export", "hf", ar, "--out", exported)) == KEYS["export hf"]
    single = printed("export", "safetensors", ar, "--out", tmp_path / "x.safetensors")
    assert set(single) == KEYS["export safetensors"]
    assert set(printed("import", "hf", exported, "--out", tmp_path / "back")) == KEYS["import"]


def named(command):
    """Keys of the objects inside, which the right column names after "of each" or "per …"."""
    section = next(s for s in PAGE.read_text().split("\n## ") if s.startswith(command + "\n"))
    cells = re.findall(r"\| (?:of each|per [^:|]*): (.*?) \|$", section, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


def test_training(printed, tiny_corpus, tmp_path):
    words = as_words(overrides(tiny_corpus, tmp_path / "run") | {"train.steps": 2})
    assert set(printed("train", "quickstart", *words, "--dry-run")) == KEYS["train --dry-run"]
    assert set(printed("train", "quickstart", *words)) == KEYS["train"]


def test_data(printed, tmp_path):
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(40)))
    corpus, cut = tmp_path / "c", tmp_path / "cut"
    made = printed("data", "prepare", source, "--out", corpus, "--tokenizer", "bytes")
    assert set(made) == KEYS["data prepare"]
    assert set(made["train"]) == KEYS["data subset"]
    assert set(made["tokenizer"]) == {"name", "kind", "vocabulary", "sha256"}
    subset = printed("data", "subset", corpus, cut, "--unique-tokens", 50)
    assert set(subset) == KEYS["data subset"]
    assert set(printed("data", "inspect", corpus)) == KEYS["data inspect"]
    assert set(printed("data", "verify", corpus)) == KEYS["data verify"]
    assert set(printed("data", "names")) == KEYS["data names"]
    canaries = printed("data", "canaries", "--out", tmp_path / "k")
    assert set(canaries) == KEYS["data canaries"]


def test_plans_and_sizes(printed):
    planned = printed("plan", "--unique-tokens", "100M", "--flops", "1e20", "--laws", "paper")
    assert set(planned) == KEYS["plan"]
    assert named("plan") <= set(planned["families"][0])
    listed = printed("sweep", "paper/isoflop", "--dry-run")
    assert set(listed) == KEYS["sweep --dry-run"]
    assert named("sweep --dry-run") <= set(listed["runs"][0])
    assert set(printed("sizes")) == KEYS["sizes"]


def test_a_fit(printed, tmp_path):
    lines = ["family,params,tokens,unique_tokens,val_loss"]
    for n in (1e6, 3e6, 1e7, 3e7):
        for d in (1e8, 3e8, 1e9):
            loss = 1.7 + 400 / n**0.34 + 410 / d**0.28
            lines.append(f"ar,{n:.0f},{d:.0f},{d:.0f},{loss:.6f}")
    points = tmp_path / "points.csv"
    points.write_text("\n".join(lines))
    fitted = printed("fit", points, "--law", "chinchilla", "--bootstraps", 2)
    assert set(fitted) == KEYS["fit"]
    assert named("fit") <= set(fitted["families"]["ar"])


def test_what_takes_long_or_a_network_by_its_result(tmp_path):
    """The commands print `as_dict` of these."""

    def blank(kind, **values):
        return kind(**({field.name: None for field in dataclasses.fields(kind)} | values))

    page = {"page": tmp_path, "folder": tmp_path, "path": tmp_path, "logs": tmp_path}
    for command, kind in {
        "study": StudyResult,
        "submit": Submission,
        "data download": Downloaded,
        "downstream": TaskResult,
        "quality": Quality,
    }.items():
        names = {field.name for field in dataclasses.fields(kind)}
        filled = page | {"checks": []}
        result = blank(kind, **{key: value for key, value in filled.items() if key in names})
        content = result.as_dict() if hasattr(result, "as_dict") else to_json(result)
        assert set(content) == KEYS[command]
    assert {field.name for field in dataclasses.fields(QualityRow)} == named("quality")
    assert set(to_json(blank(SweepResult))) == KEYS["sweep"]
    bench = json.loads(as_json([Row("p", "n", 1.0, "s", 0.0, 2.0)]))
    assert set(bench) == KEYS["bench"]
    assert set(bench["rows"][0]) == named("bench")
    assert {field.name for field in dataclasses.fields(Quickstart)} == {"comparison", "page"}

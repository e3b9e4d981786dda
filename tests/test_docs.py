"""The docs are true: generated pages are current, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from epochal.cli.main import cli, main
from epochal.recipe import known_keys

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


@pytest.mark.parametrize("name", ["recipe.toml", "cli.md", "json.md"])
def test_pages_made_from_the_code_are_current(name):
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    current = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert current == made[name], "run `make docs`"


@each_page
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@each_page
def test_commands_and_their_options_exist(page):
    for words in commands(page.read_text(encoding="utf-8")):
        command, context = cli, None
        while hasattr(command, "get_command") and words and not words[0].startswith("-"):
            command = command.get_command(context, words.pop(0))
            assert command is not None, page
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, word
            elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)?=.+", word):
                key = word.partition("=")[0]
                assert key in known_keys() or key.startswith("sweep."), word


def commands(text):
    """Words of each `epochal …` line in the page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["epochal"]:
                yield [word for word in words[1:] if word != ">"]


NOT_RUN = {
    "quickstart": "takes minutes",
    "compare": "trains, or reads runs that take minutes",
    "study": "takes at least minutes",
    "sweep": "trains",
    "fit": "hundreds of resamples",
    "eval": "reads a trained run",
    "ensemble": "reads a trained run",
    "average": "reads a trained run",
    "downstream": "reads a trained run",
    "memorise": "reads a trained run",
    "quality": "reads a trained run",
    "generate": "reads a trained run",
    "report": "reads trained runs",
    "runs": "reads trained runs",
    "import": "reads a checkpoint",
    "export": "reads a trained run",
    "data": "makes a corpus, or downloads one",
    "train": "trains, unless --dry-run is given",
}
"""Command → why its lines on the pages are not run here."""
NEEDS_A_FILE = ("law.toml", "--corpus", "isoflop.toml")


@each_page
def test_commands_that_take_a_moment_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0] in NOT_RUN and "--dry-run" not in words:
            continue
        if any(name in words for name in NEEDS_A_FILE):
            continue
        if page.parent.name == "experiments":
            continue  # tests/sweeps/test_paper_recipes.py loads those
        words = [word for word in words if word != "my.toml"]
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, (words, capsys.readouterr().err)

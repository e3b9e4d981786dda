"""The docs are true: generated pages are current, links lead somewhere, commands run.

`make docs` builds the site, with the same checks of its own; this needs nothing that it installs.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import runpy
import shlex
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from epochal.cli.main import cli, main
from epochal.families import family_names
from epochal.recipe import known_keys
from epochal.report.evidence import shipped_evidence
from epochal.results import to_json
from epochal.studies.compare import compare
from epochal.studies.options import CompareOptions
from tiny_runs import overrides

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md"]
MADE = ("recipe.toml", "cli.md", "json.md", "api.md", "results/README.md")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


@pytest.fixture(scope="module")
def generate():
    """What docs/generate.py defines."""
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.fixture(scope="module")
def made_pages(generate):
    return generate["pages"]()


@pytest.mark.parametrize("name", MADE)
def test_pages_made_from_the_code_are_current(name, made_pages):
    current = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert current == made_pages[name], "run `make docs`"


def test_the_evidence_of_the_wheel_is_of_these_records(generate, made_pages):
    assert shipped_evidence().records == generate["record_sums"](), "run `make docs`"
    for target in re.findall(r"\]\((figures/.+?)\)", made_pages["results/README.md"]):
        assert (ROOT / "docs" / "results" / target).is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_evidence_of_the_wheel_follows_from_the_records(generate):
    """Fitted laws differ in late digits from machine to machine."""
    assert_close(to_json(shipped_evidence()), to_json(generate["make_evidence"]()), "evidence")


def assert_close(one, other, place):
    if isinstance(one, dict):
        assert set(one) == set(other), place
        for key in one:
            assert_close(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, f"{place}[{number}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=0.02), place
    else:
        assert one == other, place


@each_page
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, _, part in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", text):
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not part or part in anchors(file), f"{target}#{part}"


@cache
def anchors(page):
    """Fragments of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_every_page_has_its_place_in_the_site():
    named = re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    outside = runpy.run_path(str(ROOT / "docs" / "site.py"))["OUTSIDE"]
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(named) == sorted(pages | set(outside.values())), "see `nav` in mkdocs.yml"


def test_errors_that_are_explained_are_in_the_code():
    sources = (file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # parts of one sentence
    faq = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    for sentence in re.findall(r"^### `(.+)`$", faq, flags=re.MULTILINE):
        for part in sentence.split("…"):
            assert part.strip(" ():.;") in code, sentence


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


def blocks(text):
    """(title or "", lines as words) of each block of shell commands."""
    for title, block in re.findall(r'```sh(?: title="(.*?)")?\n(.*?)```', text, flags=re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        yield title, [words for line in lines if (words := shlex.split(line, comments=True))]


def commands(text):
    """Words of each `epochal …` line in the page's shell blocks."""
    for _, lines in blocks(text):
        yield from (epochal_words(words) for words in lines if words[0] == "epochal")


def epochal_words(words):
    return [word for word in words[1:] if word != ">"]


TYPED = re.compile(r"last typed \d{4}-\d\d-\d\d(, shortened)?|not typed: needs .+")
"""Title of a block that is not run here. Shortened: with fewer steps, minutes or processes."""
DRY = ("train", "sweep", "submit")
"""Commands that are run here with --dry-run."""


@pytest.fixture(scope="module")
def at_work(tmp_path_factory, tiny_corpus):
    """A folder with what the pages speak of: a text, prompts, points, runs of all families."""
    folder = tmp_path_factory.mktemp("pages")
    pair = folder / "quickstart"
    values = overrides(tiny_corpus, pair, data__sequence_length=128)
    del values["run_dir"]
    compare(None, values, CompareOptions(out=pair, families=family_names()))
    shutil.copytree(pair, folder / "runs/my-sweep")
    shutil.copytree(pair, folder / "runs/isoflop")
    shutil.copytree(pair / "mdm", folder / "runs/first")
    for name in ("mine.toml", "recipe.toml"):
        shutil.copy(pair / "ar/recipe.toml", folder / name)
    (folder / "my_text").mkdir()
    words, drawn = ("one", "text", "says", "what", "others", "do", "not", "say"), random.Random(1)
    for number in range(30):
        text = f"Text number {number}.\n" + " ".join(drawn.choices(words, k=200))
        (folder / "my_text" / f"{number}.txt").write_text(text, encoding="utf-8")
    paragraphs = (f"Paragraph number {n} is one of many." for n in range(80))
    (folder / "input.txt").write_text("\n\n".join(paragraphs))
    shutil.copy(folder / "input.txt", folder / "book.txt")
    (folder / "reviews.csv").write_text(
        "review\n" + "".join(f"It was good {n}.\n" for n in range(40))
    )
    with gzip.open(folder / "posts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"body": f"Post {n} of many. " * 20}) + "\n" for n in range(40))
    np.save(folder / "proteins.npy", np.arange(400, dtype=np.uint16).reshape(20, 20) % 25)
    (folder / "constants.toml").write_text("E = 1.7\n")
    (folder / "prompts.txt").write_text("The statement\nIf the value is [MASK:3]\n")
    (folder / "points.csv").write_text(points())
    claim = '{"bits_per_byte": 1.1465, "nats_per_token": 3.4172, "bytes_per_token": 2.442}'
    (folder / "claim.json").write_text(claim)
    return folder


def points():
    """A table of losses by a law of known constants."""
    rows = ["params,tokens,unique_tokens,val_loss"]
    for params in (1e6, 3e6, 1e7, 3e7):
        for tokens in (1e8, 3e8, 1e9, 3e9):
            loss = 1.7 + 400 / params**0.34 + 410 / tokens**0.28
            rows.append(f"{params},{tokens},{tokens},{loss}")
    return "\n".join(rows)


@each_page
def test_commands_run_or_say_when_they_were_typed(page, at_work, tmp_path, monkeypatch, capsys):
    text = page.read_text(encoding="utf-8")
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r"^    (epochal|torchrun|python|pip) ", plain, flags=re.MULTILINE)
    untitled = [lines for title, lines in blocks(text) if not title]
    assert all(TYPED.fullmatch(title) for title, _ in blocks(text) if title)
    if not untitled or page.parent.name == "experiments":
        return  # tests/sweeps/test_paper_recipes.py loads those
    monkeypatch.chdir(shutil.copytree(at_work, tmp_path / "work"))
    for line in (line for lines in untitled for line in lines):
        assert line[0] == "epochal", f"{line}: give the block a title"
        words = [word for word in epochal_words(line) if word != "my.toml"]
        if words[0] in DRY and "--dry-run" not in words:
            words.append("--dry-run")
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, (words, capsys.readouterr().err)


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        exec("".join(cell["source"]).replace("STEPS = 150", "STEPS = 4"), names)
    assert names["comparison"].pairs
    assert "leader:" in capsys.readouterr().out

"""The family of docs/extending.md: put on the list, it goes through every room by itself."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest
import torch

from doc_examples import example_module
from epochal import families
from epochal.cli.main import main
from epochal.errors import CheckpointError
from epochal.interop.load import load
from epochal.recipe import identity, key_docs, load_recipe
from epochal.runs import RunRecord
from parts.options import Setting
from parts.steps import make_step, variants
from tiny_runs import as_words, overrides


@pytest.fixture(scope="module", autouse=True)
def entry(tmp_path_factory):
    """The entry of the page, on the list of families."""
    folder = tmp_path_factory.mktemp("example")
    entry = example_module("src/epochal/families/replaced.py", folder).FAMILY
    example_module("src/epochal/objectives/replaced.py", folder)
    families.register(entry)
    yield entry
    families.unregister("replaced")
    for room in ("families", "objectives"):
        del sys.modules[f"epochal.{room}.replaced"]


@pytest.fixture
def run(capsys):
    """Run a command with --json → what it printed."""

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        return json.loads(out)

    return call


@pytest.fixture(scope="module")
def trained(tiny_corpus, tmp_path_factory):
    """A folder with a run of each family, trained, evaluated and compared by one command."""
    folder = tmp_path_factory.mktemp("three")
    values = overrides(tiny_corpus, folder, train__steps=60, eval__every="10 steps")
    del values["run_dir"]
    with pytest.raises(SystemExit) as ended:
        main(["compare", "quickstart", *as_words(values), "--out", str(folder)])
    assert ended.value.code == 0
    return folder


def test_a_name_is_taken_once(entry):
    with pytest.raises(ValueError, match="replaced"):
        families.register(entry)


def test_its_options_are_a_section_of_the_recipe(entry, capsys):
    with pytest.raises(SystemExit):
        main(["recipe"])
    page = capsys.readouterr().out
    assert "[replaced]" in page
    assert "# Share of the inputs that are replaced." in page
    recipe = load_recipe(None, ["family=replaced", "train.steps=1", "replaced.replace=0.2"])
    assert recipe.options == entry.options(replace=0.2)
    assert identity(recipe)["replaced.replace"] == 0.2
    assert not [key for key in identity(recipe) if key.startswith(("ar.", "mdm."))]


def test_train_and_evaluate(trained, run):
    record = RunRecord(trained / "replaced")
    assert record.status == "finished"
    losses = [line["loss"] for line in record.metrics("train")]
    assert losses[-1] < losses[0] - 0.5  # it learned
    scored = run("eval", trained / "replaced")
    assert scored["estimator"] == "exact"
    assert 2 < scored["nll_nats_per_token"] < 6


def test_it_has_students(trained, run, tmp_path):
    run("distill", trained / "replaced", "--out", tmp_path / "s", "seed=7", "train.steps=3")
    record = RunRecord(tmp_path / "s")
    assert record.family == "replaced"
    assert min(line["teacher_kl"] for line in record.metrics("train")) > 0


def test_compare_takes_all_three(trained, run):
    found = run("compare", *(trained / name for name in families.default_families()))
    assert {one["family"] for one in found["runs"]} == {"ar", "mdm", "replaced"}
    assert len({frozenset(pair["families"]) for pair in found["pairs"]}) == 3
    assert {line["family"] for line in found["families"]} == {"ar", "mdm", "replaced"}


def test_it_writes_text_and_can_be_asked_what_it_remembers(trained, run, tmp_path):
    (text,) = run("generate", trained / "replaced", "--prompt", "The", "--tokens", 4)
    assert text.startswith("The")
    small = ["--prefixes", 8, "--length", 8, "--num-prefixes", 5, "--max-tokens", "0.2k"]
    found = run("memorise", trained / "ar", trained / "replaced", "--out", tmp_path, *small)
    assert found["checkpoints"]


@pytest.fixture(scope="module")
def law(tmp_path_factory):
    """A law file of all three families, from runs that follow laws of known constants."""
    folder = tmp_path_factory.mktemp("law")
    lines = ["family,params,tokens,unique_tokens,val_loss"]
    for family, floor in (("ar", 1.9), ("mdm", 1.6), ("replaced", 1.7)):
        for n in (1e6, 3e6, 1e7, 3e7, 1e8):
            for d in (1e8, 3e8, 1e9, 3e9):
                loss = floor + 400 / n**0.34 + 410 / d**0.28
                lines.append(f"{family},{n:.0f},{d:.0f},{d:.0f},{loss:.6f}")
    (folder / "points.csv").write_text("\n".join(lines))
    words = ["fit", folder / "points.csv", "--law", "chinchilla", "--bootstraps", 20]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--out", str(folder / "law.toml")])
    assert ended.value.code == 0
    return folder / "law.toml"


def test_fit_and_plan(law, run):
    plan = run("plan", "-U", "1G", "--flops", "1e19", "--laws", law)
    assert [one["family"] for one in plan["families"]] == ["ar", "mdm", "replaced"]
    assert plan["winner"] == "mdm"  # the lowest floor, all else alike
    assert len(plan["pairs"]) == 3


def test_report_shows_it(entry, trained, tmp_path, run):
    run("report", trained, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert entry.title in page
    assert entry.color in page


def test_a_sweep_and_a_dry_run_name_it(tiny_corpus, tmp_path, run):
    values = overrides(tiny_corpus, tmp_path / "run", family="replaced")
    assert run("train", "quickstart", *as_words(values), "--dry-run")
    (tmp_path / "sweep.toml").write_text(
        '[sweep]\ndesign = "epochs"\nfamilies = ["ar", "replaced"]\nepochs = [1, 2]\n'
        "sizes = ['32x1x2']\n[base.data]\nsequence_length = 32\n"
        f"corpus = {json.dumps(str(tiny_corpus))}\n"
    )
    listed = run("sweep", tmp_path / "sweep.toml", "--dry-run")
    assert {one["family"] for one in listed["runs"]} == {"ar", "replaced"}


def test_it_is_exported_and_read_as_no_other(entry, trained, run, tmp_path, capsys):
    made = run("export", "hf", trained / "replaced", "--out", tmp_path / "hf")
    assert (made["family"], made["auto_classes"]) == ("replaced", ["AutoModelForCausalLM"])
    assert run("export", "safetensors", trained / "replaced", "--out", tmp_path)["params"] > 0
    back = run("import", "hf", tmp_path / "hf", "--out", tmp_path / "back")
    assert back["family"] == "replaced"
    ids = torch.arange(40).reshape(2, 20)
    before, after = load(trained / "replaced"), load(tmp_path / "back")
    assert torch.equal(after.logits(ids), before.logits(ids))
    assert after.recipe.options == before.recipe.options
    families.unregister("replaced")  # where nobody knows it, it is not taken for ar
    try:
        with pytest.raises(CheckpointError, match="of the family 'replaced', which is none"):
            load(tmp_path / "hf")
    finally:
        families.register(entry)


def test_its_settings_are_refused_by_the_others(entry, tiny_corpus, tmp_path, capsys):
    values = overrides(tiny_corpus, tmp_path / "run", family="ar", replaced__replace=0.2)
    with pytest.raises(SystemExit) as ended:
        main(["train", "quickstart", *as_words(values)])
    assert ended.value.code == 2
    assert "`replaced.replace` is a setting of the family replaced" in capsys.readouterr().err


def test_help_documentation_and_benchmark_list_it(entry, capsys, monkeypatch):
    # Options list the families that there are when a command is first read.
    monkeypatch.delitem(sys.modules, "epochal.cli.interop", raising=False)
    for words in (["import", "hf", "--help"], ["recipe"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "replaced" in capsys.readouterr().out
    docs = key_docs()  # of which docs/recipe.toml is made
    assert f"replaced: {entry.title}." in docs["family"]
    assert docs["replaced.replace"] == "Share of the inputs that are replaced."
    assert "ours replaced" in variants()
    tiny = Setting(d_model=32, layers=1, heads=2, sequence_length=16, batch=4, vocabulary=200)
    step = make_step("ours replaced", replace(tiny, bf16=False, compiled=False))
    assert math.isfinite(step(0))


@pytest.mark.parametrize("name", ["ar", "mdm", "replaced"])
def test_every_entry_is_whole(name):
    entry = families.get_family(name)
    options = entry.options() if entry.options else None
    for answer in (entry.loss_is_nll, entry.explicit_mask, entry.reads_short_rows):
        assert answer(options) in (True, False)
    assert entry.color != entry.dark_color

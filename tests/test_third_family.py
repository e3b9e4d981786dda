"""A family that nobody knew: registered here, it goes through every room by itself.

`replaced` is autoregressive with some inputs replaced by other tokens of the row while training.
Its likelihood is exact, as AR's is. All it takes is its options, its objective and its entry.
"""

from __future__ import annotations

import json

import pytest
import torch
from pydantic.dataclasses import dataclass

from epochal import families, rng
from epochal.cli.main import main
from epochal.families.family import OPTIONS_CONFIG, Family, Share
from epochal.objectives import Autoregressive, Problem
from epochal.recipe import identity, load_recipe
from epochal.runs import RunRecord
from tiny_runs import as_words, overrides


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class ReplacedOptions:
    """Options of the recipe's section `[replaced]`."""

    replace: Share = 0.1
    """Share of the inputs that are replaced."""


class ReplacedInputs(Autoregressive):
    """Next-token prediction from inputs of which some are another token of the row."""

    def __init__(self, options: ReplacedOptions) -> None:
        super().__init__()
        self.replace = options.replace

    @classmethod
    def from_recipe(cls, recipe, mask):
        return cls(recipe.options)

    def training_problem(self, tokens, rows):
        problem = super().training_problem(tokens, rows)
        keys = rng.row_keys(rng.stream_key(0, "replaced inputs"), rows.keys)
        drawn = rng.uniforms(keys, problem.inputs.shape[1])
        replaced = torch.from_numpy(drawn < self.replace)
        inputs = torch.where(replaced, problem.inputs.roll(5, dims=1), problem.inputs)
        return Problem(
            inputs=inputs,
            targets=problem.targets,
            weights=problem.weights,
            denominator=problem.denominator,
            attention="causal",
        )


ENTRY = Family(
    name="replaced",
    title="autoregressive with replaced inputs",
    short="RAR",
    color="#117733",
    dark_color="#66cc99",
    marker="^",
    exact=True,
    objective="test_third_family:ReplacedInputs",
    attention="causal",
    writer="epochal.generation.autoregressive",
    options=ReplacedOptions,
    loss_is_nll=lambda options: options.replace == 0,
)


@pytest.fixture(scope="module", autouse=True)
def _on_the_list():
    families.register(ENTRY)
    yield
    families.unregister("replaced")


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


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="replaced"):
        families.register(ENTRY)


def test_its_options_are_a_section_of_the_recipe(capsys):
    with pytest.raises(SystemExit):
        main(["recipe"])
    page = capsys.readouterr().out
    assert "[replaced]" in page
    assert "# Share of the inputs that are replaced." in page
    recipe = load_recipe(None, ["family=replaced", "train.steps=1", "replaced.replace=0.2"])
    assert recipe.options == ReplacedOptions(replace=0.2)
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


def test_report_shows_it(trained, tmp_path, run):
    run("report", trained, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert ENTRY.title in page
    assert ENTRY.color in page


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


@pytest.mark.parametrize("name", ["ar", "mdm", "replaced"])
def test_every_entry_is_whole(name):
    entry = families.get_family(name)
    options = entry.options() if entry.options else None
    for answer in (entry.loss_is_nll, entry.explicit_mask, entry.reads_short_rows):
        assert answer(options) in (True, False)
    assert entry.color != entry.dark_color

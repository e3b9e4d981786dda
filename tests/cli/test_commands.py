"""Every command with good and with bad input; exit codes are part of the interface."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from epochal.cli.main import _COMMANDS, main
from epochal.runs import RunRecord
from tiny_runs import as_words, overrides


@pytest.fixture
def call(capsys):
    """Run a command → (exit code, standard output, standard error)."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def refused(result, *words):
    """The command ended with code 2 and one sentence that has all `words`."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_explains_itself(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "epochal " in out
    if command not in ("sizes",):
        assert "xample" in out or "begin" in out


def test_the_shell_is_told_how_to_complete_a_word(call, monkeypatch):
    monkeypatch.setenv("_EPOCHAL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "epochal pl")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert call()[:2] == (0, "plain,plan\n")


def test_short_commands_import_only_what_they_use(tmp_path):
    """Judged by modules, in one fresh process: answers within a second are owed to this."""
    heavy = [
        "torch",
        "transformers",
        "matplotlib",
        "pyarrow",
        "scipy",
        "rich",
        "tomlkit",
        "tiktoken",
        "jinja2",
    ]
    commands = [
        (["--help"], [*heavy, "numpy", "pydantic"]),
        (["plan", "--help"], [*heavy, "numpy", "pydantic"]),
        (["data", "inspect", "--help"], [*heavy, "numpy"]),
        (["runs", str(tmp_path), "--json"], heavy),
        (["plan", "--unique-tokens", "100M", "--flops", "1e20", "--json"], heavy),
        (["fit", "--help"], heavy),
    ]
    program = """
import json, sys
import epochal
from epochal.cli.main import main

for command, avoided in json.load(sys.stdin):
    try:
        main(command)
    except SystemExit as end:
        assert not end.code or command[0] == "runs", command  # there are none in an empty folder
    found = set(avoided) & set(sys.modules)
    assert not found, f"{command} imports {found}"
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_command(call):
    refused(call("trian"), "trian", "train")


def test_train_dry_run_and_run(call, tiny_corpus, tmp_path):
    words = as_words(overrides(tiny_corpus, tmp_path / "run", train__steps=4))
    code, out, _ = call("train", *words, "--dry-run", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["numbers"]["steps"] == 4
    assert facts["numbers"]["tokens"] == 4 * 4 * 32
    assert not (tmp_path / "run").exists()
    code, out, _ = call("train", *words)
    assert code == 0
    assert f"epochal eval {tmp_path / 'run'}" in out
    code, out, err = call("train", *words, "--json")
    assert json.loads(out)["steps"] == 4
    assert "already finished" in err


def test_train_refuses_options_that_would_have_no_effect(call, tiny_corpus, tmp_path):
    words = as_words(overrides(tiny_corpus, tmp_path / "run"))
    for option in (("--gpu", "A100"), ("--gpus", "2"), ("--mfu", "0.5")):
        refused(call("train", *words, *option), option[0], "--dry-run")
    for option in ("--restart", "--profile", "--eval"):
        refused(call("train", *words, "--dry-run", option), option, "--dry-run")
    assert not (tmp_path / "run").exists()
    refused(call("train", *words, "--dry-run", "--gpu", "H101"), "--gpu", "H101", "H100")
    refused(call("train", *words, "--dry-run", "--mfu", "40"), "--mfu", "40")


def test_all_processes_take_part_in_the_evaluation_after_training(call, tiny_pair, monkeypatch):
    """Else the first one waits for the others, which have ended."""
    import epochal.evaluation.evaluate
    import epochal.training.train

    record, evaluated = RunRecord(tiny_pair / "ar"), []
    monkeypatch.setattr(epochal.training.train, "train", lambda *args, **options: record)
    monkeypatch.setattr(
        epochal.evaluation.evaluate,
        "evaluate_best",
        lambda record: evaluated.append(record) or record.evaluation("best"),
    )
    launched = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    code, out, _ = call("train", "quickstart", "--eval")
    assert (code, out) == (0, "")
    assert evaluated == [record]


def test_train_with_mistakes(call, tiny_corpus, tmp_path):
    words = as_words(overrides(tiny_corpus, tmp_path / "run"))
    refused(call("train", *words, "train.epoch=3"), "`train.epoch`", "`train.epochs`")
    refused(call("train", *words, "train.tokens=1M"), "`train.tokens` and `train.steps`")
    refused(
        call("train", *words, "data.unique_tokens=900M"), "data.unique_tokens", "set a lower number"
    )
    refused(call("train", *words, "data.sequence_length=5000"), "data.sequence_length")
    refused(call("train", *words, 'data.corpus="nowhere"'), "nowhere", "epochal data prepare")
    refused(call("train", *words, "train.lr=fast"), "`train.lr`", "fast")
    refused(call("train", *words, 'train.device="cuda:77"'), "train.device")
    refused(call("train", "no-such-recipe"), "no-such-recipe", "quickstart")
    refused(call("train", "quickstart", "nonsense"), "key=value")
    (tmp_path / "bad.toml").write_text("[train\n")
    refused(call("train", tmp_path / "bad.toml"), "bad.toml", "line 1")


def test_train_where_nothing_can_be_written(call, tiny_corpus, tmp_path):
    (tmp_path / "file").write_text("")
    words = as_words(overrides(tiny_corpus, tmp_path / "file" / "run"))
    refused(call("train", *words), "file", "not a folder")


def test_eval(call, tiny_pair):
    code, out, _ = call("eval", tiny_pair / "mdm")
    assert code == 0
    assert "upper bound" in out
    assert "from the draws" in out
    code, out, _ = call("eval", tiny_pair / "ar", "--json")
    assert json.loads(out)["estimator"] == "exact"
    refused(call("eval", tiny_pair), "is not a run")
    refused(call("eval", tiny_pair / "mdm", "--draws", "1"), "at least 2")
    refused(call("eval", tiny_pair / "mdm", "--estimator", "best"), "estimator")


def test_compare(call, tiny_pair):
    code, out, _ = call("compare", tiny_pair / "ar", tiny_pair / "mdm")
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["family", "seeds", "parameters"]
    assert "nats per token" in out
    code, out, _ = call("compare", tiny_pair / "ar", tiny_pair / "mdm", "--json")
    assert list(json.loads(out)["best"]) == ["ar", "mdm"]
    refused(call("compare", tiny_pair / "ar", tiny_pair / "mdm", "--out", "x"), "--out")
    refused(call("compare", tiny_pair / "ar"), "at least two")
    refused(call("compare", "quickstart", "family=ar"), "`family`")


def test_generate(call, tiny_pair):
    code, out, _ = call("generate", tiny_pair / "mdm", "--prompt", "a [MASK:2] b", "--seed", "3")
    assert code == 0
    assert out.startswith("a ")
    again = call("generate", tiny_pair / "mdm", "--prompt", "a [MASK:2] b", "--seed", "3")
    assert again[1] == out
    code, out, _ = call("generate", tiny_pair / "ar", "--tokens", "5", "--samples", "2", "--json")
    assert code == 0
    assert (
        len(json.loads(out)["texts"] if isinstance(json.loads(out), dict) else json.loads(out)) == 2
    )
    refused(call("generate", tiny_pair / "ar", "--tokens", "0"), "--tokens 0")
    refused(call("generate", tiny_pair / "ar", "--prompt", "[MASK]"), "cannot fill in")
    refused(call("generate", tiny_pair / "ar", "--cached"), "--cached", "autoregressive")
    refused(call("generate", tiny_pair / "ar", "--order", "confidence"), "--order")
    refused(call("generate", tiny_pair / "nothing"), "is not a run")


def test_generate_streams_and_reads_files(call, tiny_pair, tmp_path):
    run = tiny_pair / "mdm"
    words = ("--prompt", "The list", "--tokens", "8", "--seed", "2")
    assert call("generate", run, *words, "--stream")[1] == call("generate", run, *words)[1]
    (tmp_path / "prompts.txt").write_text("The list\nA [MASK:2-3] name\n")
    files = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "texts.jsonl")
    code, out, _ = call("generate", run, *files, "--tokens", "5")
    assert code == 0
    assert "2 prompts written" in out
    assert len((tmp_path / "texts.jsonl").read_text().splitlines()) == 2
    assert "2 already there" in call("generate", run, *files, "--tokens", "5")[1]
    refused(call("generate", run, *files, "--tokens", "6"), "with other settings")
    refused(call("generate", run, *files[:2]), "go together")
    refused(call("generate", run, *files, "--prompt", "a"), "neither --prompt")
    refused(call("generate", run, "--stream", "--json"), "leave out --json")
    refused(call("generate", run, "--cached"), "--cached", "needs blocks")
    refused(call("generate", run, "--block", "4", "--steps", "2", "--tokens", "12"), "3 blocks")


def test_quality(call, tiny_pair, tmp_path):
    runs = shutil.copytree(tiny_pair, tmp_path / "pair")
    words = ("--judge", runs / "ar", "--samples", "4", "--tokens", "8")
    code, out, _ = call("quality", runs / "mdm", *words, "--steps", "1,4")
    assert code == 0
    assert "real text" in out
    assert "distinct-1" in out
    code, out, _ = call("quality", runs / "ar", *words, "--json")
    assert [row["steps"] for row in json.loads(out)["rows"]] == [8]
    refused(call("quality", runs / "mdm", *words, "--steps", "1,a"), "list of whole numbers")


def test_downstream(call, tiny_pair, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from local_tasks import write_rows

    runs = shutil.copytree(tiny_pair, tmp_path / "pair")
    rows = write_rows(tmp_path / "rows", tasks=["sciq", "lambada_standard"])
    words = ("--tasks", "sciq,lambada_standard", "--data", rows)
    code, out, _ = call("downstream", runs / "mdm", *words, "--draws", "8")
    assert code == 0
    assert "25.00 %" in out  # chance
    assert "68.67 %" in out  # the paper's
    assert "up to 8 masks" in out
    code, out, _ = call("downstream", runs / "ar", *words, "--json")
    assert [one["task"] for one in json.loads(out)] == ["sciq", "lambada_standard"]
    code, out, err = call("downstream", runs / "mdm", *words, "--mode", "ar", "--no-pad")
    assert "mode chain_rule" in out
    assert "short rows not padded" in out
    assert "ar → chain_rule" in err
    refused(call("downstream", runs / "ar", *words, "--mode", "mc"), "exact")
    refused(call("downstream", runs / "ar", *words, "--draws", "8"), "--draws 8")
    refused(call("downstream", tmp_path / "no", *words), "is not a run")


def test_recipe_is_a_recipe(call, tmp_path):
    code, out, _ = call("recipe", "quickstart", "train.epochs=3")
    assert code == 0
    (tmp_path / "mine.toml").write_text(out)
    code, again, _ = call("recipe", tmp_path / "mine.toml", "--json")
    assert json.loads(again)["train"]["epochs"] == 3
    refused(call("recipe", "quickstart", "train.lr=-1"), "train.lr")


def test_sizes(call):
    code, out, _ = call("sizes", "--json")
    assert code == 0
    assert len(json.loads(out)) == 54
    assert call("sizes")[0] == 0
    assert call("sizes", "--nonsense")[0] == 2


def test_quickstart_with_mistakes(call, tmp_path):
    refused(call("quickstart", "--text", tmp_path / "none", "--out", tmp_path / "q"), "none")
    refused(call("quickstart", "train.epoch=1", "--out", tmp_path / "q"), "train.epochs")
    assert not (tmp_path / "q").exists()


def test_sweep_dry_run_and_mistakes(call, tmp_path):
    file = tmp_path / "iso.toml"
    file.write_text('[sweep]\ndesign = "isoflop"\nsizes = ["7M", "14M"]\nflops = [1e17]\n')
    code, out, _ = call("sweep", file, "--dry-run", "--gpu", "H100", "sweep.families=[ar, mdm]")
    assert code == 2  # a list of bare words is no TOML
    code, out, _ = call("sweep", file, "--dry-run", "--gpu", "H100", 'sweep.families=["ar","mdm"]')
    assert code == 0
    assert "4 runs" in out
    assert "H100 hours" in out
    code, out, _ = call("sweep", file, "--dry-run", "--json")
    assert json.loads(out)["total"]["runs"] == 2
    refused(call("sweep", file, "--dry-run", "sweep.flop=[1e15]"), "sweep.flop", "flops")
    refused(call("sweep", file, "--dry-run", "train.lrr=1"), "train.lrr", "train.lr")
    refused(call("sweep", file, "--gpu", "H100"), "--dry-run")
    refused(call("sweep", file, "--gpu", "H100", "--slurm"), "--gpu", "--dry-run")
    refused(call("sweep", file, "--slurm", "--jobs", "1"), "--jobs", "--parallel")
    refused(call("sweep", file, "--slurm", "--reuse", tmp_path), "--reuse")
    refused(call("sweep", file, "--dry-run", "--retry"), "--retry", "--dry-run")
    refused(call("sweep", file, "--dry-run", "--out", tmp_path), "--out", "--dry-run")
    refused(call("sweep", file, "--jobs", "0", 'data.corpus="nowhere"'), "--jobs", "at least 1")
    refused(call("sweep", "quickstart", "--dry-run"), "[sweep]", "epochal train quickstart")
    refused(call("sweep", tmp_path / "none.toml"), "none.toml")
    refused(call("sweep", file, 'data.corpus="nowhere"', "--jobs", "2"), "nowhere")


def test_submit_dry_run_and_mistakes(call, tmp_path):
    code, out, _ = call("submit", "quickstart", "--gpus", "2", "--time", "2h", "--dry-run")
    assert code == 0
    assert "#SBATCH --time=120" in out
    assert "torch.distributed.run" in out
    file = tmp_path / "iso.toml"
    file.write_text('[sweep]\ndesign = "isoflop"\nsizes = ["7M", "14M"]\nflops = [1e17]\n')
    words = ("--slurm", "--dry-run", "--partition", "gpu", "--out", tmp_path / "iso")
    code, out, _ = call("sweep", file, *words)
    assert code == 0
    assert "#SBATCH --array=0-1%2" in out
    assert "#SBATCH --partition=gpu" in out
    assert not (tmp_path / "iso").exists()
    refused(call("sweep", file, "--dry-run", "--partition", "gpu"), "--partition", "--slurm")
    refused(call("submit", "quickstart", "--time", "soon", "--dry-run"), "soon", "4h")
    refused(call("submit", "quickstart", "--sbatch", "x", "--dry-run"), "NAME=VALUE")
    refused(call("submit", "quickstart", "--memory", "9", "--cluster", "local"), "--memory")
    refused(call("submit", "quickstart", "train.lrr=1", "--dry-run"), "train.lrr")
    refused(call("submit", "quickstart", 'data.corpus="nowhere"'), "nowhere")


def test_runs(call, tiny_pair, tmp_path):
    code, out, _ = call("runs", tiny_pair)
    assert code == 0
    assert "best NLL" in out
    assert "100%" in out
    assert [line["family"] for line in json.loads(call("runs", tiny_pair, "--json")[1])] == [
        "ar",
        "mdm",
    ]
    refused(call("runs", tmp_path), "holds no runs")
    refused(call("runs", tmp_path / "nowhere"), "no folder")


def test_study_with_mistakes(call, tmp_path):
    refused(call("study", "--budget", "soon", "--out", tmp_path / "s"), "--budget", "soon", "20min")
    refused(call("study", "--budget", "10s", "--out", tmp_path / "s"), "too small", "120")
    refused(call("study", "--flops", "many", "--out", tmp_path / "s"), "many")
    refused(call("study", tmp_path / "none", "--out", tmp_path / "s"), "none")


def test_counts_are_written_as_in_recipes(call, tiny_pair):
    wrong = call("memorise", tiny_pair / "ar", "--max-tokens", "many")
    refused(wrong, "--max-tokens", "'many' is not a positive number; write for example 100M")

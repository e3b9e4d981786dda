"""Real code of lm-evaluation-harness on local rows: tasks, modes, errors, cut requests."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from functools import partialmethod
from types import SimpleNamespace

import numpy as np
import pytest

from doc_examples import example
from epochal.downstream_tasks.harness_tasks import go_offline_without_hub
from epochal.downstream_tasks.options import DownstreamOptions
from epochal.downstream_tasks.paper_tasks import PAPER_TASKS
from epochal.errors import DataError, EpochalError, UserError
from epochal.results import to_json
from epochal.runs import RunRecord
from local_tasks import ROWS, write_rows
from processes import together

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

import torch  # noqa: E402

from epochal.cli.lm_eval import main as lm_eval_main  # noqa: E402
from epochal.downstream_tasks.downstream import _error_from_draws, downstream  # noqa: E402
from epochal.downstream_tasks.harness_model import HarnessModel  # noqa: E402


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def runs(tiny_pair, tmp_path_factory):
    """Copies, since results are kept in the run's folder."""
    import shutil

    return shutil.copytree(tiny_pair, tmp_path_factory.mktemp("runs") / "pair")


@pytest.fixture(scope="module")
def models(runs):
    return {
        "ar": HarnessModel(str(runs / "ar"), device="cpu"),
        "mc": HarnessModel(str(runs / "mdm"), draws=9, device="cpu"),
        "chain_rule": HarnessModel(str(runs / "mdm"), mode="chain_rule", device="cpu"),
        "nll": HarnessModel(str(runs / "mdm"), mode="nll", draws=9, device="cpu"),
        "generate": HarnessModel(str(runs / "mdm"), mode="generate", device="cpu"),
    }


def instances(*pairs):
    return [SimpleNamespace(args=pair, task_name="t", doc_id=n) for n, pair in enumerate(pairs)]


# --- whole tasks -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_all_nine_tasks_from_local_rows(runs, rows, family):
    earlier = RunRecord(runs / family).folder.downstream_file("sciq", "best", "ar")
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_text('{"task": "sciq", "mode": "ar"}')
    draws = {"mdm": 8}.get(family)
    results = downstream(runs / family, DownstreamOptions(data=rows, draws=draws, device="cpu"))
    assert [result.task for result in results] == list(PAPER_TASKS)
    for result in results:
        accuracy = result.metrics["acc"]
        assert 0 <= accuracy.value <= 1
        assert accuracy.standard_error == 0  # the three rows are the same
        assert result.mode == ("exact" if family == "ar" else "mc")
        assert result.draws == draws
        assert result.documents == 3
        assert result.data == "local"
        assert result.harness.startswith("0.4.")
        assert result.chance == PAPER_TASKS[result.task].chance / 100
        assert set(result.paper) == {"100M", "500M"}
    assert results[-1].metrics["perplexity"].value > 1
    # A result under the earlier name of the mode is replaced, and left alone by other modes.
    assert earlier.exists() == (family == "mdm")
    earlier.unlink(missing_ok=True)
    kept = RunRecord(runs / family).downstream()
    assert sorted(one["task"] for one in kept) == sorted(PAPER_TASKS)
    assert kept == to_json(sorted(results, key=lambda result: f"{result.task}-"))


def test_a_folder_of_own_tasks(runs, tmp_path, monkeypatch):
    """The one of docs/extending.md."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tasks").mkdir()
    (tmp_path / "my_tasks/rows.jsonl").write_text(example("my_tasks/rows.jsonl"))
    cache = f"dataset_kwargs:\n  cache_dir: {tmp_path / 'cache'}\n"
    text = example("my_tasks/mine.yaml").replace("dataset_kwargs:\n", cache)
    (tmp_path / "my_tasks/mine.yaml").write_text(text)
    [result] = downstream(runs / "mdm", DownstreamOptions(tasks="my_tasks", device="cpu", limit=1))
    assert (result.task, result.documents, result.chance, result.paper) == ("mine", 1, None, None)
    assert not list((runs / "mdm" / "downstream").glob("mine*"))  # a part is not kept


def test_modes_give_what_they_can(runs, rows):
    """Lambada: perplexity needs likelihoods, accuracy needs generation."""
    given = {}
    for mode in ("chain_rule", "mc", "generate", "nll"):
        options = DownstreamOptions(tasks="lambada_standard", data=rows, mode=mode, device="cpu")
        [result] = downstream(runs / "mdm", options)
        given[mode] = sorted(result.metrics)
        assert (result.draws is None) == (mode in ("chain_rule", "generate"))
    assert given == {
        "chain_rule": ["acc", "perplexity"],
        "mc": ["acc", "perplexity"],
        "generate": ["acc"],
        "nll": ["perplexity"],
    }
    options = DownstreamOptions(tasks="sciq", data=rows, mode="ar", device="cpu")
    [result] = downstream(runs / "mdm", options)
    assert result.mode == "chain_rule"  # once called ar
    assert result.metrics["acc"].standard_error_draws == 0


def test_the_error_from_the_draws_is_the_chance_that_answers_flip():
    """Two choices that differ by d, each with error s: the right one wins with Φ(d / s√2)."""
    samples, errors, expected = [], {}, 0.0
    for number in range(300):
        gap, error = (number % 7 - 3) * 0.3, 0.5 + number % 3
        pairs = [(f"{number}", "right"), (f"{number}", "wrong")]
        samples.append({"arguments": pairs, "resps": [[(gap, False)], [(0.0, False)]], "target": 0})
        errors |= dict.fromkeys(pairs, error)
        chance = (1 + math.erf(gap / (2 * error))) / 2
        expected += chance * (1 - chance)
    found = _error_from_draws(SimpleNamespace(samples=samples, errors=errors))
    assert found == pytest.approx(math.sqrt(expected) / 300, rel=0.02)
    assert _error_from_draws(SimpleNamespace(samples=samples, errors={})) == 0


# --- the model ---------------------------------------------------------------------------------


def test_ar_likelihoods_are_those_of_the_model(models):
    model = models["ar"].loaded
    pairs = [("The list", " is empty"), ("The ", "value"), ("", "The name"), ("  ", "name")]
    found = models["ar"].loglikelihood(instances(*pairs))
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        before = model.tokenizer.encode(context.rstrip()).tolist()
        ids = model.tokenizer.encode(context + continuation).tolist()
        start = len(before) or 1
        ids = ids if before else [model.tokenizer.end_of_document, *ids]
        logits = model.logits(np.array([ids]))[0, :, : model.tokenizer.vocabulary].double()
        logs = logits.log_softmax(-1)[start - 1 : -1]
        targets = ids[start:]
        expected = sum(float(log[target]) for log, target in zip(logs, targets, strict=True))
        assert value == pytest.approx(expected, rel=1e-4)
        assert greedy == (logs.argmax(-1).tolist() == targets)


def test_modes_of_diffusion_agree_on_one_token(models):
    """A continuation of one token has one mask: any order is left to right."""
    one = models["mc"].loaded.tokenizer
    [ids] = [one.encode(" ")]
    pairs = [("The list of", one.decode([int(ids[0])]))]
    values = {m: models[m].loglikelihood(instances(*pairs))[0] for m in ("mc", "chain_rule", "nll")}
    assert values["mc"][0] == pytest.approx(values["chain_rule"][0], rel=1e-5)
    assert values["nll"][0] == values["mc"][0]
    assert values["mc"][1] == values["chain_rule"][1]
    assert values["nll"][1] is False
    nothing, greedy = models["generate"].loglikelihood(instances(*pairs))[0]
    assert math.isnan(nothing)
    assert greedy == values["mc"][1]


def test_what_does_not_fit_is_cut_at_the_left_and_counted(models):
    """L = 32: AR reads 32 tokens and scores a 33rd, diffusion reads what it scores, too."""
    for name, limit in (("ar", 33), ("mc", 32)):
        model = models[name]
        model.truncated_contexts = model.truncated_continuations = 0
        long, short = "value list name " * 20, " is the end"
        found = model.loglikelihood(instances((long, short), ("A", long), ("A", short)))
        assert all(math.isfinite(value) for value, _ in found)
        assert (model.truncated_contexts, model.truncated_continuations) == (2, 1)
        made = model._request((long, short), 0)
        assert len(made.ids) == limit
        assert made.scored == len(model.loaded.tokenizer.encode(long.rstrip() + " " + short)) - len(
            model.loaded.tokenizer.encode(long.rstrip())
        )
        made = model._request(("A", long), 0)
        assert (len(made.ids), made.scored) == (limit, limit - 1)


def test_rolling_likelihood_is_the_sum_over_windows(models):
    text = "The value of the list is the name of it. " * 8
    for name in ("ar", "chain_rule", "mc"):
        model = models[name]
        [value] = model.loglikelihood_rolling(instances((text,)))
        tokens = len(model.loaded.tokenizer.encode(text))
        assert tokens > 64
        assert 1 < -value / tokens < 12
    ids = models["ar"].loaded.tokenizer.encode("The value is")
    [short] = models["ar"].loglikelihood_rolling(instances(("The value is",)))
    [(whole, _)] = models["ar"].loglikelihood(instances(("", "The value is")))
    assert short == pytest.approx(whole, rel=1e-5)
    assert len(ids) > 2


@pytest.mark.parametrize("name", ["ar", "mc"])
def test_generation_stops_where_it_is_told(models, name):
    model = models[name]
    settings = {"until": ["\n\n"], "max_gen_toks": 12}
    [text] = model.generate_until(instances(("The list", settings)))
    assert "\n\n" not in text
    again = model.generate_until(instances(("The list", settings)))
    assert again == [text]
    assert text
    letter = text[len(text) // 2]
    [cut] = model.generate_until(instances(("The list", {**settings, "until": letter})))
    assert letter not in cut
    assert text.startswith(cut)


def test_choices_share_their_masks_and_companions_change_nothing(models):
    pairs = [("The list of the", " names and values and all the rest of it that is long")] * 2
    same = instances(*pairs)
    same[1].doc_id = 0
    a, b = models["mc"].loglikelihood(same)
    assert a == b
    c, d = models["mc"].loglikelihood(instances(*pairs))
    assert c[0] == pytest.approx(a[0], rel=1e-6)
    assert d[0] != c[0]  # another question, other masks
    assert models["mc"].errors[pairs[0]] > 0


# --- what is refused ---------------------------------------------------------------------------


def test_what_is_refused(runs, rows, tmp_path):
    def refused(message, run="mdm", kind=UserError, **options):
        given = DownstreamOptions(**{"data": rows, "tasks": "sciq", "device": "cpu", **options})
        with pytest.raises(kind, match=message):
            downstream(runs / run, given)

    refused("autoregressive models have exact and nll", "ar", mode="mc")
    refused("masked diffusion models have mc", mode="exact")
    refused("'x' is not one of exact, mc", mode="x")
    refused("draws", "ar", draws=32)
    refused("draws", mode="chain_rule", draws=32)
    refused("pad", "ar", pad=True)
    refused("draws = 3: at least 7", draws=3)
    refused("draws = 0: at least 7", draws=0, data=None)  # before a download is tried
    refused("limit = 0", limit=0)
    refused("no such folder", data=tmp_path / "nothing")
    refused("paper", tasks=" , ")
    refused("holds no task", tasks=str(tmp_path))
    refused("no task 'hellaswga'. Did you mean `hellaswag`", tasks="sciq,hellaswga")
    refused("ranks choices", mode="generate")
    write_rows(tmp_path, tasks=["sciq"])
    path = tmp_path / "sciq" / "test.jsonl"
    path.rename(tmp_path / "sciq" / "other.jsonl")
    refused("sciq needs test.jsonl or validation.jsonl", data=tmp_path, kind=DataError)
    path.write_text('{"question": 1}\n')
    refused("line 1 has no support, distractor1", data=tmp_path, kind=DataError)
    path.write_text("")
    refused("test.jsonl is empty", data=tmp_path, kind=DataError)
    path.write_text("[1\n")
    refused("line 1 is not a JSON object", data=tmp_path, kind=DataError)
    whole = json.dumps(ROWS["sciq/test"])
    path.write_text(f"{whole}\n{whole[:20]}\n")
    refused("cannot read .*sciq", data=tmp_path, kind=DataError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: mine\n  bad: [yaml\n", "a.yaml cannot be read as a task's YAML file"),
        ("task: mine\noutput_type: other\n", "cannot load the task mine of .*'other'"),
    ],
)
def test_tasks_of_ones_own_that_are_broken(runs, tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        downstream(runs / "ar", DownstreamOptions(tasks=str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)


def test_a_download_that_cannot_be(runs, tmp_path, monkeypatch):
    import datasets

    def offline(*given, **more):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    options = DownstreamOptions(tasks="sciq", data=tmp_path, device="cpu")
    with pytest.raises(EpochalError, match=r"download the rows of the task sciq") as caught:
        downstream(runs / "ar", options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_hub_out_of_reach_is_not_tried_for_long(monkeypatch):
    """The libraries then look only for what is there; a hub that answers changes nothing."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # Set first, so that it is taken away at the end.
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        go_offline_without_hub()
        assert "HF_HUB_OFFLINE" not in os.environ
    go_offline_without_hub()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_libraries_are_left_as_they_are(runs, rows, monkeypatch, capsys):
    """Nothing of theirs is patched while tasks are scored, and still their bars are hidden."""
    import datasets
    import tqdm

    def state():
        return tqdm.tqdm.__dict__["__init__"], datasets.config.HF_HUB_OFFLINE

    before, during = state(), []
    score = HarnessModel.loglikelihood

    def watched(self, requests, disable_tqdm=False):
        during.append(state())
        return score(self, requests)

    monkeypatch.setattr(HarnessModel, "loglikelihood", watched)
    options = DownstreamOptions(tasks="lambada_standard", data=rows, device="cpu", limit=1)
    downstream(runs / "ar", options)
    assert during == [before]
    assert "it/s" not in capsys.readouterr().err


def test_slips_are_told_before_torch_is_imported(tiny_pair):
    """A process of its own for each, in which torch and the harness cannot be imported."""
    run = str(tiny_pair / "mdm")
    block = "import sys; sys.modules['torch'] = sys.modules['datasets'] = None; "
    start = block + "from epochal.cli.main import main; main(sys.argv[1:])"
    for words, message in (
        (["eval", run, "--tolerance=-1"], "--tolerance -1.0: give a positive number"),
        (["downstream", run, "--tasks", "sciqq"], "no task 'sciqq'. Did you mean `sciq`"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", start, *words], capture_output=True, text=True, check=False
        )
        assert message in done.stderr
        assert done.returncode == 2


@pytest.mark.slow
def test_a_call_of_the_harness_itself(runs, rows, tmp_path, monkeypatch, capsys):
    """`lm_eval` with `--model epochal`, as its users call it, but for its own thousands of tasks,
    which it would read for half a minute."""
    from lm_eval.tasks import TaskManager

    from epochal.downstream_tasks.harness_tasks import _stock_file, _write_task

    _write_task("sciq", _stock_file("sciq"), rows, tmp_path)
    words = ["epochal-lm-eval", "run", "--model", "epochal"]
    words += ["--model_args", f"run={runs / 'mdm'},draws=8"]
    words += ["--tasks", "sciq", "--include_path", str(tmp_path), "--output_path", str(tmp_path)]
    own_only = partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", own_only)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", words)
    lm_eval_main()
    assert "|sciq|" in capsys.readouterr().out.replace(" ", "")


def test_a_device_that_was_asked_for_is_used_or_refused(runs, monkeypatch):
    """The harness's own default, cuda:0, never gets to the model through epochal-lm-eval."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    run = str(runs / "ar")
    if not torch.cuda.is_available():
        with pytest.raises(EpochalError, match="cuda:0"):
            HarnessModel.create_from_arg_obj({"run": run}, {"device": "cuda:0", "batch_size": 1})
        model = HarnessModel.create_from_arg_obj({"run": run}, {"device": "auto", "batch_size": 1})
        assert model.loaded.machine.device.type == "cpu"
    # Model arguments override the harness's options.
    options = {"device": "cuda:7", "batch_size": 1, "max_batch_size": None}
    one, three = (
        HarnessModel.create_from_arg_string(f"run={run},device=cpu,batch_size={n}", options)
        for n in (1, 3)
    )
    assert three.reader.batch_tokens == 3 * one.reader.batch_tokens


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ("run --model epochal --model_args run=a --tasks sciq", True),
        ("-M epochal -t sciq", True),
        ("run --model=epochal --device cuda:0", False),
        ("run --model epochal --device=cpu", False),
        ("run --model epochal --config a.yaml", False),
        ("run --model hf --tasks sciq", False),
        ("ls tasks", False),
    ],
)
def test_without_a_device_epochal_is_asked_for_any(words, added, monkeypatch):
    seen = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["epochal-lm-eval", *words.split()])
    lm_eval_main()
    assert seen == [words.split() + (["--device", "auto"] if added else [])]


@pytest.mark.slow
def test_two_processes_share_the_questions_and_find_the_same(runs, tmp_path):
    """Two, against a single one: values to rounding, each question once."""
    rows = write_rows(tmp_path / "rows", copies=5, tasks=["sciq", "lambada_standard"])
    names = "sciq,lambada_standard"
    options = DownstreamOptions(tasks=names, data=rows, draws=8, device="cpu")
    alone = downstream(runs / "mdm", options)
    words = ["downstream", str(runs / "mdm"), "--draws", "8", "--json"]
    words += ["--tasks", names, "--data", str(rows), "--device", "cpu"]
    said, _ = together(2, words, tmp_path)
    for one, other in zip(alone, json.loads(said), strict=True):
        assert other["documents"] == one.documents == 5
        for name, score in one.metrics.items():
            assert other["metrics"][name]["value"] == pytest.approx(score.value, rel=1e-4)


def test_rows_are_padded_unless_the_run_knows_short_ones(runs, models, monkeypatch):
    assert models["ar"].reader.pad_to == 0
    assert models["mc"].reader.pad_to == models["mc"].loaded.sequence_length == 32
    assert HarnessModel(str(runs / "mdm"), pad=False, device="cpu").reader.pad_to == 0
    loaded = models["mc"].loaded
    options = dataclasses.replace(loaded.recipe.options, random_length=0.01)
    objectives = {**loaded.recipe.objectives, "mdm": options}
    monkeypatch.setattr(loaded, "recipe", dataclasses.replace(loaded.recipe, objectives=objectives))
    assert HarnessModel(loaded).reader.pad_to == 0

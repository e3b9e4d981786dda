"""Two runs on the same tokens: paired, in parts, and on two processes."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from epochal.cli.main import main
from epochal.errors import CheckpointError, UserError
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.gap import gap
from epochal.evaluation.options import EvalOptions
from epochal.runs import RunRecord
from processes import together


@pytest.fixture
def pair(tiny_pair, tmp_path):
    return [shutil.copytree(tiny_pair / family, tmp_path / family) for family in ("ar", "mdm")]


def test_the_gap_is_the_difference_of_the_figures(pair):
    found = gap(*pair, EvalOptions(draws=3))
    ar, mdm = found.results
    assert found.difference == pytest.approx(ar.nll_nats_per_token - mdm.nll_nats_per_token)
    assert found.standard_error_draws == pytest.approx(mdm.standard_error_draws)
    assert found.standard_error < np.hypot(ar.standard_error, mdm.standard_error)
    assert found.low < found.difference < found.high
    assert 0 <= found.p_value <= 1
    assert RunRecord(pair[1]).evaluation("best").draws == 8  # more than these, so it stays
    back = gap(*pair[::-1], EvalOptions(draws=3))
    assert back.difference == -found.difference
    assert back.p_value == pytest.approx(found.p_value)


def test_checkpoints_share_their_masks(pair):
    """The same checkpoint against itself differs by nothing, whatever the masks."""
    found = gap(pair[1], pair[1], EvalOptions(draws=2))
    assert (found.difference, found.standard_error, found.p_value) == (0, 0, None)


def test_runs_that_cannot_be_paired(pair):
    record = RunRecord(pair[1])
    record.folder.write_info(record.info | {"numbers": record.numbers | {"sequence_length": 16}})
    with pytest.raises(UserError, match=r"sequence length \(32 and 16\).* bits per byte"):
        gap(*pair)


def test_a_checkpoint_by_its_step(pair):
    step = RunRecord(pair[0]).info["best"]["step"]
    assert evaluate(pair[0], EvalOptions(checkpoint=str(step))).step == step
    with pytest.raises(CheckpointError, match=r"no checkpoint '7'; there are: best, last, "):
        evaluate(pair[0], EvalOptions(checkpoint="7"))


def command(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    told = capsys.readouterr()
    return caught.value.code, told.out, told.err


def test_the_command_line(pair, capsys):
    ar, mdm = map(str, pair)
    code, out, _ = command(capsys, "eval", ar, "--against", mdm, "--draws", "2")
    assert code == 0
    assert "at least: the second is an upper bound" in out
    assert "p-value" in out
    code, out, _ = command(capsys, "eval", mdm, "--draws", "2", "--breakdown")
    assert code == 0
    assert "nats/masked token" in out
    assert (pair[1] / "evaluations" / "parts" / "best-stratified.npz").exists()
    assert RunRecord(pair[1]).evaluation("best").draws == 8
    words = ("eval", ar, "--against", mdm, "--draws", "2", "--json")
    for result in json.loads(command(capsys, *words)[1])["results"]:
        assert result["perplexity"] == pytest.approx(np.exp(result["nll_nats_per_token"]))
    code, out, _ = command(capsys, "eval", mdm, "--draws", "2", "--estimator", "paper")
    assert code == 0
    assert re.search(r"tokens, [\d,]+ windows\n", out)
    assert "documents\n" not in out
    code, out, _ = command(capsys, "eval", ar, "--json")
    content = json.loads(out)
    assert content["perplexity"] == pytest.approx(np.exp(content["nll_nats_per_token"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{ar}", "{mdm}"], "2 runs: give one, another with --against, or --ensemble"),
        (["{ar}", "--against", "{mdm}", "--breakdown"], "do not go together"),
        (["{ar}", "--breakdown", "--estimator", "paper"], "--estimator"),
    ],
)
def test_words_that_make_no_sense(pair, capsys, words, message):
    given = [word.format(ar=pair[0], mdm=pair[1]) for word in words]
    code, _, err = command(capsys, "eval", *given)
    assert code == 2
    assert message in err


def test_two_processes_give_the_same_number(pair, tmp_path):
    """As torchrun starts them: gloo, each half of the batches, the first one speaks."""
    recipe = pair[1] / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("[eval]", "[eval]\nbatch = 5"))
    alone = evaluate(pair[1], EvalOptions(draws=2))
    words = ["eval", str(pair[1]), "--draws", "2", "--json"]
    content = json.loads(together(2, words, tmp_path)[0])
    assert content["nll_nats_per_token"] == alone.nll_nats_per_token
    assert content["standard_error"] == alone.standard_error


def test_the_papers_estimator_does_not_pair_families(pair):
    """It scores tokens 1 … L of a window for AR and 0 … L − 1 for diffusion."""
    with pytest.raises(UserError, match="does not score the same tokens"):
        gap(*pair, EvalOptions(estimator="paper"))


def test_a_bound_is_called_one(pair, capsys):
    with pytest.raises(SystemExit) as end:
        main(["eval", str(pair[1]), "--draws", "2"])
    assert end.value.code == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    for name in ("NLL", "bits per byte", "perplexity"):
        assert lines[name].endswith("(upper bound)"), name
